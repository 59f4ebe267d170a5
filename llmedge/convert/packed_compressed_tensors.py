"""compressed-tensors: numbers with a grid of scales, a byte each or packed into words.

    int-quantized, float-quantized   weight (n_out, n_in) I8 or F8_E4M3
    pack-quantized                   weight_packed (n_out, n_in * bits / 32), weight_shape (2,)
    each with                        weight_scale, for an asymmetric one weight_zero_point,
                                     with activation order weight_g_idx (n_in,)

Packed codes are offset by half their range, packed zero points too; those lie along the outputs.
Which of the config's groups a layer belongs to is read off its tensors: they fit one, or the
checkpoint is refused.

Source: github.com/vllm-project/compressed-tensors, compressors/naive_quantized/base.py,
compressors/pack_quantized/helpers.py `pack_to_int32`, quantization/quant_args.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np

from llmedge.convert.packed_config import (
    block,
    group_size,
    integer,
    mapping,
    refuse_unless,
    text,
    value_of,
)
from llmedge.convert.packed_parts import FLOAT_TYPES, ORIGINAL, ceil_div, codes
from llmedge.convert.packed_scaled import Grid, scaled_rows
from llmedge.convert.rows import Rows
from llmedge.core.errors import IntegrityError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmedge.convert.packed_parts import Ledger, Part
    from llmedge.convert.rows import Floats

_FORMATS = (
    "int-quantized",
    "float-quantized",
    "naive-quantized",
    "pack-quantized",
    "mixed-precision",
)
_PACKED_BITS = (2, 4, 8)
_ABOUT_ACTIVATIONS = (
    ".input_scale",
    ".input_zero_point",
    ".output_scale",
    ".output_zero_point",
    ".q_scale",
    ".k_scale",
    ".v_scale",
)


@dataclass(frozen=True, slots=True)
class _Scheme:
    """How one of the config's groups quantizes weights.

    Attributes:
        is_float: FP8, not integers.
        bits: Width of a code.
        is_symmetric: There are no zero points.
        block: Rows and columns that share a scale; None for all of them.
    """

    is_float: bool
    bits: int
    is_symmetric: bool
    block: tuple[int | None, int | None]

    def packed_shape(self, matrix: tuple[int, int]) -> tuple[int, int] | None:
        if self.is_float or self.bits not in _PACKED_BITS:
            return None
        return matrix[0], ceil_div(matrix[1] * self.bits, 32)

    def grid(self, matrix: tuple[int, int]) -> Grid:
        return Grid(matrix, (self.block[0] or matrix[0], self.block[1] or matrix[1]))


def unpack_compressed_tensors(ledger: Ledger, config: Mapping[str, object]) -> None:
    """Take every quantized layer.

    Raises:
        UnsupportedError: A format, bit width or strategy that is not read.
        IntegrityError: Tensors of a layer do not fit each other or any group of the config.
    """
    schemes = _schemes(config)
    for prefix in ledger.prefixes(".weight_packed"):
        ledger.put(f"{prefix}.weight", _packed_layer(ledger, prefix, schemes))
    for prefix in ledger.prefixes(".weight_scale"):
        if f"{prefix}.weight_scale" not in ledger.taken:
            rows = _plain_layer(ledger, prefix, schemes)
            ledger.put(f"{prefix}.weight", rows)
    ledger.drop(*_ABOUT_ACTIVATIONS)


def _schemes(config: Mapping[str, object]) -> list[_Scheme]:
    refuse_unless(
        "compressed-tensors' sparsity_config.format",
        text(mapping(config, "sparsity_config"), "format", default="dense"),
        ("dense",),
    )
    if mapping(mapping(config, "transform_config"), "config_groups"):
        raise UnsupportedError("the checkpoint's weights are rotated (transform_config)", ORIGINAL)
    groups = mapping(config, "config_groups")
    schemes: list[_Scheme] = []
    for key in groups:
        group = mapping(groups, key)
        weights = mapping(group, "weights")
        if weights:
            chosen = text(group, "format", default=text(config, "format", default=""))
            refuse_unless("compressed-tensors' format", chosen, _FORMATS)
            schemes.append(_scheme(weights, is_packed=chosen == "pack-quantized"))
    if not schemes:
        raise IntegrityError("quantization_config.config_groups says nothing about weights")
    return schemes


def _scheme(weights: Mapping[str, object], *, is_packed: bool) -> _Scheme:
    bits = integer(weights, "num_bits")
    kind = text(weights, "type", default="int")
    refuse_unless("compressed-tensors' type", kind, ("int", "float"))
    known = (8,) if kind == "float" else _PACKED_BITS if is_packed else tuple(range(1, 9))
    refuse_unless(f"compressed-tensors' num_bits of type {kind}", bits, known)
    size = value_of(weights, "group_size")
    implied = "tensor" if size is None else "channel" if size == -1 else "group"
    strategy = text(weights, "strategy", default=implied)
    refuse_unless("compressed-tensors' strategy", strategy, ("tensor", "channel", "group", "block"))
    shared: tuple[int | None, int | None] = (None, None)
    if strategy == "block":
        shared = block(weights, "block_structure") or (0, 0)
        if shared == (0, 0):
            raise IntegrityError("quantization_config.block_structure is missing")
    elif strategy != "tensor":
        shared = (1, group_size(weights, "group_size") if strategy == "group" else None)
    return _Scheme(kind == "float", bits, value_of(weights, "symmetric") is not False, shared)


@dataclass(frozen=True, slots=True)
class _Scales:
    """The scheme that a layer's tensors fit, and its scales."""

    scheme: _Scheme
    grid: Grid
    scale: Part


