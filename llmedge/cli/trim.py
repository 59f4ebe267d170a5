"""`llmedge trim`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmedge.cli.options import ModelArgument, ShowFlags, ThreadsOption, grouped, model_path
from llmedge.cli.output import Table, make_progress, note, show_results
from llmedge.core.units import format_mb, format_mib

if TYPE_CHECKING:
    from llmedge.quantize.trim import Footprint, TrimOptions, TrimReport
    from llmedge.quantize.trim_proof import TextProof


_MAX_SCRIPTS = 15  # of the most tokens; the rest are counted together


@dataclasses.dataclass(frozen=True, slots=True)
class TrimFlags:
    """What to keep, and how."""

    keep_tokens: Annotated[
        Path | None,
        typer.Option(help="Tokens to keep besides: an id or a text a line.", show_default=False),
    ] = None
    text: Annotated[
        list[Path] | None,
        typer.Option(
            help="A UTF-8 text; drop what none of these uses, too. May be repeated.",
            show_default=False,
        ),
    ] = None
    max_dropped: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of the probability that may go, mean over a text."),
    ] = 0.001
    chunks: Annotated[
        int, typer.Option(min=1, help="Most chunks of each held-out text that are compared.")
    ] = 4
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder; the store by default.", show_default=False),
    ] = None
    threads: ThreadsOption = None
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a variant.")] = False
    no_bench: Annotated[bool, typer.Option("--no-bench", help="Do not measure speed.")] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Plan only, write nothing.")] = False

    def trim_options(self, languages: str) -> TrimOptions:
        """Return what to keep, and how."""
        from llmedge.quantize.trim import TrimOptions

        codes = (code.strip() for code in languages.split(","))
        return TrimOptions(
            languages=tuple(dict.fromkeys(code for code in codes if code)),
            keep_tokens=self.keep_tokens,
            texts=tuple(self.text or ()),
            max_dropped=self.max_dropped,
            max_chunks=self.chunks,
            folder=self.output,
            n_threads=self.threads,
            overwrite=self.overwrite,
            dry_run=self.dry_run,
            has_bench=not self.no_bench,
        )


@grouped
def trim_command(
    source: ModelArgument,
    lang: Annotated[str, typer.Option(help="Languages to keep: en,hi.", show_default=False)],
    *,
    flags: TrimFlags,
    show: ShowFlags,
) -> None:
    """Make a variant without the vocabulary of other languages.

    The trimmed model is compared with its original on held-out texts before it gets its name.
    """
    from llmedge.core.settings import load_settings
    from llmedge.quantize.trim import trim

    options, settings = flags.trim_options(lang), load_settings()
    report = trim(model_path(source), options, settings, make_progress())
    _note(report)
    table = _plan_table(report) if flags.dry_run else _table(report)
    show_results("trim", [report], table, show.chosen)


def _note(report: TrimReport) -> None:
    if report.proof is None:
        note(
            f"{report.path.name}: {report.before.n_vocab} to {report.after.n_vocab} tokens, "
            f"{format_mb(report.before.file_bytes)} to {format_mb(report.after.file_bytes)}"
        )
        return
    for text in report.proof.texts:
        note(_text_note(text))
    note(
        f"{report.proof.n_cut_alike} of {report.proof.n_sentences} further texts are cut alike; "
        f"written to {report.path}"
    )


def _text_note(text: TextProof) -> str:
    loss = text.loss
    return (
        f"{text.text}: {text.n_cut_alike} of {text.n_paragraphs} paragraphs are cut alike "
        f"({text.n_tokens_before} tokens before, {text.n_tokens} now); dropped probability "
        f"{loss.mean_dropped:.5%}, at the worst position {loss.max_dropped:.4%}; "
        f"logits of kept tokens differ by at most {loss.max_difference:.3g} "
        f"at {loss.n_compared} positions"
    )


def _plan_table(report: TrimReport) -> Table:
    rows = [(row.script, row.n_kept, row.n_dropped) for row in report.counts]
    rest = rows[_MAX_SCRIPTS:]
    if len(rest) > 1:
        kept = sum(n_kept for _, n_kept, _ in rest)
        dropped = sum(n_dropped for _, _, n_dropped in rest)
        rows[_MAX_SCRIPTS:] = [(f"{len(rest)} others", kept, dropped)]
    return Table(
        ("script", "kept>", "dropped>", "saved>"),
        [
            (script, str(kept), str(dropped), format_mb(dropped * report.row_bytes))
            for script, kept, dropped in rows
        ],
    )


def _table(report: TrimReport) -> Table:
    columns = ("", "tokens>", "file>", "weights>", "kv cache>", "resident>", "tg tokens/s>")
    n_shown = len(columns) if report.after.speed else len(columns) - 2
    rows = [_row("before", report.before), _row("after", report.after)]
    return Table(columns[:n_shown], [row[:n_shown] for row in rows])


def _row(label: str, model: Footprint) -> tuple[str, ...]:
    speed = model.speed
    resident = speed.resident_bytes if speed else None
    return (
        label,
        str(model.n_vocab),
        format_mb(model.file_bytes),
        format_mib(model.weights_bytes),
        "?" if model.kv_cache_bytes is None else format_mib(model.kv_cache_bytes),
        "?" if resident is None else format_mib(resident),
        f"{speed.tg_tokens_per_s:.1f}" if speed else "?",
    )
