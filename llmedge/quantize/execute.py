"""One GGUF file into one variant: planned, checked against the disk, written aside, verified."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import llmedge
from llmedge.core.errors import IntegrityError, UsageError
from llmedge.gguf.fallbacks import Fallbacks, group_fallbacks
from llmedge.gguf.file_size import quantized_file_bytes
from llmedge.gguf.reader import Header, read_header
from llmedge.host.cpu import choose_threads
from llmedge.host.memory import require_free_disk
from llmedge.quantize.coverage import EXPECTED_METADATA, read_coverage
from llmedge.runtime.first_load import remember
from llmedge.runtime.library import library_info
from llmedge.runtime.model import require_single_file
from llmedge.runtime.quantizer import MAX_BUFFER_BYTES, Quantizer, QuantizerOptions, TensorPlan
from llmedge.store.atomic import make_folder, replacing
from llmedge.store.catalog import variant_path
from llmedge.store.hashes import remembered_hash
from llmedge.store.manifest import (
    Manifest,
    Source,
    hash_file,
    require_own_sidecar,
    sidecar_path,
    write_manifest,
)
from llmedge.store.reference import model_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from llmedge.core.progress import Progress
    from llmedge.core.settings import Settings
    from llmedge.gguf.mixes import Mix
    from llmedge.quantize.coverage import Coverage

_UNQUANTIZED = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class QuantizeOptions:
    """How to quantize.

    Attributes:
        name: The model's name; `None` takes the source's, without its quant type.
        output: A file (`.gguf`), or the folder where the variants go; `None` is the store.
        variant: What the variant is called; `None` takes the mix's name.
        n_threads: Threads; `None` takes the performance cores within the limits.
        allow_requantize: Accept a source that is quantized already.
        overwrite: Replace a variant that is there already.
        max_buffer_bytes: Bound of the rows kept in memory at once.
        dry_run: Plan only, write nothing.
        imatrix: The file of an importance matrix; left out where the mix ignores it.
        expects_imatrix: Plan as if there were an importance matrix; for dry runs only.
        types: Quant types of single tensors, by name, instead of what the mix gives them.
        is_pure: Give every tensor the mix's own type, where `types` does not say otherwise.
        facts: What the sidecar says besides.
    """

    name: str | None = None
    output: Path | None = None
    variant: str | None = None
    n_threads: int | None = None
    allow_requantize: bool = False
    overwrite: bool = False
    max_buffer_bytes: int = MAX_BUFFER_BYTES
    dry_run: bool = False
    imatrix: Path | None = None
    expects_imatrix: bool = False
    types: Mapping[str, str] = field(default_factory=dict[str, str])
    is_pure: bool = False
    facts: Mapping[str, str | int | float] = field(default_factory=dict[str, "str | int | float"])


@dataclass(frozen=True, slots=True)
class VariantReport:
    """What became of one mix.

    Attributes:
        name: The model's name.
        variant: What the variant is called.
        mix: The mix's name.
        path: The variant's file; where it would be, after a dry run.
        tensor_bytes: Bytes of its tensors.
        file_bytes: Its size, known before it is written.
        bits_per_weight: Over all tensors.
        n_tensors: How many it has.
        types: How many tensors have each quant type, the most frequent first.
        fallbacks: What the mix did not get.
        coverage: What the importance matrix covers; `None` without one.
        quantize_s: Seconds that the quantizer took; 0 after a dry run.
        sha256: Its hash; `None` after a dry run.
    """

    name: str
    variant: str
    mix: str
    path: Path
    tensor_bytes: int
    file_bytes: int
    bits_per_weight: float
    n_tensors: int
    types: Mapping[str, int]
    fallbacks: tuple[Fallbacks, ...]
    coverage: Coverage | None
    quantize_s: float
    sha256: str | None

    @property
    def n_fallbacks(self) -> int:
        """How many tensors fell back."""
        return sum(group.n_tensors for group in self.fallbacks)


@dataclass(frozen=True, slots=True)
class Job:
    """One variant to make.

    Attributes:
        header: The source's.
        mix: What to make.
        options: How.
        n_threads: Threads in force.
        target: The variant's file.
        coverage: What the importance matrix covers.
    """

    header: Header
    mix: Mix
    options: QuantizeOptions
    n_threads: int
    target: Path
    coverage: Coverage | None

    @property
    def variant(self) -> str:
        """What the variant is called."""
        return self.options.variant or self.mix.name

    @property
    def metadata(self) -> dict[str, str | int | float]:
        """What the file says of how it was made."""
        metadata: dict[str, str | int | float] = {"llmedge.version": llmedge.__version__}
        if self.coverage is not None:
            metadata |= self.coverage.metadata
        elif self.options.expects_imatrix:
            metadata |= EXPECTED_METADATA
        return metadata

    def open_quantizer(self, types: Mapping[str, str]) -> Quantizer:
        """Start the quantizer with some tensors' types."""
        return Quantizer(
            self.header,
            QuantizerOptions(
                ftype=self.mix.ftype,
                n_threads=self.n_threads,
                allow_requantize=self.options.allow_requantize,
                max_buffer_bytes=self.options.max_buffer_bytes,
                imatrix=self.options.imatrix,
                expects_imatrix=self.options.expects_imatrix,
                types=types,
                is_pure=self.options.is_pure,
                metadata=self.metadata,
            ),
        )


