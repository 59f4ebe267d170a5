"""One GGUF file into one variant: planned, checked against the disk, written aside, verified."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import llmedge
from llmedge.core.errors import IntegrityError, LlmedgeError
from llmedge.gguf.reader import read_header
from llmedge.host.memory import require_free_disk
from llmedge.quantize.job import (
    Job,
    QuantizeOptions,
    VariantReport,
    checked_plan,
    file_bytes,
    plan_report,
    prepare,
    require_unquantized,
)
from llmedge.runtime.library import library_info
from llmedge.store.atomic import make_folder, replacing
from llmedge.store.hashes import remembered_hash
from llmedge.store.hf_cache import hub_origin
from llmedge.store.manifest import (
    SIDECAR_BYTES,
    Manifest,
    Source,
    hash_file,
    read_manifest,
    sidecar_path,
    write_manifest,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llmedge.core.progress import Progress
    from llmedge.core.settings import Settings
    from llmedge.gguf.mixes import Mix
    from llmedge.runtime.quantizer import Quantizer, TensorPlan


def quantize(
    source: Path, mix: Mix, options: QuantizeOptions, settings: Settings, progress: Progress
) -> VariantReport:
    """Make one variant.

    The variant appears under its name only when it is complete and its header agrees with the
    plan; its sidecar follows at once. Ctrl-C or a kill at any moment leaves no half file.

    Raises:
        NotFoundError: The source is not there.
        IntegrityError: The source is damaged or changes meanwhile, or what was written is not what
            was planned.
        UnsupportedError: The source is one part of a split model, or the importance matrix is of
            another model.
        UsageError: The target is the source or exists, or the source is quantized already, or the
            mix takes no types of single tensors.
        ResourceError: The disk has too little room, or the system killed the quantizer.
    """
    job = prepare(source, mix, options, settings)
    with job.open_quantizer(pinned_types(job)) as quantizer:
        plan = checked_plan(job, quantizer)
        report = plan_report(job, plan)
        if options.dry_run:
            return report
        _refuse_requantizing(job, plan)
        make_folder(job.target.parent)
        require_free_disk(job.target.parent, report.file_bytes + SIDECAR_BYTES)
        source_sha256 = remembered_hash(source, settings.state_dir, progress)
        return publish(
            job,
            plan,
            source_sha256,
            settings,
            lambda partial: write(quantizer, plan, partial, job, progress),
        )


def pinned_types(job: Job) -> dict[str, str]:
    """Return the types of single tensors: the user's, and those that need what is not known.

    A type of 2 bits is garbage without a tensor's importance, and llama.cpp refuses it. A tensor
    that the importance matrix does not cover, or where no token reached, gets more bits instead.

    Raises:
        IntegrityError: llama.cpp refuses the source.
    """
    types = dict(job.options.types)
    coverage = job.coverage
    if coverage is None or job.mix.imatrix == "none":
        return types
    if not coverage.uncovered and not coverage.unreached:
        return types
    with job.open_quantizer(types) as quantizer:
        return coverage.pins(quantizer.plan(), job.mix) | types


def write(
    quantizer: Quantizer,
    plan: tuple[TensorPlan, ...],
    target: Path,
    job: Job,
    progress: Progress,
    *,
    label: str | None = None,
) -> float:
    """Write a variant's file, verify it, and return the seconds that the quantizer took.

    Its progress is called `label`, else what the variant is called.

    Raises:
        UsageError: The source is quantized already, and that was not allowed.
        IntegrityError: What was written is not what was planned.
        ResourceError: The disk is full, or the system killed the quantizer.
    """
    _refuse_requantizing(job, plan)
    seconds = _run(quantizer, target, job, progress, label or job.variant)
    _verify(target, plan, file_bytes(job, plan))
    return seconds


def publish(
    job: Job,
    plan: tuple[TensorPlan, ...],
    source_sha256: str,
    settings: Settings,
    fill: Callable[[Path], float],
) -> VariantReport:
    """Put a variant and its sidecar in place.

    Args:
        job: What it is.
        plan: What it was made of.
        source_sha256: The hash of what it was made from.
        settings: Where llmedge remembers that it loads.
        fill: Puts the verified file at a path and returns the seconds that it took to make.

    Raises:
        IntegrityError: The source changed meanwhile.
        ResourceError: The disk is full or read-only.
    """
    with replacing(job.target) as partial:
        quantize_s = fill(partial)
        job.header.require_unchanged()
        report = plan_report(job, plan, quantize_s=quantize_s, sha256=hash_file(partial))
        manifest = _manifest(report, job, source_sha256)
        if is_new := not job.target.exists():
            # Killed here, it leaves a sidecar of nothing; after it, a variant that is complete.
            write_manifest(job.target, manifest)
        else:
            # An older variant's sidecar must not stand beside the new one, not for a moment.
            sidecar_path(job.target).unlink(missing_ok=True)
    if not is_new:
        write_manifest(job.target, manifest)
    # Only now, as numpy and jinja2 come with it: beside the quantizer nothing needs them.
    from llmedge.runtime.first_load import remember

    remember(job.target, settings.state_dir)
    return report


def _refuse_requantizing(job: Job, plan: tuple[TensorPlan, ...]) -> None:
    if not job.options.allow_requantize:
        require_unquantized(job.header, {tensor.name: tensor.target_type for tensor in plan})


def _run(quantizer: Quantizer, target: Path, job: Job, progress: Progress, label: str) -> float:
    """Write the file and return the seconds it took; ends the quantizer, also after an error.

    The child must be gone before the file is renamed or removed: Windows keeps open files.
    """
    sizes = {tensor.name: tensor.n_bytes for tensor in job.header.tensors}
    done = 0
    with progress.task(label, total=job.header.tensor_bytes, unit="bytes") as task:

        def advance(name: str) -> None:
            nonlocal done
            done += sizes.get(name, 0)
            task.update(done, name)

        start = time.perf_counter()
        try:
            quantizer.run(target, advance)
        finally:
            quantizer.close()
        return time.perf_counter() - start


def _verify(path: Path, plan: tuple[TensorPlan, ...], n_bytes: int) -> None:
    """Hold what was written to what was planned, tensor by tensor."""
    header = read_header(path)
    written = {tensor.name: tensor for tensor in header.tensors}
    for planned in plan:
        tensor = written.get(planned.name)
        if tensor is None or tensor.quant_type.name != planned.target_type:
            found = tensor.quant_type.name if tensor else "nothing"
            raise IntegrityError(
                f"tensor {planned.name} was planned as {planned.target_type}, "
                f"the quantizer wrote {found}"
            )
    if header.file_bytes != n_bytes:
        raise IntegrityError(
            f"the file was planned with {n_bytes} bytes, the quantizer wrote {header.file_bytes}"
        )


def _manifest(report: VariantReport, job: Job, source_sha256: str) -> Manifest:
    arguments: dict[str, str | int | float | bool] = {
        "allow_requantize": job.options.allow_requantize,
        "threads": job.n_threads,
        **({"imatrix_sha256": job.coverage.sha256} if job.coverage else {}),
        **{f"type {name}": kind for name, kind in job.options.types.items()},
        **job.options.facts,
    }
    header = job.header
    origin = job.options.origin or _origin(header.path)
    return Manifest(
        name=report.name,
        variant=report.variant,
        file_bytes=report.file_bytes,
        sha256=report.sha256 or "",
        bits_per_weight=report.bits_per_weight,
        n_fallbacks=report.n_fallbacks,
        architecture=header.architecture,
        license=header.text("general.license"),
        source=Source(header.path.name, source_sha256, *(origin or ())),
        arguments=arguments,
        tools={"llmedge": llmedge.__version__, "llama_cpp": library_info().label},
    )


def _origin(source: Path) -> tuple[str, str] | None:
    """Return the Hub repository and commit of a source: pulled, or itself made from it."""
    if origin := hub_origin(source.parent):
        return origin
    try:
        manifest = read_manifest(source)
    except LlmedgeError:
        return None
    if manifest is None or manifest.source.repo is None or manifest.source.revision is None:
        return None
    return manifest.source.repo, manifest.source.revision
