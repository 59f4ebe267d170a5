"""One GGUF file into one variant: planned, checked against the disk, written aside, verified."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import llmedge
from llmedge.core.errors import IntegrityError, UsageError
from llmedge.gguf.fallbacks import Fallbacks, group_fallbacks
from llmedge.gguf.reader import Header, read_header
from llmedge.host.cpu import choose_threads
from llmedge.host.memory import require_free_disk
from llmedge.runtime.first_load import remember
from llmedge.runtime.library import library_info
from llmedge.runtime.model import require_single_file
from llmedge.runtime.quantizer import MAX_BUFFER_BYTES, Quantizer, QuantizerOptions, TensorPlan
from llmedge.store.atomic import make_folder, replacing
from llmedge.store.catalog import variant_path
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
    from pathlib import Path

    from llmedge.core.progress import Progress
    from llmedge.core.settings import Settings
    from llmedge.gguf.mixes import Mix

# Metadata that the quantizer adds or widens; the exact header is verified once it is written.
_HEADER_SLACK_BYTES = 64 << 10
_UNQUANTIZED = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class QuantizeOptions:
    """How to quantize.

    Attributes:
        name: The model's name; `None` takes the source's, without its quant type.
        folder: Where the variants go; `None` is the store.
        n_threads: Threads; `None` takes the performance cores within the limits.
        allow_requantize: Accept a source that is quantized already.
        overwrite: Replace a variant that is there already.
        max_buffer_bytes: Bound of the rows kept in memory at once.
        dry_run: Plan only, write nothing.
    """

    name: str | None = None
    folder: Path | None = None
    n_threads: int | None = None
    allow_requantize: bool = False
    overwrite: bool = False
    max_buffer_bytes: int = MAX_BUFFER_BYTES
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class VariantReport:
    """What became of one mix.

    Attributes:
        name: The model's name.
        mix: The mix's name.
        path: The variant's file; where it would be, after a dry run.
        tensor_bytes: Bytes of its tensors.
        file_bytes: Its size; `None` after a dry run.
        bits_per_weight: Over all tensors.
        n_tensors: How many it has.
        fallbacks: What the mix did not get.
        quantize_s: Seconds that the quantizer took; 0 after a dry run.
        sha256: Its hash; `None` after a dry run.
    """

    name: str
    mix: str
    path: Path
    tensor_bytes: int
    file_bytes: int | None
    bits_per_weight: float
    n_tensors: int
    fallbacks: tuple[Fallbacks, ...]
    quantize_s: float
    sha256: str | None

    @property
    def n_fallbacks(self) -> int:
        """How many tensors fell back."""
        return sum(group.n_tensors for group in self.fallbacks)


def quantize(
    source: Path, mix: Mix, options: QuantizeOptions, settings: Settings, progress: Progress
) -> VariantReport:
    """Make one variant.

    The variant appears under its name only when it is complete and its header agrees with the
    plan; its sidecar follows at once. Ctrl-C or a kill at any moment leaves no half file.

    Raises:
        NotFoundError: The source is not there.
        IntegrityError: The source is damaged, or what was written is not what was planned.
        UnsupportedError: The source is one part of a split model.
        UsageError: The target is the source or exists, or the source is quantized already.
        ResourceError: The disk has too little room, or the system killed the quantizer.
    """
    header = read_header(source)
    require_single_file(header)
    target = target_path(source, mix, options, settings)
    _check_target(source, target, overwrite=options.overwrite or options.dry_run)
    require_own_sidecar(target)
    n_threads = choose_threads(options.n_threads, settings.threads)
    quantizer_options = QuantizerOptions(
        mix.ftype, n_threads, options.allow_requantize, options.max_buffer_bytes
    )
    with Quantizer(header, quantizer_options) as quantizer:
        plan = quantizer.plan()
        if options.dry_run:
            return _report(mix, target, plan, header)
        if not options.allow_requantize:
            _refuse_requantizing(source, plan)
        make_folder(target.parent)
        header_bytes = header.data_offset + len(plan) * header.alignment + _HEADER_SLACK_BYTES
        require_free_disk(target.parent, header_bytes + sum(tensor.n_bytes for tensor in plan))
        source_sha256 = _hash_source(source, source.stat().st_mtime_ns)
        with replacing(target) as partial:
            quantize_s = _run(quantizer, partial, header, mix, progress)
            _verify(partial, plan)
            sha256 = hash_file(partial)
            # An older variant's sidecar must not stand beside the new one, not for a moment.
            sidecar_path(target).unlink(missing_ok=True)
    report = _report(mix, target, plan, header, quantize_s=quantize_s, sha256=sha256)
    arguments: dict[str, str | int | bool] = {
        "allow_requantize": options.allow_requantize,
        "threads": n_threads,
    }
    write_manifest(target, _manifest(report, header, source_sha256, arguments))
    remember(target, settings.state_dir)
    return report


@functools.lru_cache(maxsize=8)
def _hash_source(source: Path, modified_ns: int) -> str:
    """Hash a source once for all the variants that are made from it."""
    del modified_ns
    return hash_file(source)


def target_path(source: Path, mix: Mix, options: QuantizeOptions, settings: Settings) -> Path:
    """Return where a variant goes: a folder of the user's, or the store."""
    name = options.name or model_name(source)
    if options.folder is None:
        return variant_path(settings, name, mix.name)
    return options.folder / f"{name}-{mix.name}.gguf"


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


