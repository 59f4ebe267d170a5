"""One variant to make: what was asked for, checked before the quantizer is, and what it will be."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import llmedge
from llmedge.core.errors import IntegrityError, UnsupportedError, UsageError
from llmedge.gguf.fallbacks import Fallbacks, group_fallbacks
from llmedge.gguf.file_size import quantized_file_bytes
from llmedge.gguf.mixes import is_float, uses_imatrix
from llmedge.gguf.reader import Header, read_header
from llmedge.host.cpu import choose_threads
from llmedge.quantize.coverage import EXPECTED_METADATA, read_coverage
from llmedge.runtime.model import require_whole_model
from llmedge.runtime.quantizer import MAX_BUFFER_BYTES, Quantizer, QuantizerOptions, TensorPlan
from llmedge.store.atomic import require_new
from llmedge.store.catalog import variant_path
from llmedge.store.manifest import require_own_sidecar
from llmedge.store.reference import model_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from llmedge.core.settings import Settings
    from llmedge.gguf.mixes import Mix
    from llmedge.host.stamp import Stamp
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
        origin: The Hub repository and commit of the checkpoint; `None` looks beside the source.
        stamp: The source, as the file that an importance matrix or a plan was made for; `None`
            takes whatever lies there.

    Raises:
        UsageError: The bound of the rows is no number of bytes.
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
    origin: tuple[str, str] | None = None
    stamp: Stamp | None = None

    def __post_init__(self) -> None:
        if self.max_buffer_bytes < 1:
            raise UsageError(
                f"--max-buffer {self.max_buffer_bytes} leaves no room for a row",
                f"--max-buffer {MAX_BUFFER_BYTES >> 20}MiB",
            )


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


def require_target(
    source: Path, variant: str, options: QuantizeOptions, settings: Settings
) -> Path:
    """Return a variant's file, which may be written.

    Raises:
        UsageError: It is the source, exists, or another program's JSON lies at its sidecar's place.
    """
    target = _target_path(source, variant, options, settings)
    require_new(target, overwrite=options.overwrite or options.dry_run, others=[source])
    require_own_sidecar(target)
    return target


def require_unquantized(header: Header, wanted: Mapping[str, str]) -> None:
    """Refuse to quantize again what is quantized already.

    Args:
        header: The source's.
        wanted: Quant types by tensor name; a tensor that keeps its own loses nothing.

    Raises:
        UsageError: A quantized tensor would get another type.
    """
    for tensor in header.tensors:
        found = tensor.quant_type.name
        if found not in _UNQUANTIZED and wanted.get(tensor.name, found) != found:
            raise UsageError(
                f"{header.path} is quantized already ({tensor.name} is {found}); "
                "quantizing it again loses more",
                "start from a 16-bit file, or accept the loss with --allow-requantize",
            )


def prepare(source: Path, mix: Mix, options: QuantizeOptions, settings: Settings) -> Job:
    """Check everything that can be checked before the quantizer is asked.

    Raises:
        NotFoundError: The source or the importance matrix is not there.
        IntegrityError: One of them is damaged, or the source is not the file of before.
        UnsupportedError: The source is one part of a split model, or the importance matrix is of
            another model.
        UsageError: The target is the source or exists, or the mix takes no types.
    """
    header = read_header(source)
    if options.stamp not in (None, header.stamp):
        raise IntegrityError(
            f"{source} is another file than the one that was measured",
            "run it again once nothing writes there",
        )
    require_whole_model(header)
    require_takes_types(mix, options.types)
    if not uses_imatrix(mix, options.types.values()):
        options = replace(options, imatrix=None, expects_imatrix=False)
    coverage = read_coverage(options.imatrix, header) if options.imatrix else None
    target = require_target(source, options.variant or mix.name, options, settings)
    n_threads = choose_threads(options.n_threads, settings.threads)
    return Job(header, mix, options, n_threads, target, coverage)


def require_takes_types(mix: Mix, types: Mapping[str, str]) -> None:
    """Refuse types of single tensors where the quantizer does not look at them.

    Raises:
        UsageError: There are some, and the mix is one of floats.
    """
    if types and is_float(mix):
        name, type_name = next(iter(types.items()))
        raise UsageError(
            f"{mix.name} keeps every tensor a float: {name} cannot be {type_name} in it",
            "start from a mix of quantized types, such as -t Q8_0",
        )


def checked_plan(job: Job, quantizer: Quantizer) -> tuple[TensorPlan, ...]:
    """Return what becomes of each tensor, when that is what was asked for.

    Raises:
        IntegrityError: llama.cpp refuses the source.
        UnsupportedError: It leaves a tensor another type than the user's, though its rows fit.
    """
    plan = quantizer.plan()
    for tensor in plan:
        asked = job.options.types.get(tensor.name, tensor.target_type)
        if asked != tensor.target_type and not tensor.is_fallback:
            raise UnsupportedError(
                f"{tensor.name} was to be {asked}, and llama.cpp would make it "
                f"{tensor.target_type}",
                "leave its type to the mix",
            )
    return plan


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
        file_bytes=file_bytes(job, plan),
        bits_per_weight=round(8 * tensor_bytes / job.header.n_weights, 4),
        n_tensors=len(plan),
        types=dict(Counter(tensor.target_type for tensor in plan).most_common()),
        fallbacks=group_fallbacks((t.name, t.wanted_type, t.target_type) for t in plan),
        coverage=job.coverage,
        quantize_s=quantize_s,
        sha256=sha256,
    )


def file_bytes(job: Job, plan: tuple[TensorPlan, ...]) -> int:
    """Return the exact size that a file will have."""
    return quantized_file_bytes(job.header, (tensor.n_bytes for tensor in plan), job.metadata)


def _target_path(source: Path, variant: str, options: QuantizeOptions, settings: Settings) -> Path:
    """Return where a variant goes: a file or folder of the user's, or the store."""
    name = options.name or model_name(source)
    if options.output is None:
        return variant_path(settings, name, variant)
    if options.output.suffix.lower() == ".gguf" and not options.output.is_dir():
        return options.output
    return options.output / f"{name}-{variant}.gguf"