def quantize(
    source: Path, mix: Mix, options: QuantizeOptions, settings: Settings, progress: Progress
) -> VariantReport:
    """Make one variant.

    The variant appears under its name only when it is complete and its header agrees with the
    plan; its sidecar follows at once. Ctrl-C or a kill at any moment leaves no half file.

    Raises:
        NotFoundError: The source is not there.
        IntegrityError: The source is damaged, or what was written is not what was planned.
        UnsupportedError: The source is one part of a split model, or the importance matrix is of
            another model.
        UsageError: The target is the source or exists, or the source is quantized already.
        ResourceError: The disk has too little room, or the system killed the quantizer.
    """
    job = prepare(source, mix, options, settings)
    with job.open_quantizer(pinned_types(job)) as quantizer:
        plan = quantizer.plan()
        report = plan_report(job, plan)
        if options.dry_run:
            return report
        make_folder(job.target.parent)
        require_free_disk(job.target.parent, report.file_bytes)
        source_sha256 = remembered_hash(source, settings.state_dir, progress)
        return publish(
            job,
            plan,
            source_sha256,
            settings,
            lambda partial: write(quantizer, plan, partial, job, progress),
        )


def prepare(source: Path, mix: Mix, options: QuantizeOptions, settings: Settings) -> Job:
    """Check everything that can be checked before the quantizer is asked.

    Raises:
        NotFoundError: The source or the importance matrix is not there.
        IntegrityError: One of them is damaged.
        UnsupportedError: The source is one part of a split model, or the importance matrix is of
            another model.
        UsageError: The target is the source or exists.
    """
    header = read_header(source)
    require_single_file(header)
    if mix.imatrix == "none" and not options.types:
        options = replace(options, imatrix=None, expects_imatrix=False)
    coverage = read_coverage(options.imatrix, header) if options.imatrix else None
    target = _target_path(source, options.variant or mix.name, options, settings)
    _check_target(source, target, overwrite=options.overwrite or options.dry_run)
    require_own_sidecar(target)
    n_threads = choose_threads(options.n_threads, settings.threads)
    return Job(header, mix, options, n_threads, target, coverage)


def pinned_types(job: Job) -> dict[str, str]:
    """Return the types of single tensors: the user's, and those that need what is not known.

    A type of 2 bits is garbage without a tensor's importance, and llama.cpp refuses it. A tensor
    that the importance matrix does not cover gets more bits instead.

    Raises:
        IntegrityError: llama.cpp refuses the source.
    """
    types = dict(job.options.types)
    if job.coverage is None or job.mix.imatrix == "none":
        return types
    with job.open_quantizer(types) as quantizer:
        return job.coverage.pins(quantizer.plan(), job.mix) | types


