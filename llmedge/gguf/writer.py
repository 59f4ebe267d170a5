"""GGUF headers, written: metadata, tensor infos, and where each tensor's bytes will lie.

Knows nothing of weights: the caller writes each tensor at `data_offset + offset` and pads it.

Source: ggml/docs/gguf.md.
"""

from __future__ import annotations

import struct
import sys
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, cast

from llmedge.core.errors import UnsupportedError
from llmedge.gguf.quant_types import align
from llmedge.gguf.reader import MAGIC, MAX_DIMS, MAX_NAME_BYTES, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from llmedge.gguf.quant_types import QuantType

VERSION = 3
ALIGNMENT = 32


class U16(int):
    """An integer that its reader wants in 16 bits."""


class I32(int):
    """An integer that its reader wants signed."""


# An integer is written as u32 (i32 when negative, u64 when large), a float as f32; the integers
# of a list as i32. What is long comes as `StringList` or as an array of "B", "i" or "f", which
# take no more memory than their bytes in the file.
Scalar: TypeAlias = "bool | int | float | str | bytes"
Items: TypeAlias = "Sequence[bool] | Sequence[int] | Sequence[float] | Sequence[str | bytes]"
Value: TypeAlias = "Scalar | Items | StringList | array[int] | array[float]"

_U8 = 0
_U16, _U32, _I32, _F32, _BOOL, _STRING, _ARRAY, _U64 = 2, 4, 5, 6, 7, 8, 9, 10


@dataclass(frozen=True, slots=True)
class Metadata:
    """Metadata as it lies in a file.

    Attributes:
        n_keys: How many keys.
        data: Their bytes, one after the other.
    """

    n_keys: int
    data: bytes

    def __add__(self, other: Metadata) -> Metadata:
        return Metadata(self.n_keys + other.n_keys, self.data + other.data)


@dataclass(slots=True)
class StringList:
    """A list of strings as it lies in a file, made one string at a time.

    Attributes:
        n_strings: How many.
        data: Their lengths and bytes.
    """

    n_strings: int = 0
    data: bytearray = field(default_factory=bytearray)

    def append(self, text: str | bytes) -> None:
        """Add a string."""
        self.data += _string(text)
        self.n_strings += 1


def encode_metadata(values: Mapping[str, Value]) -> Metadata:
    """Encode keys and values, in order."""
    parts = [_string(key) + _value(value) for key, value in values.items()]
    return Metadata(len(parts), b"".join(parts))


def lay_out(
    tensors: Iterable[tuple[str, tuple[int, ...], QuantType]],
) -> tuple[TensorInfo, ...]:
    """Give each tensor its place in the data section.

    Args:
        tensors: Name, shape in GGML's order (fastest first), and type.

    Raises:
        UnsupportedError: A name or a shape does not fit the format.
    """
    infos: list[TensorInfo] = []
    offset = 0
    for name, shape, quant_type in tensors:
        if len(name.encode()) > MAX_NAME_BYTES or not 1 <= len(shape) <= MAX_DIMS:
            raise UnsupportedError(
                f"tensor {name} with shape {list(shape)} does not fit the GGUF format"
            )
        info = TensorInfo(name, shape, quant_type, offset)
        infos.append(info)
        offset = align(offset + info.n_bytes, ALIGNMENT)
    return tuple(infos)


def encode_header(metadata: Metadata, tensors: Sequence[TensorInfo]) -> bytes:
    """Return everything before the data section, padding included."""
    head = MAGIC + struct.pack("<IQQ", VERSION, len(tensors), metadata.n_keys)
    infos = b"".join(_tensor_info(tensor) for tensor in tensors)
    size = len(head) + len(metadata.data) + len(infos)
    padding = bytes(align(size, ALIGNMENT) - size) if tensors else b""
    return b"".join((head, metadata.data, infos, padding))


def padded_bytes(tensor: TensorInfo) -> int:
    """Bytes that a tensor takes in the file, padding included."""
    return align(tensor.n_bytes, ALIGNMENT)


def _tensor_info(tensor: TensorInfo) -> bytes:
    n_dims = len(tensor.shape)
    return _string(tensor.name) + struct.pack(
        f"<I{n_dims}QIQ", n_dims, *tensor.shape, tensor.quant_type.id, tensor.offset
    )


def _string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def _value(value: Value) -> bytes:
    if isinstance(value, StringList):
        return struct.pack("<IIQ", _ARRAY, _STRING, value.n_strings) + value.data
    if isinstance(value, array):
        return _array(cast("array[int]", value))
    if isinstance(value, (str, bytes, bool, int, float)):
        kind = _kind(value)
        return struct.pack("<I", kind) + _scalar(kind, value)
    kind = _I32 if not value else _item_kind(value)
    head = struct.pack("<IIQ", _ARRAY, kind, len(value))
    return head + b"".join(_scalar(kind, item) for item in value)


def _array(values: array[int]) -> bytes:
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    head = struct.pack("<IIQ", _ARRAY, _ARRAY_KINDS[values.typecode], len(values))
    return head + values.tobytes()


def _item_kind(values: Sequence[Scalar]) -> int:
    kind = _kind(values[0])
    return _I32 if kind in (_U32, _U64) else kind


def _kind(value: Scalar) -> int:
    if isinstance(value, bool):
        return _BOOL
    if isinstance(value, int):
        return _integer_kind(value)
    return _F32 if isinstance(value, float) else _STRING


def _integer_kind(value: int) -> int:
    if isinstance(value, U16):
        return _U16
    if isinstance(value, I32) or value < 0:
        return _I32
    return _U32 if value < 1 << 32 else _U64


_ARRAY_KINDS = {"B": _U8, "i": _I32, "f": _F32}
_CODES = {_U16: "<H", _U32: "<I", _I32: "<i", _F32: "<f", _BOOL: "<?", _U64: "<Q"}


def _scalar(kind: int, value: Scalar) -> bytes:
    if isinstance(value, (str, bytes)):
        return _string(value)
    return struct.pack(_CODES[kind], value)
