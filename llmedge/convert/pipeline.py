"""One conversion: planned to the byte before anything is written, then streamed and verified."""

from __future__ import annotations

import contextlib
import hashlib
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import llmedge
from llmedge.convert.adapter import read_adapter
from llmedge.convert.config import read_config
from llmedge.convert.embedding import add_pooling
from llmedge.convert.estimate import estimate_seconds, range_bytes
from llmedge.convert.general import checkpoint_name, general_metadata, read_license
from llmedge.convert.model import ModelPlan, dominant_type, plan_model
from llmedge.convert.output import OutputFile, choose_types, output_files
from llmedge.convert.report import ConversionReport, ConvertOptions, describe
from llmedge.convert.stream import StreamOptions, write_tensors
from llmedge.convert.tokenizer import convert_tokenizer
from llmedge.core.errors import (
    IntegrityError,
    InterruptedByUser,
    LlmedgeError,
    ResourceError,
    UnsupportedError,
    UsageError,
)
from llmedge.gguf.imatrix_file import read_imatrix
from llmedge.gguf.mixes import Mix, require_imatrix
from llmedge.gguf.reader import read_header
from llmedge.gguf.writer import encode_metadata
from llmedge.host.cpu import choose_threads
from llmedge.host.memory import require_free_disk
from llmedge.runtime.dry_run import check_header
from llmedge.runtime.library import library_info
from llmedge.store.atomic import make_folder, require_new
from llmedge.store.catalog import variant_path
from llmedge.store.checkpoint import CheckpointSource, FolderCheckpoint
from llmedge.store.hf_cache import hub_origin
from llmedge.store.manifest import (
    Manifest,
    Source,
    hash_file,
    require_own_sidecar,
    sidecar_path,
    write_manifest,
)
from llmedge.store.reference import model_name
from llmedge.store.resumable import ResumableFile, partial_path

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from llmedge.core.progress import Progress, Task
    from llmedge.core.settings import Settings
    from llmedge.gguf.imatrix_file import Imatrix
    from llmedge.gguf.mix_rules import Assignment
    from llmedge.gguf.writer import Value


@dataclass(frozen=True, slots=True)
class Conversion:
    """A conversion that can be written.

    Attributes:
        report: What it will be.
        files: What to write.
        options: How.
        stream: How to stream.
        identity: What the result depends on besides the headers.
        folder: The checkpoint's.
    """

    report: ConversionReport
    files: tuple[OutputFile, ...]
    options: ConvertOptions
    stream: StreamOptions
    identity: str
    folder: Path


def plan(
    folder: Path,
    source: CheckpointSource,
    options: ConvertOptions,
    settings: Settings,
    progress: Progress | None = None,
) -> Conversion:
    """Find out everything about a conversion but its weights.

    Args:
        folder: Where the checkpoint's configuration and tokenizer lie.
        source: Its weights.
        options: How to convert.
        settings: Where the store is, and how many threads.
        progress: Shows the comparison of tokenizers.

    Raises:
        NotFoundError: Something of the checkpoint is missing.
        UnsupportedError: It is not shown to convert rightly, or the mix cannot be made of it.
        IntegrityError: It is damaged.
        ResourceError: The memory allowed is too little.
    """
    imatrix = read_imatrix(options.imatrix) if options.imatrix else None
    require_imatrix(options.mix, has_imatrix=imatrix is not None)
    adapter = read_adapter(options.adapter) if options.adapter else None
    config = read_config(folder)
    model = add_pooling(plan_model(source, config, adapter), folder)
    types = choose_types(
        options.mix,
        model.rows,
        model.shape,
        source_type=dominant_type(source),
        has_imatrix=imatrix is not None,
    )
    _require_coverage(types, imatrix)
    tokenizer, tokenizer_report = convert_tokenizer(
        folder, model.n_vocab, model.architecture.name, options.tokenizer, progress=progress
    )
    name = _name(folder, options)
    target = _target(folder, name, options, settings)
    metadata = encode_metadata(_metadata(folder, model, options.mix, imatrix)) + tokenizer
    (whole,) = files = output_files(target, metadata, model.rows, types, imatrix)
    check_header(whole.header, whole.n_bytes)
    if options.split_bytes is not None:
        files = output_files(
            target,
            metadata,
            model.rows,
            types,
            imatrix,
            architecture=model.architecture.name,
            max_bytes=options.split_bytes,
        )
    n_threads = choose_threads(options.n_threads, settings.threads)
    stream = StreamOptions(n_threads, range_bytes(options.memory_bytes, n_threads))
    report = describe(name, options, model, files, types, tokenizer_report, stream)
    parts = (
        source.identity,
        config.identity,
        model.identity,
        _identity(options.imatrix),
        adapter and adapter.identity,
        llmedge.__version__,
        version("llama-cpp-python"),
    )
    return Conversion(report, files, options, stream, repr(parts), folder)


