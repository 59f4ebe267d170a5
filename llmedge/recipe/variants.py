"""Variants of a model, from a GGUF file or a checkpoint: converted, calibrated and quantized.

What converts and measures is imported where a run needs it: with numpy and jinja2 behind it, it
would hold memory beside the quantizer all the while.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from llmedge.gguf.mixes import BASE_MIX, find_mix, require_imatrix, uses_imatrix
from llmedge.gguf.reader import read_header
from llmedge.gguf.tensor_roles import quantizable_tensors
from llmedge.quantize.execute import quantize
from llmedge.quantize.job import (
    QuantizeOptions,
    VariantReport,
    require_takes_types,
    require_target,
    require_unquantized,
)
from llmedge.quantize.overrides import expand_types
from llmedge.quantize.stock import stock_types
from llmedge.quantize.trained_types import trained_type, trained_types
from llmedge.runtime.model import require_whole_model
from llmedge.store.atomic import require_new
from llmedge.store.hf_cache import hub_origin
from llmedge.store.manifest import sidecar_path
from llmedge.store.plan_file import read_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping
    from pathlib import Path

    from llmedge.core.progress import Progress
    from llmedge.core.settings import Settings
    from llmedge.gguf.mixes import Mix
    from llmedge.gguf.reader import Header
    from llmedge.measure.calibration import CalibrationOptions
    from llmedge.quantize.kernels import Kernels
    from llmedge.quantize.search import SearchReport
    from llmedge.quantize.target import Target

COST_OF_NONE = (
    "without an importance matrix every weight counts alike; what that costs is in docs/quantize.md"
)


@dataclass(frozen=True, slots=True)
class VariantsOptions:
    """What to make.

    Attributes:
        mixes: Mixes by name; empty for a target or a plan.
        target: What a measured plan must keep to.
        plan: A plan that was made before.
        kernels: Where a plan has to be fast.
        calibration: The text of the importance matrix and of measured plans.
        imatrix: An importance matrix that is there already.
        wants_imatrix: Whether to compute one where it is of use.
        tensor_types: Quant types of single tensors, `NAME=TYPE`.
        save_plan: Where to write a measured plan.
        keep_intermediate: Whether the 16-bit file made from a checkpoint is kept.
        quantize: The rest.
    """

    calibration: CalibrationOptions
    mixes: tuple[str, ...] = ()
    target: Target | None = None
    plan: Path | None = None
    kernels: Kernels = "generic"
    imatrix: Path | None = None
    wants_imatrix: bool = True
    tensor_types: tuple[str, ...] = ()
    save_plan: Path | None = None
    keep_intermediate: bool = False
    quantize: QuantizeOptions = field(default_factory=QuantizeOptions)


@dataclass(frozen=True, slots=True)
class VariantsReport:
    """What was made.

    Attributes:
        variants: Of mixes and plans that were given.
        searches: Of targets.
    """

    variants: tuple[VariantReport, ...] = ()
    searches: tuple[SearchReport, ...] = ()


def make_variants(
    source: Path,
    options: VariantsOptions,
    settings: Settings,
    progress: Progress,
    tell: Callable[[str], None],
) -> VariantsReport:
    """Make variants of one source.

    Args:
        source: A GGUF file, or a checkpoint's folder.
        options: What to make.
        settings: Where the store is.
        progress: Shows each step.
        tell: Takes what a user should know.

    Raises:
        LlmedgeError: Whatever converting, calibrating or quantizing raises.
    """
    if source.is_dir() and options.quantize.name is None:
        from llmedge.recipe.intermediate import checkpoint_model

        model, origin = checkpoint_model(source), hub_origin(source)
        named = replace(options.quantize, name=model, origin=origin)
        options = replace(options, quantize=named)
    # What is there already is said before minutes are spent on converting and measuring.
    _require_targets(source, _labels(options), options, settings)
    with _as_gguf(source, options, settings, progress, tell) as (path, can_requantize):
        header = read_header(path)
        require_whole_model(header)
        quantize_options = replace(
            options.quantize,
            allow_requantize=options.quantize.allow_requantize or can_requantize,
            stamp=header.stamp,
        )
        options = replace(options, quantize=quantize_options)
        if options.target is not None:
            return VariantsReport(searches=(_search(path, options, settings, progress, tell),))
        if options.plan is not None:
            return VariantsReport(variants=(_planned(path, options, settings, progress, tell),))
        return VariantsReport(variants=_mixes(path, options, settings, progress, tell))


@contextlib.contextmanager
def _as_gguf(
    source: Path,
    options: VariantsOptions,
    settings: Settings,
    progress: Progress,
    tell: Callable[[str], None],
) -> Generator[tuple[Path, bool]]:
    """Give the GGUF file of a source, and whether quantizing it again is known to be harmless."""
    if not source.is_dir():
        yield source, False
        return
    from llmedge.recipe.intermediate import converted

    is_kept = options.keep_intermediate
    with converted(source, options.quantize, settings, progress, tell, is_kept=is_kept) as made:
        yield made


def _labels(options: VariantsOptions) -> list[str]:
    """Return what the variants will be called, as far as that is known."""
    if options.target is not None:
        return [options.target.label]
    return [] if options.plan is not None else [find_mix(name).name for name in options.mixes]


def _require_targets(
    source: Path, labels: Iterable[str], options: VariantsOptions, settings: Settings
) -> None:
    """Make sure that no file of this run takes the place of another."""
    given = (source, options.imatrix, options.plan, *options.calibration.files)
    used = [path for path in given if path is not None]
    for label in dict.fromkeys(labels):
        target = require_target(source, label, options.quantize, settings)
        require_new(target, overwrite=True, others=used)
        used += [target, sidecar_path(target)]
    if options.save_plan is not None:
        overwrite = options.quantize.overwrite
        require_new(options.save_plan, overwrite=overwrite, others=used)


def _search(
    path: Path,
    options: VariantsOptions,
    settings: Settings,
    progress: Progress,
    tell: Callable[[str], None],
) -> SearchReport:
    from llmedge.quantize.judge import judged_kinds
    from llmedge.quantize.plans import require_possible
    from llmedge.quantize.search import SearchOptions, search
    from llmedge.quantize.working_copy import measured_in

    assert options.target is not None
    header = read_header(path)
    if not options.quantize.allow_requantize:
        require_unquantized(header, {tensor.name: "" for tensor in quantizable_tensors(header)})
    require_possible(header, options.target, options.kernels)
    trained = trained_type(header)
    if trained is not None:
        tell(f"{path.name} was trained for {trained}: -t {trained} is what it is best in")
    with measured_in(path, options.quantize, settings, progress) as files:
        imatrix = _imatrix(files.work, options, settings, progress, tell)
        quantize_options = replace(options.quantize, imatrix=imatrix)
        if not judged_kinds(header, options.calibration.weights):
            tell("plan and mix are judged on English: your text has nothing held out; see --lang")
        search_options = SearchOptions(
            options.target,
            options.kernels,
            options.calibration,
            quantize_options,
            options.save_plan,
        )
        return search(path, files, search_options, settings, progress)


def _planned(
    path: Path,
    options: VariantsOptions,
    settings: Settings,
    progress: Progress,
    tell: Callable[[str], None],
) -> VariantReport:
    assert options.plan is not None
    header = read_header(path)
    plan = read_plan(options.plan, header)
    _require_targets(path, [plan.target], options, settings)
    base = find_mix(plan.base)
    require_takes_types(base, plan.types)
    tensors = quantizable_tensors(header)
    others = [tensor.name for tensor in tensors if tensor.name not in plan.types]
    if others:
        tell(
            f"{options.plan} does not name {len(others)} of {len(tensors)} tensors (such as "
            f"{others[0]}): they get what {base.name} gives them"
        )
    _require_unquantized(header, find_mix(plan.base), plan.types, options)
    expects = options.quantize.dry_run and options.wants_imatrix and options.imatrix is None
    imatrix = None if expects else _imatrix(path, options, settings, progress, tell)
    quantize_options = replace(
        options.quantize,
        types=plan.types,
        variant=plan.target,
        imatrix=imatrix,
        expects_imatrix=expects,
    )
    return quantize(path, base, quantize_options, settings, progress)


def _mixes(
    path: Path,
    options: VariantsOptions,
    settings: Settings,
    progress: Progress,
    tell: Callable[[str], None],
) -> tuple[VariantReport, ...]:
    header = read_header(path)
    trained = trained_type(header)
    names = options.mixes or (trained or BASE_MIX,)
    types = expand_types(options.tensor_types, header)
    mixes = list(dict.fromkeys(find_mix(name) for name in names))
    for mix in mixes:
        require_takes_types(mix, types)
    ordinary = [mix for mix in mixes if mix.name != trained]
    for mix in ordinary:
        _require_unquantized(header, mix, types, options)
    expects = options.quantize.dry_run and options.wants_imatrix and options.imatrix is None
    imatrix = options.imatrix
    if not expects and any(uses_imatrix(mix, types.values()) for mix in ordinary):
        for mix in ordinary:
            require_imatrix(mix, has_imatrix=options.wants_imatrix or imatrix is not None)
        imatrix = _imatrix(path, options, settings, progress, tell)
    reports: list[VariantReport] = []
    for mix in mixes:
        if mix.name == trained:
            tell(f"{path.name} was trained for {trained}: pure {trained}, the embedding in 6 bits")
            chosen = replace(
                options.quantize, types=trained_types(header) | types, is_pure=True, imatrix=None
            )
        else:
            chosen = replace(
                options.quantize, types=types, imatrix=imatrix, expects_imatrix=expects
            )
        reports.append(quantize(path, mix, chosen, settings, progress))
    return tuple(reports)


def _require_unquantized(
    header: Header, mix: Mix, types: Mapping[str, str], options: VariantsOptions
) -> None:
    """Refuse a quantized source before minutes are spent on its importance matrix."""
    if not options.quantize.allow_requantize and not options.quantize.dry_run:
        has_imatrix = options.wants_imatrix or options.imatrix is not None
        require_unquantized(header, {**stock_types(header, mix, has_imatrix=has_imatrix), **types})


def _imatrix(
    path: Path,
    options: VariantsOptions,
    settings: Settings,
    progress: Progress,
    tell: Callable[[str], None],
) -> Path | None:
    """Return the importance matrix to use: the user's, or one that is computed or remembered."""
    if options.imatrix is not None:
        return options.imatrix
    if not options.wants_imatrix:
        tell(COST_OF_NONE)
        return None
    from llmedge.quantize.imatrix import ImatrixOptions, collect_imatrix

    imatrix_options = ImatrixOptions(options.calibration, options.quantize.n_threads)
    report = collect_imatrix(path, imatrix_options, settings, progress)
    shares = ", ".join(f"{kind} {n_tokens}" for kind, n_tokens in report.shares.items())
    when = "computed before" if report.was_cached else "computed"
    tell(f"importance matrix, {when} on {report.n_tokens} tokens: {shares}")
    for text in report.notes:
        tell(text)
    return report.path
