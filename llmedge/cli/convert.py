"""`llmedge convert`."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmedge.cli.options import ShowFlags, ThreadsOption, grouped
from llmedge.cli.output import Table, make_progress, note, show_results
from llmedge.cli.source import checkpoint_folder
from llmedge.core.errors import UsageError
from llmedge.core.units import format_mb, format_mib, parse_bytes

if TYPE_CHECKING:
    from llmedge.convert.report import ConversionReport, ConvertOptions


@dataclasses.dataclass(frozen=True, slots=True)
class ConvertFlags:
    """How to convert."""

    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File or folder; the store by default.", show_default=False
        ),
    ] = None
    imatrix: Annotated[
        Path | None,
        typer.Option(help="Importance matrix (GGUF or .dat) of this model.", show_default=False),
    ] = None
    threads: ThreadsOption = None
    memory: Annotated[str, typer.Option(help="Memory to keep within.", metavar="SIZE")] = "200MiB"
    split_max_size: Annotated[
        str | None,
        typer.Option(help="Write parts of at most this size.", metavar="SIZE", show_default=False),
    ] = None
    compat: Annotated[
        bool,
        typer.Option("--compat", help="Write the tokenizer as llama.cpp before May 2026 knows it."),
    ] = False
    allow_tokenizer_mismatch: Annotated[
        bool,
        typer.Option(
            "--allow-tokenizer-mismatch", help="Accept a tokenizer that llama.cpp gets wrong."
        ),
    ] = False
    adapter: Annotated[
        Path | None,
        typer.Option(help="Folder of a PEFT LoRA adapter to merge.", show_default=False),
    ] = None
    adapter_only: Annotated[
        bool, typer.Option("--adapter-only", help="Write the adapter alone, for FOLDER's model.")
    ] = False
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Compare with the original in transformers afterwards."),
    ] = False
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False
    resume: Annotated[
        bool, typer.Option(help="Go on with what a killed conversion left behind.")
    ] = True
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Plan only, write nothing.")] = False
    remote: Annotated[
        bool,
        typer.Option(
            "--remote", help="Read ORG/NAME's weights from the Hub in pieces, and keep none."
        ),
    ] = False
    list_architectures: Annotated[
        bool, typer.Option("--list-architectures", help="Show the classes that convert.")
    ] = False

    def convert_options(self, mix: str) -> ConvertOptions:
        """Return how to convert."""
        from llmedge.convert.report import ConvertOptions
        from llmedge.convert.tokenizer import TokenizerOptions
        from llmedge.gguf.mixes import find_mix

        return ConvertOptions(
            mix=find_mix(mix),
            output=self.output,
            n_threads=self.threads,
            imatrix=self.imatrix,
            memory_bytes=parse_bytes(self.memory),
            split_bytes=parse_bytes(self.split_max_size) if self.split_max_size else None,
            overwrite=self.overwrite,
            resume=self.resume,
            adapter=self.adapter,
            tokenizer=TokenizerOptions(
                compat=self.compat, allow_mismatch=self.allow_tokenizer_mismatch
            ),
        )


@grouped
def convert_command(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="CHECKPOINT", help="Its folder, or ORG/NAME as pulled.", show_default=False
        ),
    ] = None,
    type_: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            "-t",
            metavar="MIX",
            help="BF16, Q8_0, Q4_K_M …; Q4_K_M by default; may be repeated.",
            show_default=False,
        ),
    ] = None,
    *,
    flags: ConvertFlags,
    show: ShowFlags,
) -> None:
    """Make a GGUF variant straight from a checkpoint, in one pass."""
    mixes = list(dict.fromkeys(type_ or ["Q4_K_M"]))
    if source is not None and not flags.remote:
        source = checkpoint_folder(source.as_posix()) or source
    if flags.list_architectures:
        _list_architectures(show)
    elif source is None:
        raise UsageError("a checkpoint's folder is missing", "llmedge convert FOLDER -t Q4_K_M")
    elif flags.remote and (flags.verify or flags.adapter_only):
        raise UsageError("--remote keeps no weights for --verify and --adapter-only", "pull first")
    elif flags.adapter_only:
        _convert_adapter(source, mixes, flags, show)
    else:
        reports = [_convert(source, flags, mix) for mix in mixes]
        table = _plan_table(reports) if flags.dry_run else _table(reports)
        show_results("convert", reports, table, show.chosen)
        _judge(reports)


def _convert(source: Path, flags: ConvertFlags, mix: str) -> ConversionReport:
    from llmedge.cli.pull import remote_checkpoint
    from llmedge.convert.pipeline import convert, open_checkpoint, plan, with_estimate
    from llmedge.convert.verify import require_verifiable
    from llmedge.core.settings import load_settings

    options, progress = flags.convert_options(mix), make_progress()
    settings = load_settings()
    with contextlib.ExitStack() as stack:
        if flags.remote:
            source, checkpoint = stack.enter_context(remote_checkpoint(source.as_posix(), settings))
        else:
            checkpoint = stack.enter_context(open_checkpoint(source))
        conversion = plan(source, checkpoint, options, settings, progress)
        planned = conversion.report
        if flags.verify:
            require_verifiable(
                planned.n_weights,
                is_encoder=planned.is_encoder,
                has_adapter=flags.adapter is not None,
            )
        report = with_estimate(conversion) if flags.dry_run else convert(conversion, progress)
    _note(report)
    return _verified(source, report, flags) if flags.verify and not flags.dry_run else report


def _convert_adapter(source: Path, mixes: list[str], flags: ConvertFlags, show: ShowFlags) -> None:
    from llmedge.convert.adapter_file import convert_adapter
    from llmedge.gguf.mixes import find_mix

    if flags.adapter is None or flags.output is None or len(mixes) != 1:
        raise UsageError(
            "--adapter-only needs --adapter, -o and one -t",
            "llmedge convert BASE --adapter DIR --adapter-only -t F16 -o lora.gguf",
        )
    if flags.dry_run or flags.verify or flags.imatrix or flags.split_max_size or flags.compat:
        raise UsageError(
            "--adapter-only goes with none of --dry-run, --verify, --imatrix, --split-max-size "
            "and --compat"
        )
    output = flags.output
    if output.is_dir():
        output = output / f"{flags.adapter.resolve().name}.gguf"
    report = convert_adapter(
        source, flags.adapter, output, find_mix(mixes[0]), overwrite=flags.overwrite
    )
    table = Table(
        ("architecture", "matrices>", "size>", "file"),
        [
            (
                report.architecture,
                str(report.n_matrices),
                format_mb(report.file_bytes),
                str(report.path),
            )
        ],
    )
    show_results("convert.adapter", [report], table, show.chosen)


def _verified(source: Path, report: ConversionReport, flags: ConvertFlags) -> ConversionReport:
    from llmedge.convert.verify import verify
    from llmedge.core.settings import load_settings
    from llmedge.host.cpu import choose_threads

    n_threads = choose_threads(flags.threads, load_settings().threads)
    note(f"verifying {report.path.name} against transformers …")
    verification = verify(source, report.path, n_threads)
    note(
        f"verified against transformers ({verification.dtype}): KL divergence "
        f"{verification.kl:.5f}, equal predictions {verification.argmax:.1%} "
        f"of {verification.n_tokens} tokens"
    )
    return dataclasses.replace(report, verification=verification)


def _judge(reports: list[ConversionReport]) -> None:
    from llmedge.convert.verify import require_agreement

    for report in reports:
        if report.verification is not None:
            require_agreement(report.verification)


def _list_architectures(show: ShowFlags) -> None:
    from llmedge.convert.registry import list_classes

    rows = list_classes()
    table = Table(
        ("class", "family", "llama.cpp", "argmax>", "KL>", "cosine>", "relative>"),
        [
            (
                row.model_class,
                row.family,
                row.architecture,
                f"{row.argmax:.0%}",
                f"{row.kl:.1e}",
                f"{row.cosine:.7f}",
                f"{row.relative:.1e}",
            )
            for row in rows
        ],
    )
    show_results("convert.architectures", rows, table, show.chosen)
    note(f"{len(rows)} classes")


def _note(report: ConversionReport) -> None:
    for group in report.fallbacks:
        note(
            f"{group.n_tensors} tensors are {group.got} instead of {group.wanted}, "
            f"whose blocks their rows do not fit (such as {group.example})"
        )
    for text in (*report.notes, *report.tokenizer.notes):
        note(text)
    if report.n_resumed:
        note(f"went on after {report.n_resumed} tensors of an earlier run")


def _table(reports: list[ConversionReport]) -> Table:
    return Table(
        ("mix", "size>", "bits/weight>", "tokenizer", "seconds>", "file"),
        [
            (
                report.mix,
                format_mb(report.file_bytes),
                f"{report.bits_per_weight:.2f}",
                _tokenizer(report),
                f"{report.convert_s:.1f}",
                str(report.path),
            )
            for report in reports
        ],
    )


def _plan_table(reports: list[ConversionReport]) -> Table:
    return Table(("what", "value"), [row for report in reports for row in _plan_rows(report)])


def _plan_rows(report: ConversionReport) -> list[tuple[str, str]]:
    types = ", ".join(f"{share.n_tensors} {share.quant_type}" for share in report.types)
    seconds = "under 1 s" if report.estimated_s < 1 else f"about {report.estimated_s:.0f} s"
    has_template = report.tokenizer.chat_template
    template = "yes" if has_template else "none: chat needs a model with one"
    return [
        ("class", f"{report.model_class} → {report.architecture}"),
        ("weights", f"{report.n_weights / 1e6:,.0f} million"),
        ("context", f"{report.n_ctx} tokens" if report.n_ctx else "any"),
        ("tokenizer", _tokenizer(report)),
        ("chat template", "embedding model" if report.is_encoder else template),
        ("mix", report.mix),
        ("tensors", types),
        ("bits/weight", f"{report.bits_per_weight:.2f}"),
        ("file", str(report.path)),
        ("size, disk needed", f"{format_mb(report.file_bytes)} ({report.file_bytes} bytes)"),
        ("files", str(report.n_parts)),
        ("peak memory", format_mib(report.memory_bytes)),
        ("quantizing", f"{seconds} here; reading and writing come on top"),
    ]


def _tokenizer(report: ConversionReport) -> str:
    tokenizer = report.tokenizer
    wrong = sum(result.n_mismatches for result in tokenizer.results)
    checked = sum(result.n_texts for result in tokenizer.results)
    pre = f"/{tokenizer.pre}" if tokenizer.pre else ""
    return f"{tokenizer.model}{pre}, {checked - wrong} of {checked} texts alike"
