"""Importance matrices: computed once a model and text, kept, resumed, joined and described."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, cast

from llmedge.core.errors import IntegrityError, ResourceError
from llmedge.gguf.imatrix_file import merge, read_sums, write_imatrix
from llmedge.gguf.reader import read_header
from llmedge.gguf.tensor_roles import EMBEDDING, is_quantizable, role_of
from llmedge.host.child import Child, ChildDied
from llmedge.host.cpu import choose_threads
from llmedge.quantize.collect import CollectJob, collect
from llmedge.runtime.model import require_whole_model
from llmedge.store.atomic import make_folder, replacing
from llmedge.store.hashes import remembered_hash
from llmedge.store.manifest import hash_file
from llmedge.store.resumable import partial_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from llmedge.core.progress import Progress
    from llmedge.core.settings import Settings
    from llmedge.gguf.imatrix_file import ImatrixEntry, ImatrixSums
    from llmedge.gguf.reader import Header
    from llmedge.measure.calibration import CalibrationOptions, Selection

_log = logging.getLogger(__name__)

# Part of every key: another way of collecting must not find what this one computed.
_VERSION = 1


@dataclass(frozen=True, slots=True)
class ImatrixOptions:
    """How to compute an importance matrix.

    Attributes:
        calibration: The text.
        n_threads: Threads; `None` takes the performance cores within the limits.
        save_every_s: Seconds after which what was collected is kept, for a run that is killed.
    """

    calibration: CalibrationOptions
    n_threads: int | None = None
    save_every_s: float = 10.0


@dataclass(frozen=True, slots=True)
class TensorCoverage:
    """How much of the text one tensor saw.

    Attributes:
        name: Its name.
        n_matrices: Matrices that are counted by themselves: the experts of a stack, else one.
        n_hit: How many of them a token reached with more than zeros.
        min_count: Tokens that the least used one saw.
        max_count: Tokens that the most used one saw.
        missed: Numbers of those that none reached.
    """

    name: str
    n_matrices: int
    n_hit: int
    min_count: int
    max_count: int
    missed: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ImatrixReport:
    """An importance matrix.

    Attributes:
        path: Its file.
        sha256: The file's hash.
        n_tokens: Tokens of its text; 0 for the old format, which does not say.
        n_chunks: Pieces of its text.
        datasets: Its texts, as its maker called them.
        coverage: Tensor by tensor.
        was_cached: Whether it was computed before, and found.
        shares: Tokens of each kind of text; empty for a file that was only read.
        missing: Tensors that a mix quantizes and that no product used; empty for such a file.
        notes: What could not be done as it was asked for.
        n_resumed: Pieces that an earlier run, which was killed, had done.
        collect_s: Seconds of computing.
    """

    path: Path
    sha256: str
    n_tokens: int
    n_chunks: int
    datasets: tuple[str, ...]
    coverage: tuple[TensorCoverage, ...]
    was_cached: bool = False
    shares: Mapping[str, int] = field(default_factory=dict[str, int])
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    n_resumed: int = 0
    collect_s: float = 0.0


def collect_imatrix(
    source: Path, options: ImatrixOptions, settings: Settings, progress: Progress
) -> ImatrixReport:
    """Compute a model's importance matrix, or find it where it was computed before.

    It lies in `home/imatrix` under the hash of the model and of every token it was shown. What a
    killed run had collected is gone on with.

    Raises:
        NotFoundError: The model or a text is not there.
        IntegrityError: The model is damaged or changes meanwhile, or computes no finite numbers.
        UnsupportedError: It is one part of a split model, or an encoder with a decoder.
        UsageError: A text or its weight is unfit.
        ResourceError: Memory or disk ran out.
    """
    header = read_header(source)
    require_whole_model(header)
    source_sha256 = remembered_hash(source, settings.state_dir, progress)
    n_threads = choose_threads(options.n_threads, settings.threads)
    start = time.perf_counter()
    n_resumed, was_cached = 0, True
    with Child(collect, source, options.calibration) as child:
        messages = _messages(child, header)
        selection = cast("Selection", next(messages))
        target = settings.home / "imatrix" / f"{_key(source_sha256, selection)}.gguf"
        sums = _cached(target)
        unfinished = partial_path(target)
        if sums is None:
            was_cached = False
            make_folder(target.parent)
            child.say(CollectJob(header, target, unfinished, n_threads, options.save_every_s))
            n_resumed = _follow(messages, selection, progress)
            sums = read_sums(target)
        unfinished.unlink(missing_ok=True)  # of a run that was killed as it ended
        header.require_unchanged()
    return replace(
        _describe(target, sums),
        was_cached=was_cached,
        shares=selection.shares,
        missing=_missing(header, sums),
        notes=selection.notes,
        n_resumed=n_resumed,
        collect_s=0.0 if was_cached else round(time.perf_counter() - start, 3),
    )


def join_imatrices(paths: Sequence[Path], target: Path) -> ImatrixReport:
    """Add files of one model up, as if they had been computed in one run.

    Raises:
        NotFoundError: A file is not there.
        IntegrityError: A file is damaged.
        UsageError: They are of different models, or one is in the old format.
        ResourceError: The disk is full or read-only.
    """
    joined = merge([read_sums(path) for path in paths])
    with replacing(target) as partial:
        write_imatrix(partial, joined)
    return describe_imatrix(target)


def copy_imatrix(report: ImatrixReport, target: Path) -> Path:
    """Put an importance matrix where the user wants it; whole, or not at all.

    Raises:
        ResourceError: The disk is full or read-only.
    """
    with replacing(target) as partial:
        shutil.copyfile(report.path, partial)
    return target


def describe_imatrix(path: Path) -> ImatrixReport:
    """Describe an importance matrix of any origin.

    Raises:
        NotFoundError: There is no such file.
        IntegrityError: It is no importance matrix, or damaged.
    """
    return _describe(path, read_sums(path))


def _key(source_sha256: str, selection: Selection) -> str:
    facts = [_VERSION, source_sha256, [asdict(chunk) for chunk in selection.chunks]]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _cached(target: Path) -> ImatrixSums | None:
    if not target.is_file():
        return None
    try:
        return read_sums(target)
    except IntegrityError as error:  # what damaged it is not ours to know; it is computed again
        _log.warning("%s", error)
        return None


def _messages(child: Child[None], header: Header) -> Iterator[object]:
    try:
        yield from child.messages()
    except ChildDied as death:
        if death.cause == "SIGKILL":
            raise ResourceError(
                "the computation was killed: most likely the system ran out of memory",
                "run it again: it goes on where it was; close other programs before",
            ) from None
        raise IntegrityError(
            f"llama.cpp ended by {death.cause} on {header.path}: {death.stderr}",
            "the file is damaged: get it again, or convert it again",
        ) from None


def _follow(messages: Iterator[object], selection: Selection, progress: Progress) -> int:
    """Show how many chunks are done; return how many were done before."""
    chunks = selection.chunks
    n_resumed = cast("int", next(messages))
    with progress.task("imatrix", total=len(chunks), unit="chunks") as task:
        task.update(n_resumed)
        for n_done in messages:
            number = cast("int", n_done)
            task.update(number, chunks[number - 1].kind)
    return n_resumed


def _missing(header: Header, sums: ImatrixSums) -> tuple[str, ...]:
    """Return the tensors that a mix quantizes and that no product used.

    Embeddings that are only looked up have no input.
    """
    return tuple(
        tensor.name
        for tensor in header.tensors
        if is_quantizable(tensor.name, tensor.shape, header.architecture)
        and tensor.name not in sums.entries
        and role_of(tensor.name) != EMBEDDING
    )


def _describe(path: Path, sums: ImatrixSums) -> ImatrixReport:
    return ImatrixReport(
        path=path,
        sha256=hash_file(path),
        n_tokens=sums.n_chunks * sums.chunk_tokens,
        n_chunks=sums.n_chunks,
        datasets=sums.datasets,
        coverage=tuple(_coverage(name, entry) for name, entry in sums.entries.items()),
    )


def _coverage(name: str, entry: ImatrixEntry) -> TensorCoverage:
    counts: list[int] = entry.counts.tolist()
    missed = entry.unreached()
    return TensorCoverage(
        name, len(counts), len(counts) - len(missed), min(counts), max(counts), missed
    )