def write(
    quantizer: Quantizer, plan: tuple[TensorPlan, ...], target: Path, job: Job, progress: Progress
) -> float:
    """Write a variant's file, verify it, and return the seconds that the quantizer took.

    Raises:
        UsageError: The source is quantized already, and that was not allowed.
        IntegrityError: What was written is not what was planned.
        ResourceError: The disk is full, or the system killed the quantizer.
    """
    if not job.options.allow_requantize:
        _refuse_requantizing(job.header.path, plan)
    seconds = _run(quantizer, target, job, progress)
    _verify(target, plan, _file_bytes(job, plan))
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
        ResourceError: The disk is full or read-only.
    """
    with replacing(job.target) as partial:
        quantize_s = fill(partial)
        sha256 = hash_file(partial)
        # An older variant's sidecar must not stand beside the new one, not for a moment.
        sidecar_path(job.target).unlink(missing_ok=True)
    report = plan_report(job, plan, quantize_s=quantize_s, sha256=sha256)
    write_manifest(job.target, _manifest(report, job, source_sha256))
    remember(job.target, settings.state_dir)
    return report


def plan_report(
    job: Job,
    plan: tuple[TensorPlan, ...],
    *,
    quantize_s: float = 0.0,
    sha256: str | None = None,
) -> VariantReport:
    """Return what a plan makes."""
    tensor_bytes = sum(tensor.n_bytes for tensor in plan)
    name = job.options.name or model_name(job.header.path)
    return VariantReport(
        name=name
        if job.options.output is None
        else job.target.stem.removesuffix(f"-{job.variant}"),
        variant=job.variant,
        mix=job.mix.name,
        path=job.target,
        tensor_bytes=tensor_bytes,
        file_bytes=_file_bytes(job, plan),
        bits_per_weight=round(8 * tensor_bytes / job.header.n_weights, 4),
        n_tensors=len(plan),
        types=dict(Counter(tensor.target_type for tensor in plan).most_common()),
        fallbacks=group_fallbacks((t.name, t.wanted_type, t.target_type) for t in plan),
        coverage=job.coverage,
        quantize_s=quantize_s,
        sha256=sha256,
    )


def _file_bytes(job: Job, plan: tuple[TensorPlan, ...]) -> int:
    return quantized_file_bytes(job.header, (tensor.n_bytes for tensor in plan), job.metadata)


def _target_path(source: Path, variant: str, options: QuantizeOptions, settings: Settings) -> Path:
    """Return where a variant goes: a file or folder of the user's, or the store."""
    name = options.name or model_name(source)
    if options.output is None:
        return variant_path(settings, name, variant)
    if options.output.suffix.lower() == ".gguf" and not options.output.is_dir():
        return options.output
    return options.output / f"{name}-{variant}.gguf"


def _refuse_requantizing(source: Path, plan: tuple[TensorPlan, ...]) -> None:
    changed = [tensor for tensor in plan if tensor.source_type != tensor.target_type]
    for tensor in changed:
        if tensor.source_type not in _UNQUANTIZED:
            raise UsageError(
                f"{source} is quantized already ({tensor.name} is {tensor.source_type}); "
                "quantizing it again loses more",
                "start from a 16-bit file, or accept the loss with --allow-requantize",
            )


def _check_target(source: Path, target: Path, *, overwrite: bool) -> None:
    if not target.exists():
        return
    if target.samefile(source):
        raise UsageError(
            f"{target} is the source itself; it would be overwritten while it is read",
            "choose another folder with -o",
        )
    if not overwrite:
        raise UsageError(f"{target} exists", "add --overwrite to replace it")


def _run(quantizer: Quantizer, target: Path, job: Job, progress: Progress) -> float:
    """Write the file and return the seconds it took; ends the quantizer, also after an error.

    The child must be gone before the file is renamed or removed: Windows keeps open files.
    """
    sizes = {tensor.name: tensor.n_bytes for tensor in job.header.tensors}
    done = 0
    with progress.task(job.variant, total=job.header.tensor_bytes, unit="bytes") as task:

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


def _verify(path: Path, plan: tuple[TensorPlan, ...], file_bytes: int) -> None:
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
    if header.file_bytes != file_bytes:
        raise IntegrityError(
            f"the file was planned with {file_bytes} bytes, the quantizer wrote {header.file_bytes}"
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
    return Manifest(
        name=report.name,
        variant=report.variant,
        file_bytes=report.file_bytes,
        sha256=report.sha256 or "",
        bits_per_weight=report.bits_per_weight,
        n_fallbacks=report.n_fallbacks,
        architecture=header.architecture,
        license=header.text("general.license"),
        source=Source(header.path.name, source_sha256),
        arguments=arguments,
        tools={"llmedge": llmedge.__version__, "llama_cpp": library_info().label},
    )