def with_estimate(conversion: Conversion) -> ConversionReport:
    """Return the plan with the time that quantizing will take here, and what would stop it."""
    tensors = [tensor for file in conversion.files for tensor in file.tensors]
    seconds = estimate_seconds(tensors, conversion.stream.n_threads)
    notes = list(conversion.report.notes)
    try:
        _require_place(conversion)
        _require_disk(_nearest_folder(conversion.files[0].path.parent), conversion.files)
    except LlmedgeError as error:
        notes.append(f"as things are the conversion would end at once: {error.message}")
    return replace(conversion.report, estimated_s=round(seconds, 1), notes=tuple(notes))


def _nearest_folder(folder: Path) -> Path:
    return next(
        parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir()
    )


def convert(conversion: Conversion, progress: Progress) -> ConversionReport:
    """Write what was planned.

    A file appears under its name only when it is complete, on the disk, and its header is what was
    planned. What a kill leaves is gone on with by the next run of the same conversion.

    Raises:
        UsageError: The target exists, or another process is making it.
        ResourceError: The disk has too little room.
        IntegrityError: The checkpoint is damaged, or what was written is not what was planned.
    """
    options, files = conversion.options, conversion.files
    _require_place(conversion)
    make_folder(files[0].path.parent)
    _require_disk(files[0].path.parent, files)
    start = time.perf_counter()
    try:
        with (
            _translated(files[0].path),
            progress.task(
                options.mix.name, total=conversion.report.file_bytes, unit="bytes"
            ) as task,
        ):
            hashes, n_resumed = _write_all(conversion, task)
    except InterruptedByUser as stop:
        raise type(stop)(
            stop.message,
            "run the same command again to go on where it was; what is there lies in "
            f"{partial_path(files[0].path)}*",
        ) from None
    report = replace(
        conversion.report,
        convert_s=round(time.perf_counter() - start, 2),
        n_resumed=n_resumed,
        sha256=hashes,
        is_plan=False,
    )
    write_manifest(files[0].path, _manifest(conversion, report))
    return report


def _require_place(conversion: Conversion) -> None:
    """Make sure that the files may have their names.

    Raises:
        UsageError: The target exists, or something of the user's is in its way.
    """
    for file in conversion.files:
        if file.path.is_dir():
            raise UsageError(f"{file.path} is a folder", "choose another file name with -o")
    # A model in parts is there when its first part is: that is the one that is opened.
    first = conversion.files[0].path
    require_new(first, overwrite=conversion.options.overwrite)
    require_own_sidecar(first)


def open_checkpoint(folder: Path) -> FolderCheckpoint:
    """Open a folder's weights; close it after the conversion."""
    return FolderCheckpoint(folder)


def _name(folder: Path, options: ConvertOptions) -> str:
    """Return the store name for what a checkpoint becomes; an adapter makes another model of it."""
    name = checkpoint_name(folder)
    if options.adapter is not None:
        name += f"-{options.adapter.resolve().name}"
    return model_name(Path(f"{name}.gguf"))


class _Offset:
    """A task's share for one of several files."""

    def __init__(self, task: Task, offset: int) -> None:
        self._task = task
        self._offset = offset

    def update(self, completed: float, note: str = "") -> None:
        self._task.update(self._offset + completed, note)


