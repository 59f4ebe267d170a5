"""A GGUF file's header, checked against the file before anything trusts it; weights stay unread.

Every count, length, type and offset is held against the file's size first, so that reading takes
memory in proportion to the header and a hostile file is an `IntegrityError`. What passes here may
still crash llama.cpp for reasons that no header shows; `runtime.first_load` is for those.

Source: ggml/docs/gguf.md, and the checks of ggml/src/gguf.cpp.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

from llmedge.core.errors import IntegrityError, NotFoundError, UnsupportedError
from llmedge.gguf.quant_types import BY_ID, QuantType, align
from llmedge.host.stamp import Stamp, require_unchanged, stamp_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from io import BufferedReader
    from pathlib import Path

MAGIC = b"GGUF"
MAX_NAME_BYTES = 63  # GGML_MAX_NAME less the final zero
_MAX_KEY_BYTES = 65535
# The longest strings in use are whole tokenizer.json files of some tens of megabytes, the longest
# arrays vocabularies of some hundred thousand tokens. A sparse file may claim anything for free.
_MAX_STRING_BYTES = 64 << 20
_MAX_METADATA_BYTES = 192 << 20
_MAX_STRINGS = 4 << 20
_BLOCK_BYTES = 1 << 20
MAX_DIMS = 4
_MAX_ALIGNMENT = 1 << 20
_INT64_MAX = (1 << 63) - 1
_KEPT_ITEMS = 4096  # longer arrays keep their place in the file, not their values
_MIN_KV_BYTES = 8 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8

STRING, ARRAY, _BOOL = 8, 9, 7
SCALARS = dict(zip((*range(8), 10, 11, 12), "BbHhIif?Qqd", strict=True))
_NAMES = "u8 i8 u16 i16 u32 i32 f32 bool u64 i64 f64"
_TYPE_NAMES = dict(zip(SCALARS, _NAMES.split(), strict=True)) | {STRING: "str"}

Scalar: TypeAlias = "str | int | float | bool"


@dataclass(frozen=True, slots=True)
class Array:
    """An array in the metadata.

    Attributes:
        type_name: `str`, `i32`, `f32` …
        length: How many items it has.
        items: The items of an array short enough to keep (layers, languages), else empty.
        sha256: Hash of its bytes in the file: two vocabularies are equal when these are.
    """

    type_name: str
    length: int
    items: tuple[Scalar, ...]
    sha256: str


Value: TypeAlias = "Scalar | Array"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor's place and shape.

    Attributes:
        name: Its name, at most 63 bytes.
        shape: Sizes in GGML's order, fastest first: `(n_in, n_out)` for a matrix.
        quant_type: How its weights are stored.
        offset: Bytes from the start of the data section.
    """

    name: str
    shape: tuple[int, ...]
    quant_type: QuantType
    offset: int

    @property
    def n_weights(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """Bytes in the file, without padding."""
        return self.quant_type.row_bytes(self.n_weights)


@dataclass(frozen=True, slots=True)
class Header:
    """A GGUF file without its weights.

    Attributes:
        path: The file.
        version: 2 or 3.
        metadata: Key to value, in the file's order.
        tensors: In the file's order.
        alignment: Every tensor starts at a multiple of it.
        data_offset: Where the data section starts.
        header_bytes: Where the header ends, before it is padded.
        stamp: The file that was read, whatever lies at the path later.
    """

    path: Path
    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...]
    alignment: int
    data_offset: int
    header_bytes: int
    stamp: Stamp

    @property
    def file_bytes(self) -> int:
        """The file's size."""
        return self.stamp.n_bytes

    @property
    def architecture(self) -> str:
        """llama.cpp's name for the architecture, the prefix of its hyperparameter keys."""
        return self.text("general.architecture") or ""

    @property
    def n_weights(self) -> int:
        """Weights in all tensors."""
        return sum(tensor.n_weights for tensor in self.tensors)

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors, without padding; what llama.cpp calls the model's size."""
        return sum(tensor.n_bytes for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Real bits per weight over all tensors, norms and embeddings included."""
        return 8 * self.tensor_bytes / self.n_weights if self.n_weights else 0.0

    def text(self, key: str) -> str | None:
        """Return a string value, or `None` where the key is missing or of another type."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def number(self, key: str) -> int | None:
        """Return an integer value, or `None` where the key is missing or of another type."""
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def hyperparameter(self, key: str) -> int | None:
        """Return an integer of the architecture, such as `block_count`."""
        return self.number(f"{self.architecture}.{key}")

    def require_unchanged(self) -> None:
        """Make sure that the file is still the one that this was read from.

        Raises:
            IntegrityError: It was written, replaced or removed meanwhile.
        """
        require_unchanged(self.path, self.stamp)

    def vocabulary_sha256(self) -> str | None:
        """Return the hash of the token list, or `None` for a file without a vocabulary."""
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        return tokens.sha256 if isinstance(tokens, Array) else None


def read_header(path: Path) -> Header:
    """Read and check a file's header.

    Raises:
        NotFoundError: There is no such file.
        IntegrityError: It is not a GGUF file, is truncated, or contradicts itself.
        UnsupportedError: It is a GGUF file of a version or byte order that is not supported.
    """
    try:
        file = path.open("rb")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise NotFoundError(
            f"{path} is not a file", "`llmedge list` shows the models at hand"
        ) from None
    except OSError as error:
        raise NotFoundError(f"{path} cannot be read: {error.strerror}") from None
    with file:
        return _Parser(path, file).parse()


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


class _Parser:
    """Reads one header from front to back; every read is checked against what is left."""

    def __init__(self, path: Path, file: BufferedReader) -> None:
        self._path = path
        self._file = file
        self._stamp = stamp_of(os.fstat(file.fileno()))
        self._size = self._stamp.n_bytes
        self._at = 0

    def parse(self) -> Header:
        version, n_tensors, n_kv = self._parse_front()
        metadata: dict[str, Value] = {}
        for _ in range(n_kv):
            key = self._string(_MAX_KEY_BYTES, "a metadata key")
            if key in metadata:
                raise self._broken(f"metadata key {key!r} is doubled")
            self._check_name(key, "metadata key")
            metadata[key] = self._value(key)
        alignment = self._alignment(metadata)
        tensors = tuple(self._tensor() for _ in range(n_tensors))
        end = self._at
        data_offset = align(end, alignment) if tensors else end
        self._check_layout(tensors, alignment, data_offset)
        is_imatrix = metadata.get("general.type") == "imatrix"  # of any architecture
        if not is_imatrix and not isinstance(metadata.get("general.architecture"), str):
            raise self._broken("it does not say its architecture (general.architecture)")
        front = (self._path, version, metadata, tensors, alignment)
        return Header(*front, data_offset, end, self._stamp)

    def _parse_front(self) -> tuple[int, int, int]:
        magic = self._take(4, "the magic number")
        if magic != MAGIC:
            what = "an HTML page" if magic[:1] == b"<" else f"something that starts with {magic!r}"
            hint = "download or convert the model again"
            raise IntegrityError(f"{self._path} is not a GGUF file but {what}", hint)
        version = cast("int", self._scalar("I", "the version"))
        if version not in (2, 3):
            order = " or of a big-endian machine" if version & 0xFFFF == 0 else ""
            raise UnsupportedError(
                f"{self._path} is GGUF version {version}{order}; versions 2 and 3 are supported",
                "convert the original checkpoint again",
            )
        n_tensors = cast("int", self._scalar("Q", "the tensor count"))
        n_kv = cast("int", self._scalar("Q", "the metadata count"))
        needed = n_tensors * _MIN_TENSOR_BYTES + n_kv * _MIN_KV_BYTES
        if needed > self._size - self._at:
            raise self._broken(f"{n_tensors} tensors and {n_kv} metadata keys cannot fit in it")
        return version, n_tensors, n_kv

    def _value(self, key: str) -> Value:
        kind = cast("int", self._scalar("I", f"the type of {key}"))
        if kind == ARRAY:
            return self._array(key)
        return self._item(kind, key)

    def _item(self, kind: int, key: str) -> Scalar:
        if kind == STRING:
            return self._string(_MAX_STRING_BYTES, key)
        if kind not in SCALARS:
            raise self._broken(f"{key} has the unknown type {kind}")
        return self._scalar(SCALARS[kind], key)

    def _array(self, key: str) -> Array:
        kind = cast("int", self._scalar("I", f"the item type of {key}"))
        length = cast("int", self._scalar("Q", f"the length of {key}"))
        if kind != STRING and kind not in SCALARS:
            raise self._broken(f"{key} is an array of the unsupported type {kind}")
        item_bytes = 8 if kind == STRING else struct.calcsize("<" + SCALARS[kind])
        n_bytes = length * item_bytes
        if (kind == STRING and length > _MAX_STRINGS) or n_bytes > _MAX_METADATA_BYTES:
            raise self._broken(f"{key} has {length} items, more than any model needs")
        if n_bytes > self._size - self._at:
            raise self._broken(f"{key} has {length} items, more than the file has room for")
        digest = hashlib.sha256()
        if kind == STRING:
            items: tuple[Scalar, ...] = self._strings(key, length, digest)
        else:
            items = self._numbers(key, length, kind, digest)
        return Array(_TYPE_NAMES[kind], length, items, digest.hexdigest())

    def _numbers(self, key: str, length: int, kind: int, digest: _Digest) -> tuple[Scalar, ...]:
        item_bytes = struct.calcsize("<" + SCALARS[kind])
        if length <= _KEPT_ITEMS:
            data = self._take(length * item_bytes, key)
            digest.update(data)
            return struct.unpack(f"<{length}{SCALARS[kind]}", data)
        left = length * item_bytes
        while left:
            block = self._take(min(left, _BLOCK_BYTES), key)
            digest.update(block)
            left -= len(block)
        return ()

    def _strings(self, key: str, length: int, digest: _Digest) -> tuple[str, ...]:
        kept: list[str] = []
        for _ in range(length):
            prefix = self._take(8, key)
            n_bytes = int.from_bytes(prefix, "little")
            self._check_length(n_bytes, _MAX_STRING_BYTES, key)
            data = self._take(n_bytes, key)
            digest.update(prefix)
            digest.update(data)
            if length <= _KEPT_ITEMS:
                kept.append(data.decode("utf-8", "replace"))
        return tuple(kept)

    def _alignment(self, metadata: Mapping[str, Value]) -> int:
        value = metadata.get("general.alignment", 32)
        is_power = isinstance(value, int) and value > 0 and value & (value - 1) == 0
        if not isinstance(value, int) or not is_power or value > _MAX_ALIGNMENT:
            raise self._broken(f"its alignment is {value!r}, not a small power of two")
        return value

    def _tensor(self) -> TensorInfo:
        name = self._string(MAX_NAME_BYTES, "a tensor's name")
        self._check_name(name, "tensor name")
        n_dims = cast("int", self._scalar("I", f"the dimensions of {name}"))
        if not 1 <= n_dims <= MAX_DIMS:
            raise self._broken(f"tensor {name} has {n_dims} dimensions")
        shape = tuple(cast("int", self._scalar("Q", f"the shape of {name}")) for _ in range(n_dims))
        kind = cast("int", self._scalar("I", f"the type of {name}"))
        offset = cast("int", self._scalar("Q", f"the offset of {name}"))
        quant_type = BY_ID.get(kind)
        if quant_type is None:
            raise self._broken(f"tensor {name} has the unknown type {kind}")
        if min(shape) < 1 or math.prod(shape) > _INT64_MAX:
            raise self._broken(f"tensor {name} has the impossible shape {list(shape)}")
        if shape[0] % quant_type.block_weights:
            raise self._broken(
                f"tensor {name} has rows of {shape[0]} weights, no multiple of "
                f"{quant_type.name}'s {quant_type.block_weights}"
            )
        return TensorInfo(name, shape, quant_type, offset)

    def _check_layout(
        self, tensors: tuple[TensorInfo, ...], alignment: int, data_offset: int
    ) -> None:
        if len({tensor.name for tensor in tensors}) != len(tensors):
            raise self._broken("two tensors have the same name")
        expected = 0
        for tensor in tensors:
            if tensor.offset != expected:
                raise self._broken(
                    f"tensor {tensor.name} starts at {tensor.offset} instead of {expected}"
                )
            if data_offset + expected + tensor.n_bytes > self._size:
                missing = data_offset + expected + tensor.n_bytes - self._size
                raise self._broken(
                    f"it is truncated: tensor {tensor.name} ends {missing} bytes after the file"
                )
            expected = align(expected + tensor.n_bytes, alignment)

    def _take(self, n_bytes: int, what: str) -> bytes:
        if self._at + n_bytes > _MAX_METADATA_BYTES:
            raise self._broken(f"its header is longer than {_MAX_METADATA_BYTES} bytes")
        if n_bytes > self._size - self._at:
            raise self._broken(f"it is truncated: {what} needs {n_bytes} bytes at {self._at}")
        data = self._file.read(n_bytes)
        if len(data) != n_bytes:
            raise self._broken(f"it became shorter while {what} was read")
        self._at += n_bytes
        return data

    def _scalar(self, code: str, what: str) -> Scalar:
        data = self._take(struct.calcsize("<" + code), what)
        if code == "?" and data not in (b"\0", b"\1"):
            raise self._broken(f"{what} is neither true nor false")
        return cast("Scalar", struct.unpack("<" + code, data)[0])

    def _string(self, max_bytes: int, what: str) -> str:
        length = cast("int", self._scalar("Q", what))
        self._check_length(length, max_bytes, what)
        data = self._take(length, what)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise self._broken(f"{what} is not UTF-8") from None

    def _check_name(self, name: str, what: str) -> None:
        # llama.cpp reads names as C strings, and people read them on terminals.
        if not name or not name.isprintable() or name != name.strip():
            raise self._broken(f"the {what} {name!r} is empty or not plain text")

    def _check_length(self, length: int, max_bytes: int, what: str) -> None:
        if length > max_bytes:
            raise self._broken(f"{what} is {length} bytes long")

    def _broken(self, why: str) -> IntegrityError:
        return IntegrityError(
            f"{self._path} is damaged: {why}", "download, copy or convert the model again"
        )