def _run(quantizer: Quantizer, target: Path, header: Header, mix: Mix, progress: Progress) -> float:
    """Write the file and return the seconds it took; ends the quantizer, also after an error.

    The child must be gone before the file is renamed or removed: Windows keeps open files.
    """
    sizes = {tensor.name: tensor.n_bytes for tensor in header.tensors}
    done = 0
    with progress.task(mix.name, total=header.tensor_bytes, unit="bytes") as task:

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


def _verify(path: Path, plan: tuple[TensorPlan, ...]) -> None:
    """Hold what was written to what was planned, tensor by tensor."""
    written = {tensor.name: tensor for tensor in read_header(path).tensors}
    for planned in plan:
        tensor = written.get(planned.name)
        if tensor is None or tensor.quant_type.name != planned.target_type:
            found = tensor.quant_type.name if tensor else "nothing"
            raise IntegrityError(
                f"tensor {planned.name} was planned as {planned.target_type}, "
                f"the quantizer wrote {found}"
            )


def _report(
    mix: Mix,
    target: Path,
    plan: tuple[TensorPlan, ...],
    header: Header,
    *,
    quantize_s: float = 0.0,
    sha256: str | None = None,
) -> VariantReport:
    tensor_bytes = sum(tensor.n_bytes for tensor in plan)
    return VariantReport(
        name=target.stem.removesuffix(f"-{mix.name}"),
        mix=mix.name,
        path=target,
        tensor_bytes=tensor_bytes,
        file_bytes=target.stat().st_size if sha256 else None,
        bits_per_weight=round(8 * tensor_bytes / header.n_weights, 4),
        n_tensors=len(plan),
        fallbacks=group_fallbacks((t.name, t.wanted_type, t.target_type) for t in plan),
        quantize_s=quantize_s,
        sha256=sha256,
    )


def _manifest(
    report: VariantReport,
    header: Header,
    source_sha256: str,
    arguments: dict[str, str | int | bool],
) -> Manifest:
    return Manifest(
        name=report.name,
        variant=report.mix,
        file_bytes=report.file_bytes or 0,
        sha256=report.sha256 or "",
        bits_per_weight=report.bits_per_weight,
        n_fallbacks=report.n_fallbacks,
        architecture=header.architecture,
        license=header.text("general.license"),
        source=Source(header.path.name, source_sha256),
        arguments=arguments,
        tools={"llmedge": llmedge.__version__, "llama_cpp": library_info().label},
    )
