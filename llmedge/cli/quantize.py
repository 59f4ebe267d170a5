"""`llmedge quantize`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llmedge.cli.calibration import CalibrationFlags
from llmedge.cli.options import MAX_CTX, ShowFlags, ThreadsOption, grouped
from llmedge.cli.output import Table, make_progress, note, show_results
from llmedge.cli.quantize_notes import note_search, note_variant, shown_types
from llmedge.cli.source import checkpoint_folder, source_path
from llmedge.core.errors import NotFoundError, UsageError
from llmedge.core.units import format_mb, parse_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmedge.quantize.job import QuantizeOptions, VariantReport
    from llmedge.quantize.judge import Judgement
    from llmedge.quantize.search import SearchReport
    from llmedge.quantize.target import Target
    from llmedge.recipe.variants import VariantsOptions

_N_CTX = 4096  # the context that --target-ram counts by default
_TARGETS = "one of --target-size, --target-bpw, --target-ram, --max-kld"


@dataclasses.dataclass(frozen=True, slots=True)
class QuantizeFlags:
    """How to quantize."""

    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File or folder; the store by default.", show_default=False
        ),
    ] = None
    imatrix: Annotated[
        Path | None,
        typer.Option(
            help="Importance matrix (GGUF or .dat) of this model; computed by default.",
            show_default=False,
        ),
    ] = None
    no_imatrix: Annotated[
        bool, typer.Option("--no-imatrix", help="Let every weight count alike.")
    ] = False
    tensor_type: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=TYPE",
            help="Type of single tensors, such as 'blk.*.ffn_down.weight=Q6_K'; may be repeated.",
            show_default=False,
        ),
    ] = None
    keep_intermediate: Annotated[
        bool,
        typer.Option("--keep-intermediate", help="Keep the 16-bit file made from a checkpoint."),
    ] = False
    threads: ThreadsOption = None
    allow_requantize: Annotated[
        bool, typer.Option("--allow-requantize", help="Accept a source that is quantized already.")
    ] = False
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace variants.")] = False
    max_buffer: Annotated[
        str, typer.Option(help="Memory for the rows of one tensor.", metavar="SIZE")
    ] = "256MiB"
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show types and exact sizes, write no variant.")
    ] = False

    def quantize_options(self) -> QuantizeOptions:
        """Return how to quantize."""
        from llmedge.quantize.job import QuantizeOptions

        return QuantizeOptions(
            output=self.output,
            n_threads=self.threads,
            allow_requantize=self.allow_requantize,
            overwrite=self.overwrite,
            max_buffer_bytes=parse_bytes(self.max_buffer),
            dry_run=self.dry_run,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class TargetFlags:
    """What a measured plan must keep to."""

    target_size: Annotated[
        str | None,
        typer.Option(
            help="The most that the file may take, such as 1.9GB or 95MB.",
            metavar="SIZE",
            show_default=False,
        ),
    ] = None
    target_bpw: Annotated[
        float | None,
        typer.Option(help="Most bits per weight over all tensors: 4.5.", show_default=False),
    ] = None
    target_ram: Annotated[
        str | None,
        typer.Option(
            help="Most memory while it runs with --ctx tokens: 3GiB.",
            metavar="SIZE",
            show_default=False,
        ),
    ] = None
    max_kld: Annotated[
        float | None,
        typer.Option(
            help="Most KL divergence in nats; the smallest file. 0.02 is hardly noticed, 0.1 is "
            "usual for 4 bits.",
            show_default=False,
        ),
    ] = None
    plan: Annotated[
        Path | None,
        typer.Option(help="Types that --save-plan wrote, or yours.", show_default=False),
    ] = None
    save_plan: Annotated[
        Path | None, typer.Option(help="Write the measured plan here.", show_default=False)
    ] = None
    kernels: Annotated[
        Literal["arm", "avx2", "hexagon", "generic"] | None,
        typer.Option(help="Use only types that are fast there.", show_default="generic"),
    ] = None
    ctx: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_CTX, help="Tokens of context, for --target-ram.", show_default="4096"
        ),
    ] = None
    type_k: Annotated[
        str | None, typer.Option(help="Type of the keys, for --target-ram.", show_default="f16")
    ] = None
    type_v: Annotated[
        str | None, typer.Option(help="Type of the values, for --target-ram.", show_default="f16")
    ] = None

    def target(self) -> Target | None:
        """Return what was asked for.

        Raises:
            UsageError: More than one thing was, or one that cannot be meant.
        """
        from llmedge.gguf.memory import KvCacheOptions
        from llmedge.quantize.target import require_sensible, target_of

        targets: list[Target] = []
        if self.target_size is not None:
            targets.append(target_of("size", self.target_size))
        if self.target_bpw is not None:
            targets.append(target_of("bpw", str(self.target_bpw)))
        if self.target_ram is not None:
            n_ctx = self.ctx or _N_CTX
            cache = KvCacheOptions(n_ctx, self.type_k or "f16", self.type_v or "f16")
            targets.append(target_of("ram", self.target_ram, cache))
        if self.max_kld is not None:
            targets.append(target_of("kld", str(self.max_kld)))
        if len(targets) + (self.plan is not None) > 1:
            raise UsageError(
                "one target at a time",
                f"give {_TARGETS} or --plan",
            )
        self._require_meant(targets)
        return require_sensible(targets[0]) if targets else None

    def _require_meant(self, targets: Sequence[Target]) -> None:
        """Refuse a flag that changes nothing without a target, or without one of memory."""
        if not targets:
            for flag, value in (("--save-plan", self.save_plan), ("--kernels", self.kernels)):
                if value is not None and self.plan is not None:
                    raise UsageError(
                        f"{flag} does not go with --plan: the plan says the types already",
                        "leave it away",
                    )
                if value is not None:
                    raise UsageError(f"{flag} is for a measured plan", f"add {_TARGETS}")
        if self.target_ram is None:
            memory = (("--ctx", self.ctx), ("--type-k", self.type_k), ("--type-v", self.type_v))
            for flag, value in memory:
                if value is not None:
                    raise UsageError(f"{flag} is for --target-ram", "leave it away")


@grouped
def quantize_command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|FOLDER",
            help="name, name:F16 or ./file.gguf; or a checkpoint's folder.",
            show_default=False,
        ),
    ],
    type_: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            "-t",
            metavar="MIX",
            help="Q4_K_M (the default), Q4_0 …; may be repeated.",
            show_default=False,
        ),
    ] = None,
    *,
    flags: QuantizeFlags,
    target: TargetFlags,
    calibration: CalibrationFlags,
    show: ShowFlags,
) -> None:
    """Make quantized variants, by a mix or for a target.

    A mix gives the same types to the same places of every model. For a target, the harm of rounding
    each tensor is measured, and the types with the least harm that fit are taken.
    """
    from llmedge.core.settings import load_settings
    from llmedge.recipe.variants import make_variants

    options = _options(type_ or [], flags, target, calibration)
    path = _source(source)
    report = make_variants(path, options, load_settings(), make_progress(), note)
    for variant in (*report.variants, *(search.variant for search in report.searches)):
        note_variant(variant)
    for search in report.searches:
        note_search(search)
        if target.save_plan is not None and search.is_plan is not True:
            note(f"{target.save_plan} was not written: no plan was taken")
    results = report.searches or report.variants
    table = _search_table(report.searches) if report.searches else _table(report.variants)
    show_results("quantize", results, table, show.chosen)


def _options(
    mixes: list[str], flags: QuantizeFlags, target: TargetFlags, calibration: CalibrationFlags
) -> VariantsOptions:
    from llmedge.recipe.variants import VariantsOptions

    chosen = target.target()
    if mixes and (chosen is not None or target.plan is not None):
        raise UsageError("a mix and a target exclude each other", "leave -t or the target away")
    if flags.imatrix is not None and flags.no_imatrix:
        raise UsageError("--imatrix and --no-imatrix exclude each other", "leave one away")
    has_own = flags.no_imatrix or flags.imatrix is not None
    if calibration.lang is not None and has_own and chosen is None:
        raise UsageError(
            "--lang says what an importance matrix is computed on, and none is computed",
            "leave --lang away, or --no-imatrix and --imatrix",
        )
    if flags.tensor_type and (chosen is not None or target.plan is not None):
        raise UsageError(
            "--tensor-type goes with a mix", "edit the plan instead: --save-plan, then --plan"
        )
    is_one_file = flags.output is not None and flags.output.suffix.lower() == ".gguf"
    if is_one_file and len({name.upper() for name in mixes}) > 1:
        raise UsageError(f"{flags.output} is one file for {len(mixes)} mixes", "name a folder")
    return VariantsOptions(
        calibration=calibration.calibration_options(),
        mixes=tuple(mixes),
        target=chosen,
        plan=target.plan,
        kernels=target.kernels or "generic",
        imatrix=flags.imatrix,
        wants_imatrix=not flags.no_imatrix,
        tensor_types=tuple(flags.tensor_type or ()),
        save_plan=target.save_plan,
        keep_intermediate=flags.keep_intermediate,
        quantize=flags.quantize_options(),
    )


def _table(reports: tuple[VariantReport, ...]) -> Table:
    return Table(
        ("variant", "size>", "bits/weight>", "tensors", "fallbacks>", "seconds>", "file"),
        [
            (
                report.variant,
                format_mb(report.file_bytes),
                f"{report.bits_per_weight:.2f}",
                shown_types(report),
                f"{report.n_fallbacks} of {report.n_tensors}",
                f"{report.quantize_s:.1f}" if report.sha256 else "planned",
                str(report.path),
            )
            for report in reports
        ],
    )


def _search_table(reports: tuple[SearchReport, ...]) -> Table:
    columns = "what size> bits/weight> KLD> top-1> tensors file"
    rows: list[tuple[str, ...]] = []
    for report in reports:
        variant = report.variant
        kept = report.plan if report.is_plan is not False else report.stock
        rows.append(
            (
                f"{report.target} {'plan' if report.is_plan is not False else report.stock_mix}",
                format_mb(variant.file_bytes),
                f"{variant.bits_per_weight:.2f}",
                *_measured(kept, f"~{report.predicted_kld:.4f}"),
                shown_types(variant),
                str(variant.path),
            )
        )
        other = report.stock if report.is_plan else report.plan
        if report.stock is not None and other is not None:
            name = report.stock_mix if report.is_plan else "plan"
            n_bytes, bits = report.other_bytes or 0, report.other_bits_per_weight or 0.0
            rows.append(
                (
                    f"{name}, for comparison",
                    format_mb(n_bytes),
                    f"{bits:.2f}",
                    *_measured(other, ""),
                    "",
                    "",
                )
            )
    return Table(tuple(columns.split()), rows)


def _measured(judgement: Judgement | None, predicted: str) -> tuple[str, str]:
    if judgement is None:
        return predicted, ""
    return f"{judgement.mean_kld:.4f}", f"{judgement.top1_agreement:.1%}"


def _source(source: str) -> Path:
    try:
        folder = checkpoint_folder(source)
    except NotFoundError:  # not pulled; perhaps something was made from it
        folder = None
    return folder or source_path(source)