def _scales(
    ledger: Ledger, prefix: str, matrix: tuple[int, int], schemes: list[_Scheme]
) -> _Scales:
    name = f"{prefix}.weight_scale"
    scale = ledger.take(name, FLOAT_TYPES)
    fitting = [item for item in schemes if item.grid(matrix).fits(scale.shape)]
    if len({(item.bits, item.block) for item in fitting}) != 1:
        raise IntegrityError(
            f"tensor {name} has the shape {list(scale.shape)}, which fits the weight of "
            f"{list(matrix)} by {len(fitting)} groups of quantization_config, not one"
        )
    scheme = fitting[0]
    grid = scheme.grid(matrix)
    if ledger.has(f"{prefix}.weight_g_idx"):
        groups = ledger.take(f"{prefix}.weight_g_idx", ("I32", "I64"), (matrix[1],))
        grid = replace(grid, groups=groups)
    return _Scales(scheme, grid, scale)


def _plain_layer(ledger: Ledger, prefix: str, schemes: list[_Scheme]) -> Rows:
    weight = ledger.take(f"{prefix}.weight", ("I8", "F8_E4M3"), (None, None))
    is_float = weight.entry.dtype == "F8_E4M3"
    matrix = cast("tuple[int, int]", weight.shape)
    found = _scales(ledger, prefix, matrix, [s for s in schemes if s.is_float == is_float])
    name = f"{prefix}.weight_zero_point"
    zero = None
    if ledger.has(name) or not found.scheme.is_symmetric:
        zero = found.grid.take(ledger, name, (weight.entry.dtype,))
    return scaled_rows(weight, found.grid, found.scale, zero)


def _packed_layer(ledger: Ledger, prefix: str, schemes: list[_Scheme]) -> Rows:
    packed = ledger.take(f"{prefix}.weight_packed", ("I32",), (None, None))
    matrix = _logical_shape(ledger, prefix)
    fitting = [scheme for scheme in schemes if scheme.packed_shape(matrix) == packed.shape]
    if not fitting:
        raise IntegrityError(
            f"tensor {packed.name} has the shape {list(packed.shape)}, which holds a weight of "
            f"{list(matrix)} by no group of quantization_config"
        )
    found = _scales(ledger, prefix, matrix, fitting)
    bits, grid, scale = found.scheme.bits, found.grid, found.scale
    name = f"{prefix}.weight_zero_point"
    zero = None
    if ledger.has(name) or not found.scheme.is_symmetric:
        zero_shape = (ceil_div(grid.shape[0] * bits, 32), grid.shape[1])
        zero = ledger.take(name, ("I32",), zero_shape)

    def read(start: int, stop: int) -> Floats:
        values = codes(packed.words(start, stop), bits)[:, : matrix[1]].astype(np.float32)
        if zero is None:
            values -= 1 << (bits - 1)
        else:
            values -= grid.spread(_zeros(zero, bits, grid, start, stop), start, stop)
        values *= grid.spread(grid.read(scale, start, stop), start, stop)
        return values

    return Rows(matrix, read)


def _logical_shape(ledger: Ledger, prefix: str) -> tuple[int, int]:
    part = ledger.take(f"{prefix}.weight_shape", ("I64", "I32"), (2,))
    n_rows, n_columns = (int(size) for size in part.all_integers())
    if n_rows < 1 or n_columns < 1:
        raise IntegrityError(f"{part.name} is [{n_rows}, {n_columns}]")
    return n_rows, n_columns


def _zeros(part: Part, bits: int, grid: Grid, start: int, stop: int) -> Floats:
    """Return the zero points of rows `[start, stop)`, which are packed along the outputs."""
    per_word = 32 // bits
    first, last = start // grid.block[0], ceil_div(stop, grid.block[0])
    word = first // per_word
    taken = codes(part.words(word, ceil_div(last, per_word)).T, bits).T
    return taken[first - word * per_word : last - word * per_word].astype(np.float32)
