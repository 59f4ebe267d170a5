"""`llmedge imatrix`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmedge.cli.calibration import CalibrationFlags
from llmedge.cli.options import ShowFlags, ThreadsOption, grouped
from llmedge.cli.output import Table, make_progress, note, show_results
from llmedge.cli.source import source_path
from llmedge.core.errors import UsageError

if TYPE_CHECKING:
    from llmedge.quantize.imatrix import ImatrixReport, TensorCoverage

# A few are named, the rest counted: a mixture of experts may have thousands.
_MAX_NAMED = 8


@dataclasses.dataclass(frozen=True, slots=True)
class ImatrixFlags:
    """What to do with it."""

    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File; the cache alone by default.", show_default=False
        ),
    ] = None
    merge: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Importance matrix of the same model to add; may be repeated.",
            show_default=False,
        ),
    ] = None
    threads: ThreadsOption = None
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False
    tensors: Annotated[
        bool, typer.Option("--show", help="Show every tensor with the tokens that it saw.")
    ] = False


@grouped
def imatrix_command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|FILE",
            help="name, name:F16 or ./file.gguf; or an importance matrix to show.",
            show_default=False,
        ),
    ],
    *,
    flags: ImatrixFlags,
    calibration: CalibrationFlags,
    show: ShowFlags,
) -> None:
    """Compute a model's importance matrix, or show one."""
    report = _report(source, flags, calibration)
    for text in (*report.notes, *_missed(report)):
        note(text)
    table = _tensor_table(report) if flags.tensors else _table(report)
    show_results("imatrix", [report], table, show.chosen)


def _report(source: str, flags: ImatrixFlags, calibration: CalibrationFlags) -> ImatrixReport:
    from llmedge.gguf.imatrix_file import is_imatrix
    from llmedge.quantize.imatrix import copy_imatrix, describe_imatrix, join_imatrices
    from llmedge.store.atomic import require_new

    if flags.merge and flags.output is None:
        raise UsageError("--merge needs a file to write", "add -o joined.gguf")
    path = Path(source)
    is_model = not (path.is_file() and is_imatrix(path))
    model = source_path(source) if is_model else None
    if flags.output is not None:
        texts = [Path(text) for text in calibration.calibration or []]
        others = [*texts, *([model] if model else [])]
        require_new(flags.output, overwrite=flags.overwrite, others=others)
    report = _collect(model, flags, calibration) if model else describe_imatrix(path)
    if flags.output is None:
        return report
    if flags.merge:
        joined = join_imatrices([report.path, *flags.merge], flags.output)
        return dataclasses.replace(joined, missing=report.missing, notes=report.notes)
    copy_imatrix(report, flags.output)
    return dataclasses.replace(report, path=flags.output)


def _collect(model: Path, flags: ImatrixFlags, calibration: CalibrationFlags) -> ImatrixReport:
    from llmedge.core.settings import load_settings
    from llmedge.quantize.imatrix import ImatrixOptions, collect_imatrix

    options = ImatrixOptions(calibration.calibration_options(), flags.threads)
    return collect_imatrix(model, options, load_settings(), make_progress())


def _missed(report: ImatrixReport) -> list[str]:
    """Say what no token reached: those columns are quantized as if all counted alike."""
    holes = [tensor for tensor in report.coverage if tensor.missed]
    lines = [f"{tensor.name}: no token reached {_experts(tensor)}" for tensor in holes[:_MAX_NAMED]]
    if len(holes) > _MAX_NAMED:
        lines.append(f"… and experts of {len(holes) - _MAX_NAMED} more tensors: see --show")
    if report.missing:
        named = ", ".join(report.missing[:_MAX_NAMED])
        more = len(report.missing) - _MAX_NAMED
        lines.append(f"used by no product: {named}{f' and {more} more' if more > 0 else ''}")
    return lines


def _experts(tensor: TensorCoverage) -> str:
    if not tensor.n_hit:
        return "it"
    numbers = ", ".join(map(str, tensor.missed[:_MAX_NAMED]))
    more = len(tensor.missed) - _MAX_NAMED
    return f"experts {numbers}{f' and {more} more' if more > 0 else ''} of {tensor.n_matrices}"


def _table(report: ImatrixReport) -> Table:
    whole = sum(not tensor.missed for tensor in report.coverage)
    shares = ", ".join(f"{kind} {n_tokens}" for kind, n_tokens in report.shares.items())
    chunks = f"{report.n_chunks} chunks"
    rows = [
        ("text", shares or ", ".join(report.datasets) or "not said"),
        ("tokens", f"{report.n_tokens} in {chunks}" if report.n_tokens else f"not said; {chunks}"),
        ("tensors", f"{len(report.coverage)}, {whole} of them reached whole"),
        *([("computed", _computed(report))] if report.shares else []),
        ("file", str(report.path)),
    ]
    return Table(("what", "value"), rows)


def _computed(report: ImatrixReport) -> str:
    if report.was_cached:
        return "before"
    resumed = f", going on after {report.n_resumed} chunks" if report.n_resumed else ""
    return f"in {report.collect_s:.1f} s{resumed}"


def _tensor_table(report: ImatrixReport) -> Table:
    unit = "tokens" if report.n_tokens else "chunks"
    return Table(
        ("tensor", "matrices>", "reached>", f"fewest {unit}>", f"most {unit}>"),
        [
            (
                tensor.name,
                str(tensor.n_matrices),
                str(tensor.n_hit),
                str(tensor.min_count),
                str(tensor.max_count),
            )
            for tensor in report.coverage
        ],
    )
