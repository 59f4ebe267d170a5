"""Checkpoints: named tensors in safetensors files, read by ranges of rows.

Reads headers whole and weights only on demand, so that a checkpoint larger than memory costs the
memory of its tensor names. Knows nothing of models: names and numbers are handed on as they lie.

Source: github.com/huggingface/safetensors, README "Format".
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import msgspec

from llmedge.core.closable import Closable
from llmedge.core.errors import IntegrityError, NotFoundError, UnsupportedError
from llmedge.host.files import RangeReader

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_MAX_NAME = 255
_HASHED_BYTES = 64 << 10
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_DTYPE_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "F64": 8,
    "I64": 8,
    "U64": 8,
}
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_SAFE_COPY = (
    "make a safe copy: pip install 'llmedge[verify]', then python -c \"import torch, "
    "safetensors.torch as s; s.save_file({k: v.clone() for k, v in torch.load('FILE.bin', "
    "weights_only=True).items()}, 'model.safetensors')\""
)


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a checkpoint.

    Attributes:
        dtype: safetensors' spelling: `BF16`, `F32`, `F8_E4M3`, `I32` …
        shape: Row-major, outermost first.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def n_rows(self) -> int:
        """Rows of the tensor seen as a matrix: all axes but the last, flattened."""
        return math.prod(self.shape[:-1])

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return (self.shape[-1] if self.shape else 1) * _DTYPE_BYTES[self.dtype]


class CheckpointSource(Protocol):
    """Where a checkpoint's tensors come from: a folder, or the Hub."""

    @property
    def tensors(self) -> Mapping[str, TensorEntry]:
        """Every tensor by its name."""
        ...

    @property
    def n_bytes(self) -> int:
        """Bytes of all tensors."""
        ...

    @property
    def identity(self) -> str:
        """A hash that changes with the checkpoint, made without reading the weights."""
        ...

    def read_rows(self, name: str, start: int, stop: int) -> memoryview:
        """Return rows `[start, stop)` of a tensor seen as a matrix, little-endian; thread-safe.

        Raises:
            IntegrityError: The data ends before.
        """
        ...


class _RawEntry(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


class WeightFile(Protocol):
    """A safetensors file that lies elsewhere and is read in pieces."""

    @property
    def n_bytes(self) -> int:
        """Its size."""
        ...

    @property
    def identity(self) -> str:
        """What tells it from any other."""
        ...

    def read(self, offset: int, n_bytes: int) -> memoryview:
        """Return bytes at a position; fewer when the file ends before."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class FolderCheckpoint(Closable):
    """The safetensors files of a folder.

    Args:
        folder: It holds `model.safetensors`, or shards and their index.
        remote: Files by name that lie elsewhere, instead of any in the folder.

    Raises:
        NotFoundError: There is no such folder, or a shard is missing.
        UnsupportedError: It holds pickles, or no weights that are known.
        IntegrityError: A file is damaged.
    """

    def __init__(self, folder: Path, remote: Mapping[str, WeightFile] | None = None) -> None:
        self._places: dict[str, tuple[RangeReader | WeightFile, int]] = {}
        self._tensors: dict[str, TensorEntry] = {}
        self._readers: list[RangeReader | WeightFile] = []
        self._digest = hashlib.sha256()
        try:
            if remote is None:
                for path in _weight_files(folder):
                    self._add_file(path)
            else:
                for name in _remote_names(folder, remote):
                    self._add(folder / name, remote[name], (name, remote[name].identity))
        except BaseException:
            self.close()
            raise

    @property
    def tensors(self) -> Mapping[str, TensorEntry]:
        """Every tensor by its name."""
        return self._tensors

    @property
    def n_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.n_rows * entry.row_bytes for entry in self._tensors.values())

    @property
    def identity(self) -> str:
        """Hash of the files' names, sizes, times, headers and first weights."""
        return self._digest.hexdigest()

    def read_rows(self, name: str, start: int, stop: int) -> memoryview:
        """Return rows `[start, stop)` of a tensor seen as a matrix."""
        reader, offset = self._places[name]
        row_bytes = self._tensors[name].row_bytes
        data = reader.read(offset + start * row_bytes, (stop - start) * row_bytes)
        if len(data) != (stop - start) * row_bytes:
            raise IntegrityError(f"the checkpoint became shorter while {name} was read")
        return data

    def close(self) -> None:
        """Close the files."""
        for reader in self._readers:
            reader.close()

    def _add_file(self, path: Path) -> None:
        try:
            reader = RangeReader(path)
        except OSError as error:
            raise NotFoundError(f"{path} cannot be read: {error.strerror}") from None
        status = path.stat()
        self._add(path, reader, (path.name, status.st_size, status.st_mtime_ns))

    def _add(self, path: Path, reader: RangeReader | WeightFile, facts: tuple[object, ...]) -> None:
        self._readers.append(reader)
        entries, data_start = _read_entries(path, reader)
        self._digest.update(repr(facts).encode())
        self._digest.update(reader.read(0, data_start + _HASHED_BYTES))
        for name, entry in entries.items():
            if name in self._tensors:
                raise IntegrityError(f"tensor {name} is in two files of {path.parent}")
            self._tensors[name] = TensorEntry(entry.dtype, tuple(entry.shape))
            self._places[name] = (reader, data_start + entry.data_offsets[0])


def _weight_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise NotFoundError(f"{folder} is not a folder", _folder_hint(folder))
    if (folder / INDEX).is_file():
        return _shards(folder)
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1:
        return files
    if files:
        raise UnsupportedError(
            f"{folder} has {len(files)} safetensors files and no {INDEX} that says what they are",
            "download the whole checkpoint again",
        )
    if any(path for pattern in _PICKLES for path in folder.glob(pattern)):
        raise UnsupportedError(
            f"{folder} has its weights as pickles, which can run any program when read", _SAFE_COPY
        )
    ggufs = sorted(folder.glob("*.gguf"))
    if ggufs:
        raise NotFoundError(
            f"{folder} has no safetensors files, but {ggufs[0].name}, which is converted already",
            f"llmedge quantize {ggufs[0]} -t Q4_K_M, or llmedge chat {ggufs[0]}",
        )
    raise NotFoundError(f"{folder} has no safetensors files", "is it the folder of a checkpoint?")


def _remote_names(folder: Path, remote: Mapping[str, WeightFile]) -> list[str]:
    if (folder / INDEX).is_file():
        names = _index_names(folder)
    else:
        names = [SINGLE] if SINGLE in remote else sorted(remote)
        if len(names) > 1:
            raise UnsupportedError(
                f"it has {len(names)} safetensors files and no {INDEX} that says what they are"
            )
    missing = [name for name in names if name not in remote]
    if missing or not names:
        raise NotFoundError(f"the hub lacks {missing[0] if missing else SINGLE!r}")
    return names


def _folder_hint(path: Path) -> str:
    if path.is_file():
        return f"give its folder: {path.parent}"
    if len(path.parts) == 2 and not path.is_absolute():
        return f"download it first: hf download {path.as_posix()} --local-dir {path.name}"
    return "give the folder of a checkpoint"


def _index_names(folder: Path) -> list[str]:
    try:
        index = msgspec.json.decode((folder / INDEX).read_bytes(), type=_Index)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"{folder / INDEX} is damaged: {error}") from None
    return sorted(set(index.weight_map.values()))


