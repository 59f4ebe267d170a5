"""`llmedge quantize`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmedge.cli.options import ModelArgument, ShowFlags, ThreadsOption, grouped, model_path
from llmedge.cli.output import Table, make_progress, note, show_results
from llmedge.core.units import format_mb, parse_bytes

if TYPE_CHECKING:
    from llmedge.quantize.execute import QuantizeOptions, VariantReport


@dataclasses.dataclass(frozen=True, slots=True)
class QuantizeFlags:
    """How to quantize."""

    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder; the store by default.", show_default=False),
    ] = None
    threads: ThreadsOption = None
    allow_requantize: Annotated[
        bool, typer.Option("--allow-requantize", help="Accept a source that is quantized already.")
    ] = False
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace variants.")] = False
    max_buffer: Annotated[
        str, typer.Option(help="Memory for the rows of one tensor.", metavar="SIZE")
    ] = "256MiB"
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Plan only, write nothing.")] = False

    def quantize_options(self) -> QuantizeOptions:
        """Return how to quantize."""
        from llmedge.quantize.execute import QuantizeOptions

        return QuantizeOptions(
            output=self.output,
            n_threads=self.threads,
            allow_requantize=self.allow_requantize,
            overwrite=self.overwrite,
            max_buffer_bytes=parse_bytes(self.max_buffer),
            dry_run=self.dry_run,
        )


@grouped
def quantize_command(
    source: ModelArgument,
    type_: Annotated[
        list[str],
        typer.Option("--type", "-t", metavar="MIX", help="Q4_K_M, Q4_0 …; may be repeated."),
    ],
    *,
    flags: QuantizeFlags,
    show: ShowFlags,
) -> None:
    """Make quantized variants of a GGUF file."""
    from llmedge.core.settings import load_settings
    from llmedge.gguf.mixes import find_mix, require_imatrix
    from llmedge.quantize.execute import quantize

    settings, options, progress = load_settings(), flags.quantize_options(), make_progress()
    path = model_path(source)
    mixes = [require_imatrix(find_mix(name), has_imatrix=False) for name in type_]
    reports = [quantize(path, mix, options, settings, progress) for mix in dict.fromkeys(mixes)]
    for report in reports:
        _note_fallbacks(report)
    show_results("quantize", reports, _table(reports), show.chosen)


def _note_fallbacks(report: VariantReport) -> None:
    for group in report.fallbacks:
        note(
            f"{report.mix}: {group.n_tensors} tensors are {group.got} instead of {group.wanted}, "
            f"whose blocks their rows do not fit (such as {group.example})"
        )


def _table(reports: list[VariantReport]) -> Table:
    return Table(
        ("mix", "size>", "bits/weight>", "fallbacks>", "seconds>", "file"),
        [
            (
                report.mix,
                format_mb(report.file_bytes),
                f"{report.bits_per_weight:.2f}",
                f"{report.n_fallbacks} of {report.n_tensors}",
                f"{report.quantize_s:.1f}" if report.sha256 else "planned",
                str(report.path),
            )
            for report in reports
        ],
    )
