"""bitsandbytes: NF4 and FP4 blocks over the flattened weight, and LLM.int8 rows.

    weight (n / 2, 1)   two codes a byte, the first in the high half, whatever type it claims
    weight.absmax       a float per block; with double quantization a U8 code into
    weight.nested_quant_map, times weight.nested_absmax per block of those, plus an offset
    weight.quant_map    what the 16 codes stand for
    weight.quant_state.bitsandbytes__nf4   JSON: shape, blocksize, nested_blocksize, nested_offset

    weight (n_out, n_in) I8, SCB (n_out,)  LLM.int8: the greatest magnitude of each row

Source: github.com/bitsandbytes-foundation/bitsandbytes, bitsandbytes/functional.py `QuantState`,
`dequantize_4bit`, `int8_vectorwise_dequant`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from llmedge.convert.packed_parts import FLOAT_TYPES, ORIGINAL, Latest, ceil_div
from llmedge.convert.rows import Rows
from llmedge.core.errors import IntegrityError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llmedge.convert.packed_parts import Bytes, Ledger, Part
    from llmedge.convert.rows import Floats

_STORAGE_BYTES = {"U8": 1, "I8": 1, "F16": 2, "BF16": 2, "F32": 4}
_STATE = ".quant_state.bitsandbytes__"
_MAX_STATE_BYTES = 4096
_STEP = np.float32(1 / 127)  # of the greatest magnitude


def unpack_bitsandbytes(ledger: Ledger, _config: Mapping[str, object]) -> None:
    """Take every 4-bit and 8-bit weight.

    Raises:
        UnsupportedError: A type or layout that is not read.
        IntegrityError: Tensors of a weight do not fit each other.
    """
    latest: Latest[Floats] = Latest()
    for kind in ("nf4", "fp4"):
        for name in ledger.prefixes(f"{_STATE}{kind}"):
            ledger.put(name, _four_bit(ledger, name, kind, latest))
    for prefix in ledger.prefixes(".SCB"):
        ledger.put(f"{prefix}.weight", _eight_bit(ledger, prefix))


@dataclass(frozen=True, slots=True)
class _State:
    shape: tuple[int, ...]
    block_size: int
    nested_block_size: int
    nested_offset: float

    @property
    def n_blocks(self) -> int:
        return ceil_div(math.prod(self.shape), self.block_size)


def _four_bit(ledger: Ledger, name: str, kind: str, latest: Latest[Floats]) -> Rows:
    state = _read_state(ledger, f"{name}{_STATE}{kind}")
    weight = _take_codes(ledger, name, state)
    quant_map = ledger.take(f"{name}.quant_map", FLOAT_TYPES, (16,))
    load_scales = _scales_of_blocks(ledger, name, state)
    n_rows, n_columns = math.prod(state.shape[:-1]), state.shape[-1]

    def read(start: int, stop: int) -> Floats:
        scales = latest.get(name, load_scales, is_last=stop >= n_rows)
        first, last = start * n_columns, stop * n_columns
        values = quant_map.all_floats()[0][_codes(weight, first, last)]
        block, last_block = first // state.block_size, ceil_div(last, state.block_size)
        spread = np.repeat(scales[block:last_block], state.block_size)
        skip = first - block * state.block_size
        values *= spread[skip : skip + last - first]
        return values.reshape(stop - start, n_columns)

    return Rows(state.shape, read, whole_bytes=4 * state.n_blocks)


def _take_codes(ledger: Ledger, name: str, state: _State) -> Part:
    weight = ledger.take(name, tuple(_STORAGE_BYTES), (None, 1))
    n_items = ceil_div(ceil_div(math.prod(state.shape), 2), _STORAGE_BYTES[weight.entry.dtype])
    if weight.shape[0] != n_items:
        raise IntegrityError(
            f"tensor {name} has {weight.shape[0]} items of {weight.entry.dtype}; the "
            f"{list(state.shape)} of its quant_state take {n_items}"
        )
    return weight


def _codes(weight: Part, first: int, last: int) -> Bytes:
    """Return the codes of weights `[first, last)`, counted through the flattened tensor."""
    item_bytes = _STORAGE_BYTES[weight.entry.dtype]
    item, last_item = first // (2 * item_bytes), ceil_div(last, 2 * item_bytes)
    raw = weight.raw(item, last_item).reshape(-1)
    split = np.empty(2 * len(raw), np.uint8)
    split[0::2] = raw >> 4
    split[1::2] = raw & 15
    skip = first - item * 2 * item_bytes
    return split[skip : skip + last - first]


def _scales_of_blocks(ledger: Ledger, name: str, state: _State) -> Callable[[], Floats]:
    if not ledger.has(f"{name}.nested_absmax"):
        absmax = ledger.take(f"{name}.absmax", FLOAT_TYPES, (state.n_blocks,))
        return lambda: absmax.all_floats()[0]
    coded = ledger.take(f"{name}.absmax", ("U8",), (state.n_blocks,))
    nested_map = ledger.take(f"{name}.nested_quant_map", FLOAT_TYPES, (256,))
    n_nested = ceil_div(state.n_blocks, state.nested_block_size)
    nested = ledger.take(f"{name}.nested_absmax", FLOAT_TYPES, (n_nested,))

    def load() -> Floats:
        scales = nested_map.all_floats()[0][coded.all_bytes()]
        scales *= np.repeat(nested.all_floats()[0], state.nested_block_size)[: state.n_blocks]
        scales += np.float32(state.nested_offset)
        return scales

    return load


def _read_state(ledger: Ledger, name: str) -> _State:
    part = ledger.take(name, ("U8",), (None,))
    if part.n_bytes > _MAX_STATE_BYTES:
        raise IntegrityError(f"{name} has {part.n_bytes} bytes; a quant_state is short")
    try:
        state: object = json.loads(part.all_bytes().tobytes())
    except (ValueError, RecursionError):
        state = None
    if not isinstance(state, dict):
        raise IntegrityError(f"{name} is no JSON object")
    values = cast("dict[str, object]", state)
    shape = values.get("shape")
    sizes = cast("list[object]", shape) if isinstance(shape, list) else []
    if not sizes:
        raise IntegrityError(f"{name} says shape {shape!r}")
    offset = values.get("nested_offset", 0.0)
    if not isinstance(offset, float) or not math.isfinite(offset):
        raise IntegrityError(f"{name} says nested_offset {offset!r}")
    return _State(
        tuple(_size(size, name, "shape") for size in sizes),
        _size(values.get("blocksize"), name, "blocksize"),
        _size(values.get("nested_blocksize", 1), name, "nested_blocksize"),
        offset,
    )


def _size(value: object, name: str, key: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 40:
        raise IntegrityError(f"{name} says {key} {value!r}")
    return value


def _eight_bit(ledger: Ledger, prefix: str) -> Rows:
    weight = ledger.take(f"{prefix}.weight", ("I8",), (None, None))
    greatest = ledger.take(f"{prefix}.SCB", FLOAT_TYPES, (weight.shape[0],))
    if ledger.has(f"{prefix}.weight_format"):
        layout = ledger.take(f"{prefix}.weight_format", ("U8",), ())
        if layout.all_bytes()[0] != 0:
            raise UnsupportedError(
                f"{layout.name} is not 0: its rows are tiled for one GPU", ORIGINAL
            )

    def read(start: int, stop: int) -> Floats:
        values = weight.floats(start, stop)
        values *= greatest.all_floats()[0][start:stop, None]
        values *= _STEP
        return values

    return Rows(weight.shape, read)