def _shards(folder: Path) -> list[Path]:
    names = _index_names(folder)
    for name in names:
        if len(name) > _MAX_NAME or {"/", "\\", "\0"} & set(name) or not (folder / name).is_file():
            raise NotFoundError(
                f"{folder} lacks {name!r}, one of its {len(names)} shards", "download it again"
            )
    return [folder / name for name in names]


def _read_entries(path: Path, reader: RangeReader | WeightFile) -> tuple[dict[str, _RawEntry], int]:
    head = reader.read(0, 8)
    n_header = int.from_bytes(head, "little")
    if len(head) < 8 or n_header > min(_MAX_HEADER_BYTES, reader.n_bytes - 8):
        if bytes(head) == b"version ":
            raise IntegrityError(f"{path} is a pointer of git-lfs, not the file", "git lfs pull")
        raise IntegrityError(f"{path} is no safetensors file, or is truncated", "get it again")
    try:
        raw = msgspec.json.decode(bytes(reader.read(8, n_header)), type=dict[str, msgspec.Raw])
        raw.pop("__metadata__", None)
        entries = {n: msgspec.json.decode(entry, type=_RawEntry) for n, entry in raw.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"the header of {path} is damaged: {error}") from None
    _check_places(path, entries, reader.n_bytes - 8 - n_header)
    return entries, 8 + n_header


def _check_places(path: Path, entries: Mapping[str, _RawEntry], n_data: int) -> None:
    """Hold every tensor to its shape and to the file: no gap, no overlap, nothing missing."""
    at = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        if entry.dtype not in _DTYPE_BYTES:
            raise UnsupportedError(f"tensor {name} in {path} has the unknown type {entry.dtype}")
        start, stop = entry.data_offsets
        if any(size < 1 for size in entry.shape):
            raise IntegrityError(f"tensor {name} in {path} has the shape {entry.shape}")
        expected = math.prod(entry.shape) * _DTYPE_BYTES[entry.dtype]
        if start != at or stop - start != expected:
            raise IntegrityError(f"tensor {name} in {path} lies at {start}–{stop}, not {at}–…")
        at = stop
    if at != n_data:
        what = "truncated" if at > n_data else "longer than its tensors"
        raise IntegrityError(f"{path} is {what}: {at} bytes of tensors, {n_data} there")