def _write_all(conversion: Conversion, task: Task) -> tuple[tuple[str, ...], int]:
    """Write every file aside, then let all appear; return their hashes and what was there."""
    hashes: list[str] = []
    n_resumed = done = 0
    with contextlib.ExitStack() as stack:
        partials: list[ResumableFile] = []
        for file in conversion.files:
            identity = hashlib.sha256(file.header + conversion.identity.encode()).hexdigest()
            partial = ResumableFile(file.path, identity, resume=conversion.options.resume)
            partials.append(stack.enter_context(partial))
            n_resumed += partial.n_pieces
            progress = _Offset(task, done)
            try:
                write_tensors(partial, file.header, file.tensors, conversion.stream, progress)
                hashes.append(partial.finish())
                _verify(partial.path, file)
            except IntegrityError:
                partial.discard()  # a repaired checkpoint is another one
                raise
            done += file.n_bytes
        # An older variant's sidecar must not stand beside the new one, not for a moment.
        sidecar_path(conversion.files[0].path).unlink(missing_ok=True)
        # The first part comes last: with it the model is there.
        for partial in reversed(partials):
            partial.publish()
    return tuple(hashes), n_resumed


@contextlib.contextmanager
def _translated(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"{path} could not be written: {error.strerror or error}",
            "free some space and run the same command again: it goes on where it was",
        ) from error


def _verify(path: Path, file: OutputFile) -> None:
    header = read_header(path)
    planned = tuple(tensor.info for tensor in file.tensors)
    if header.tensors != planned or header.file_bytes != file.n_bytes:
        raise IntegrityError(f"{path} is not what was planned", "run the command again")


def _require_disk(folder: Path, files: tuple[OutputFile, ...]) -> None:
    there = (partial_path(file.path) for file in files)
    kept = sum(path.stat().st_size for path in there if path.is_file())
    require_free_disk(folder, max(0, sum(file.n_bytes for file in files) - kept))


def _require_coverage(types: Mapping[str, Assignment], imatrix: Imatrix | None) -> None:
    for name, assignment in types.items():
        if assignment.needs_imatrix and (imatrix is None or name not in imatrix.weights):
            raise UnsupportedError(
                f"{name} as {assignment.quant_type.name} needs an importance matrix that covers it",
                "give one with --imatrix that was computed for this model, or choose another type",
            )


def _metadata(
    folder: Path, model: ModelPlan, mix: Mix, imatrix: Imatrix | None
) -> dict[str, Value]:
    values: dict[str, Value] = {"general.architecture": model.architecture.name}
    values |= general_metadata(folder) | {"general.file_type": mix.ftype, **model.metadata}
    if imatrix is not None:  # under the keys that llama-quantize writes
        values["quantize.imatrix.dataset"] = ", ".join(imatrix.datasets)
        values["quantize.imatrix.entries_count"] = len(imatrix.weights)
        values["quantize.imatrix.chunks_count"] = imatrix.n_chunks
    return values


def _target(folder: Path, name: str, options: ConvertOptions, settings: Settings) -> Path:
    if options.output is None:
        if options.split_bytes is not None:
            raise UsageError(
                "the store holds whole files; parts are for other programs",
                "name a file with -o",
            )
        return variant_path(settings, name, options.mix.name)
    if options.output.is_dir():
        return options.output / f"{name}-{options.mix.name}.gguf"
    if options.output.suffix != ".gguf":
        raise UsageError(
            f"{options.output} is neither a folder that is there nor ends in .gguf",
            f"write -o {options.output}.gguf, or make the folder first",
        )
    return options.output


def _identity(path: Path | None) -> str | None:
    return hash_file(path) if path else None


def _manifest(conversion: Conversion, report: ConversionReport) -> Manifest:
    origin = hub_origin(conversion.folder)
    return Manifest(
        name=report.name,
        variant=report.mix,
        file_bytes=report.file_bytes,
        sha256=report.sha256[0],
        bits_per_weight=report.bits_per_weight,
        n_fallbacks=sum(group.n_tensors for group in report.fallbacks),
        architecture=report.architecture,
        license=read_license(conversion.folder),
        source=Source(
            conversion.folder.resolve().name,
            hashlib.sha256(conversion.identity.encode()).hexdigest(),
            *(origin or ()),
        ),
        arguments={
            "threads": conversion.stream.n_threads,
            "imatrix": _identity(conversion.options.imatrix) or "",
            "adapter": conversion.options.adapter.name if conversion.options.adapter else "",
        },
        tools={"llmedge": llmedge.__version__, "llama_cpp": library_info().label},
    )
