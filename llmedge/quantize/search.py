"""The best variant for a target: a measured plan, held against the best mix of the same size.

What a plan promises is measured tensor by tensor and added up. What it keeps is measured as a
whole, on text that it has not seen; and where a mix of llama.cpp's own keeps more, that is what the
target gets.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmedge.core.errors import ResourceError
from llmedge.gguf.mixes import BASE_MIX, find_mix
from llmedge.gguf.reader import read_header
from llmedge.gguf.tensor_roles import quantizable_tensors
from llmedge.host.memory import require_free_disk
from llmedge.quantize.execute import publish, write
from llmedge.quantize.job import checked_plan, plan_report, prepare
from llmedge.quantize.judge import Judge
from llmedge.quantize.kernels import KERNELS
from llmedge.quantize.plans import Plans, require_possible
from llmedge.quantize.probe import ProbeOptions
from llmedge.quantize.probe_text import draw_probe_text
from llmedge.quantize.sensitivity import measure_sensitivity
from llmedge.quantize.stock import best_stock
from llmedge.runtime.first_load import require_text
from llmedge.store.atomic import work_folder
from llmedge.store.hashes import remembered_hash
from llmedge.store.journal import Journal
from llmedge.store.plan_file import PlanFile, write_plan

if TYPE_CHECKING:
    from pathlib import Path

    from llmedge.core.progress import Progress
    from llmedge.core.settings import Settings
    from llmedge.gguf.mixes import Mix
    from llmedge.measure.calibration import CalibrationOptions
    from llmedge.quantize.job import Job, QuantizeOptions, VariantReport
    from llmedge.quantize.judge import Judgement
    from llmedge.quantize.kernels import Kernels
    from llmedge.quantize.plan import Allocation
    from llmedge.quantize.sensitivity import Sensitivity
    from llmedge.quantize.target import Target
    from llmedge.quantize.working_copy import Measured
    from llmedge.runtime.quantizer import TensorPlan

_FORMAT = 1  # of what is remembered; another number measures again
_MAX_ROUNDS = 4
_NEAR = 0.93  # of the most KL divergence: closer is not worth another file


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """What to look for, and how.

    Attributes:
        target: What the variant must keep to.
        kernels: Where it has to be fast.
        calibration: The kinds of text that count, with their weights.
        quantize: How to quantize; its importance matrix is the plan's, too.
        save_plan: Where to write the plan besides.
    """

    target: Target
    kernels: Kernels
    calibration: CalibrationOptions
    quantize: QuantizeOptions
    save_plan: Path | None = None


@dataclass(frozen=True, slots=True)
class SearchReport:
    """What was found.

    Attributes:
        variant: The file.
        target: What was asked for.
        kernels: Where it is fast.
        predicted_kld: What the plan's measured losses add up to, in nats.
        is_plan: Whether the plan was taken, and not the stock mix; `None` after a dry run.
        plan: The plan on text that it has not seen; `None` after a dry run.
        stock_mix: The best mix of llama.cpp's own that takes no more; `None` where there is none.
        stock: The same of that mix.
        difference: Plan less mix in nats: the mean over chunks, and its interval of 95 %.
        other_bytes: Size of the one of the two that was not taken; `None` where there was one.
        other_bits_per_weight: Its bits per weight.
        is_largest: Whether the target leaves room that no plan with these kernels uses.
        is_stock: Whether plan and mix are the same types; one of them was made and judged.
    """

    variant: VariantReport
    target: str
    kernels: Kernels
    predicted_kld: float
    is_plan: bool | None = None
    plan: Judgement | None = None
    stock_mix: str | None = None
    stock: Judgement | None = None
    difference: tuple[float, float, float] | None = None
    other_bytes: int | None = None
    other_bits_per_weight: float | None = None
    is_largest: bool = False
    is_stock: bool = False


@dataclass(frozen=True, slots=True)
class _Made:
    """A file that was made and not published: what it is, where it lies, how long it took."""

    job: Job
    plan: tuple[TensorPlan, ...]
    path: Path
    quantize_s: float


def search(
    source: Path, files: Measured, options: SearchOptions, settings: Settings, progress: Progress
) -> SearchReport:
    """Make the best variant for a target.

    Args:
        source: The file to quantize.
        files: What it is measured in.
        options: What to look for.
        settings: Where findings are kept.
        progress: Shows every step.

    Raises:
        UsageError: The variant exists, or the target cannot be meant.
        ResourceError: Nothing keeps to the target, or memory or disk are too small.
        IntegrityError: A file is damaged.
        UnsupportedError: The model's weights cannot be changed in memory.
    """
    variant = replace(options.quantize, variant=options.target.label)
    job = prepare(source, find_mix(BASE_MIX), variant, settings)
    # What cannot be is said before minutes are spent on measuring.
    require_text(job.header)
    require_possible(job.header, options.target, options.kernels)
    sensitivity = _measure(files.work, job, options, settings, progress)
    plans = Plans(job, sensitivity, options.kernels)
    plan = plans.best(options.target)
    if variant.dry_run:
        return _planned(_with_types(job, plan), plan, plans, options)
    judge = Judge(files.reference, options.calibration.weights, settings, progress, job.n_threads)
    with work_folder(job.target) as folder:
        plan, made = _make_plan(plan, plans, judge, job, options, folder, progress)
        room = max(plans.room(options.target) or 0, plans.tensor_bytes(plan))
        report = SearchReport(
            plan_report(made.job, made.plan),
            options.target.label,
            options.kernels,
            plan.loss,
            is_plan=True,
            is_largest=_is_largest(plan, plans, options),
        )
        mix = best_stock(
            job.header, room, KERNELS[options.kernels], has_imatrix=job.coverage is not None
        )
        report, made = _against(mix, report, made, job, judge, folder, progress)
        source_sha256 = remembered_hash(source, settings.state_dir, progress)
        report = replace(report, variant=_publish(made, report, options, source_sha256, settings))
    if options.save_plan is not None and report.is_plan:
        write_plan(options.save_plan, _plan_file(report, plan, options))
    return report


def _measure(
    work: Path, job: Job, options: SearchOptions, settings: Settings, progress: Progress
) -> Sensitivity:
    """Measure every tensor, or remember it."""
    header = read_header(work)  # before the hash: what is found is kept under it
    text, weights = draw_probe_text(work, options.calibration)
    imatrix = job.coverage.sha256 if job.coverage else ""
    facts = (_FORMAT, remembered_hash(work, settings.state_dir, progress), imatrix, text)
    key = hashlib.sha256(repr(facts).encode()).hexdigest()[:32]
    journal = Journal(settings.home / "probes" / f"{key}.jsonl")
    probe = ProbeOptions(work, options.quantize.imatrix, text, job.n_threads)
    return measure_sensitivity(
        header, quantizable_tensors(header), probe, weights, journal, progress
    )


def _make_plan(
    plan: Allocation,
    plans: Plans,
    judge: Judge,
    job: Job,
    options: SearchOptions,
    folder: Path,
    progress: Progress,
) -> tuple[Allocation, _Made]:
    """Make the plan's file; where quality is the limit, the smallest that really keeps to it.

    Raises:
        ResourceError: No plan keeps to the target.
    """
    target, label = options.target, f"plan for {options.target.label}"
    if target.kind != "kld":
        return plan, _make(_with_types(job, plan), folder / "plan.gguf", progress, label)
    kept: tuple[Allocation, _Made] | None = None
    tried: list[int] = []
    for number in range(_MAX_ROUNDS):
        if kept is None and number == _MAX_ROUNDS - 1:
            plan = plans.within_loss(0.0)  # the largest: if it does not keep to it, none does
        if plan.n_bytes in tried:
            break
        tried.append(plan.n_bytes)
        made = _make(_with_types(job, plan), folder / f"plan-{number}.gguf", progress, label)
        (judgement,) = judge.judge(made.path)
        is_kept = judgement.mean_kld <= target.value
        if is_kept and (kept is None or plan.n_bytes < kept[0].n_bytes):
            made, kept = (kept[1] if kept else None), (plan, made)
        if made is not None:
            made.path.unlink()
        if is_kept and judgement.mean_kld >= _NEAR * target.value:
            break
        # The sum of losses and what all of them do together differ by a factor: use this one's.
        factor = judgement.mean_kld / plan.loss if plan.loss else 1.0
        plan = plans.within_loss((_NEAR + 1) / 2 * target.value / factor)
    if kept is None:
        raise ResourceError(
            f"no plan with the types of {options.kernels} keeps to a KL divergence of "
            f"{target.value:g} nats",
            "allow more with --max-kld"
            + (", or more types with --kernels generic" if options.kernels != "generic" else ""),
        )
    return kept


def _against(
    mix: Mix | None,
    report: SearchReport,
    made: _Made,
    job: Job,
    judge: Judge,
    folder: Path,
    progress: Progress,
) -> tuple[SearchReport, _Made]:
    """Hold the plan against the mix that it has to beat, and return the better of the two."""
    stock: _Made | None = None
    if mix is not None:
        report = replace(report, stock_mix=mix.name)
        stock_job = replace(job, mix=mix)
        if _types(made.plan) == _types(_plan_of(stock_job)):
            report = replace(report, is_stock=True)
        else:
            stock = _make(stock_job, folder / "stock.gguf", progress, f"{mix.name} to compare")
    if stock is None:
        (of_plan,) = judge.judge(made.path)
        return replace(report, plan=of_plan), made
    of_plan, of_stock = judge.judge(made.path, stock.path)
    is_plan = of_plan.mean_kld < of_stock.mean_kld
    taken, other = (made, stock) if is_plan else (stock, made)
    other_report = plan_report(other.job, other.plan)
    report = replace(
        report,
        plan=of_plan,
        stock=of_stock,
        difference=of_plan.less(of_stock),
        is_plan=is_plan,
        other_bytes=other_report.file_bytes,
        other_bits_per_weight=other_report.bits_per_weight,
    )
    return report, taken


def _is_largest(plan: Allocation, plans: Plans, options: SearchOptions) -> bool:
    return options.target.kind != "kld" and plan.n_bytes == plans.within_loss(0.0).n_bytes


def _plan_of(job: Job) -> tuple[TensorPlan, ...]:
    with job.open_quantizer(job.options.types) as quantizer:
        return checked_plan(job, quantizer)


def _types(plan: tuple[TensorPlan, ...]) -> dict[str, str]:
    return {tensor.name: tensor.target_type for tensor in plan}


def _make(job: Job, path: Path, progress: Progress, label: str) -> _Made:
    with job.open_quantizer(job.options.types) as quantizer:
        plan = checked_plan(job, quantizer)
        require_free_disk(path.parent, plan_report(job, plan).file_bytes)
        quantize_s = write(quantizer, plan, path, job, progress, label=label)
    return _Made(job, plan, path, quantize_s)


def _publish(
    made: _Made,
    report: SearchReport,
    options: SearchOptions,
    source_sha256: str,
    settings: Settings,
) -> VariantReport:
    judgement = report.plan if report.is_plan else report.stock
    facts: dict[str, str | int | float] = {
        "target": report.target,
        "kernels": report.kernels,
        **{f"weight {kind}": weight for kind, weight in options.calibration.weights.items()},
    }
    if judgement is not None:
        facts["mean_kld"] = judgement.mean_kld
    rival = report.stock if report.is_plan else report.plan
    if report.stock_mix is not None and rival is not None:
        facts["rival"] = report.stock_mix if report.is_plan else "plan"
        facts["rival_mean_kld"] = rival.mean_kld
    job = replace(made.job, options=replace(made.job.options, facts=facts))

    def fill(partial: Path) -> float:
        os.replace(made.path, partial)  # noqa: PTH105 - `replacing` renames it once more
        return made.quantize_s

    return publish(job, made.plan, source_sha256, settings, fill)


def _with_types(job: Job, plan: Allocation) -> Job:
    return replace(job, options=replace(job.options, types=plan.types))


def _planned(job: Job, plan: Allocation, plans: Plans, options: SearchOptions) -> SearchReport:
    return SearchReport(
        plan_report(job, _plan_of(job)),
        options.target.label,
        options.kernels,
        plan.loss,
        is_largest=_is_largest(plan, plans, options),
    )


def _plan_file(report: SearchReport, plan: Allocation, options: SearchOptions) -> PlanFile:
    return PlanFile(
        model=report.variant.name,
        architecture=read_header(report.variant.path).architecture,
        base=BASE_MIX,
        types=plan.types,
        target=report.target,
        kernels=report.kernels,
        weights=dict(options.calibration.weights),
        bits_per_weight=report.variant.bits_per_weight,
        predicted_kld=report.predicted_kld,
    )
