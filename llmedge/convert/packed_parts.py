"""The stored tensors that packed weights consist of: each checked when taken, then read as arrays.

A layout takes every tensor that it understands from a `Ledger`; what nobody took is left for the
caller to judge. Knows no layout itself, only what they share: words of small codes, number types.

Source: "OCP 8-bit Floating Point Specification" 1.0 (E4M3) and "OCP Microscaling Formats" 1.0
(E8M0).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

import numpy as np

from llmedge.core.errors import IntegrityError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from llmedge.convert.rows import Floats, Index, Rows
    from llmedge.store.checkpoint import CheckpointSource, TensorEntry

Bytes: TypeAlias = "NDArray[np.uint8]"
Words: TypeAlias = "NDArray[np.uint32]"
T = TypeVar("T")

FLOAT_TYPES = ("F32", "F16", "BF16", "F64")
ORIGINAL = "convert the checkpoint that it was quantized from"
_AGAIN = "download the checkpoint again"


def _e4m3_table() -> Floats:
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, code & 7
    magnitude = np.where(exponent == 0, mantissa * 2.0**-9, np.ldexp(mantissa + 8.0, exponent - 10))
    magnitude[code & 127 == 127] = np.nan
    return np.where(code & 128, -magnitude, magnitude).astype(np.float32)


E4M3 = _e4m3_table()
E8M0 = np.append(np.ldexp(np.float32(1), np.arange(-127, 128)), np.float32(np.nan))

# How the bytes of a tensor become float32. A U8 tensor holds exponents wherever floats are meant:
# E8M0 is younger than most of the libraries that write it.
_DECODERS: dict[str, Callable[[Bytes], Floats]] = {
    "F64": lambda raw: raw.view("<f8").astype(np.float32),
    "F32": lambda raw: raw.view("<f4").astype(np.float32, copy=False),
    "F16": lambda raw: raw.view("<f2").astype(np.float32),
    "BF16": lambda raw: (raw.view("<u2").astype(np.uint32) << 16).view(np.float32),
    "F8_E4M3": lambda raw: E4M3[raw],
    "F8_E8M0": lambda raw: E8M0[raw],
    "U8": lambda raw: E8M0[raw],
    "I8": lambda raw: raw.view(np.int8).astype(np.float32),
}


@dataclass(frozen=True, slots=True)
class Part:
    """One stored tensor whose type and shape are known to be right, seen as a matrix.

    Attributes:
        source: The checkpoint.
        name: The tensor's name.
        entry: Its type and shape.
    """

    source: CheckpointSource
    name: str
    entry: TensorEntry

    @property
    def shape(self) -> tuple[int, ...]:
        """Row-major, outermost first."""
        return self.entry.shape

    @property
    def n_bytes(self) -> int:
        """Bytes of the whole tensor."""
        return self.entry.n_rows * self.entry.row_bytes

    def raw(self, start: int, stop: int) -> Bytes:
        """Return rows `[start, stop)` as bytes `(stop - start, row_bytes)`."""
        data = np.frombuffer(self.source.read_rows(self.name, start, stop), np.uint8)
        return data.reshape(stop - start, self.entry.row_bytes)

    def floats(self, start: int, stop: int) -> Floats:
        """Return rows `[start, stop)` as `(stop - start, n_columns)`."""
        return _DECODERS[self.entry.dtype](self.raw(start, stop))

    def words(self, start: int, stop: int) -> Words:
        """Return rows `[start, stop)` of an I32 tensor as `(stop - start, n_columns)`."""
        return self.raw(start, stop).view("<u4").astype(np.uint32, copy=False)

    def all_bytes(self) -> Bytes:
        """Return the whole tensor as a vector of bytes."""
        return self.raw(0, self.entry.n_rows).reshape(-1)

    def all_floats(self) -> Floats:
        """Return the whole tensor as a matrix."""
        return self.floats(0, self.entry.n_rows)

    def all_words(self) -> Words:
        """Return the whole I32 tensor as a matrix."""
        return self.words(0, self.entry.n_rows)

    def all_integers(self) -> Index:
        """Return the whole I32 or I64 tensor as a vector."""
        dtype = "<i8" if self.entry.dtype == "I64" else "<i4"
        return self.all_bytes().view(dtype).astype(np.int64)


class Ledger:
    """A checkpoint's tensors, taken one by one, and the logical tensors they became.

    Attributes:
        source: The checkpoint.
        rows: The logical tensors so far, by the names they have in the unquantized model.
        taken: Names of stored tensors that are accounted for.
    """

    def __init__(self, source: CheckpointSource) -> None:
        self.source = source
        self.rows: dict[str, Rows] = {}
        self.taken: set[str] = set()

    def prefixes(self, suffix: str) -> list[str]:
        """Return what stands before `suffix` in each name that ends in it, sorted."""
        names = sorted(self.source.tensors)
        return [name.removesuffix(suffix) for name in names if name.endswith(suffix)]

    def of_type(self, dtype: str) -> list[str]:
        """Return the names of all tensors of a type, sorted."""
        entries = sorted(self.source.tensors.items())
        return [name for name, entry in entries if entry.dtype == dtype]

    def has(self, name: str) -> bool:
        """Say whether the checkpoint has a tensor."""
        return name in self.source.tensors

    def take(
        self, name: str, dtypes: tuple[str, ...], shape: tuple[int | None, ...] | None = None
    ) -> Part:
        """Account for a tensor.

        Args:
            name: Its name.
            dtypes: The types it may have.
            shape: What its shape must be; None stands for any size of one or more.

        Raises:
            IntegrityError: It is missing, or has another shape.
            UnsupportedError: It has another type or another number of axes.
        """
        entry = self.source.tensors.get(name)
        if entry is None:
            raise IntegrityError(f"{name} is missing; the weight is packed with it", _AGAIN)
        if entry.dtype not in dtypes:
            known = " or ".join(dtypes)
            raise UnsupportedError(f"tensor {name} is {entry.dtype}, not {known}", ORIGINAL)
        if shape is not None:
            _check_shape(name, entry.shape, shape)
        self.taken.add(name)
        return Part(self.source, name, entry)

    def drop(self, *suffixes: str) -> None:
        """Account for every tensor that ends so and says nothing about weights."""
        self.taken.update(name for name in self.source.tensors if name.endswith(suffixes))

    def put(self, name: str, rows: Rows) -> None:
        """Add a logical tensor.

        Raises:
            IntegrityError: The checkpoint has that tensor a second time, unpacked.
        """
        if name in self.rows or (self.has(name) and name not in self.taken):
            raise IntegrityError(f"{name} is in the checkpoint packed and unpacked", _AGAIN)
        self.rows[name] = rows


def _check_shape(name: str, shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> None:
    if len(shape) != len(wanted):
        raise UnsupportedError(
            f"tensor {name} has the shape {list(shape)}; this layout has {len(wanted)} axes",
            ORIGINAL,
        )
    if any(
        size != (size if want is None else want) for size, want in zip(shape, wanted, strict=True)
    ):
        expected = ", ".join("…" if want is None else str(want) for want in wanted)
        raise IntegrityError(f"tensor {name} has the shape {list(shape)}, not [{expected}]", _AGAIN)


class Latest(Generic[T]):
    """Keeps what was loaded for one tensor until its last range is read or another one's is asked.

    Thread-safe: two readers of one tensor wait for one load.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: tuple[str, T] | None = None

    def get(self, name: str, load: Callable[[], T], *, is_last: bool) -> T:
        """Return what `load` makes for a tensor, from memory where it is held.

        Args:
            name: The tensor.
            load: Reads it.
            is_last: Nothing after this range will be asked for: let go.
        """
        with self._lock:
            if self._held is None or self._held[0] != name:
                self._held = None  # before the next is loaded: never two at once
                self._held = (name, load())
            loaded = self._held[1]
            if is_last:
                self._held = None
            return loaded


def codes(words: Words, bits: int) -> Bytes:
    """Split words into the codes in them, lowest bits first.

    Args:
        words: `(…, n_words)`.
        bits: Width of a code: 2, 4 or 8.

    Returns:
        `(…, n_words * 32 // bits)`.
    """
    raw = np.ascontiguousarray(words, "<u4").view(np.uint8)
    per_byte = 8 // bits
    split = np.empty((*raw.shape[:-1], raw.shape[-1] * per_byte), np.uint8)
    for place in range(per_byte):
        split[..., place::per_byte] = raw >> (bits * place) & ((1 << bits) - 1)
    return split


def ceil_div(value: int, divisor: int) -> int:
    """Divide, rounding up."""
    return -(-value // divisor)
