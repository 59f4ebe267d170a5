"""GPTQ: words of 2, 4 or 8-bit codes along the inputs, and a group for each input.

    qweight (n_in * bits / 32, n_out)      qzeros (n_groups, n_out * bits / 32)
    scales  (n_groups, n_out)              g_idx  (n_in,)

weight[o, i] = (code[i, o] - zero[g_idx[i], o]) * scale[g_idx[i], o]

With `desc_act` the inputs of a group lie anywhere, without it side by side; `g_idx` says which.

Source: github.com/AutoGPTQ/AutoGPTQ, nn_modules/qlinear/qlinear_cuda_old.py `pack`;
github.com/ModelCloud/GPTQModel, utils/model.py `convert_gptq_v1_to_v2_format_module`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from llmedge.convert.packed_columns import Columns, column_rows
from llmedge.convert.packed_config import (
    group_size,
    integer,
    refuse_overrides,
    refuse_unless,
    text,
    value_of,
)
from llmedge.convert.packed_parts import FLOAT_TYPES, Latest, Ledger, Part, ceil_div, codes
from llmedge.core.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmedge.convert.packed_parts import Bytes, Words
    from llmedge.convert.rows import Index

# The first checkpoint format stores zeros less one. Its writers subtract from whole words, with a
# borrow from one code to the next, so that only an addition to whole words gives them back.
_ONES = {2: 0x55555555, 4: 0x11111111, 8: 0x01010101}
_FORMATS = ("gptq", "gptq_v2")


def unpack_gptq(ledger: Ledger, config: Mapping[str, object]) -> None:
    """Take every GPTQ layer.

    Raises:
        UnsupportedError: A bit width or layout that is not read.
        IntegrityError: Tensors of a layer do not fit each other.
    """
    bits = integer(config, "bits")
    refuse_unless("GPTQ's bits", bits, tuple(_ONES))
    checkpoint_format = text(config, "checkpoint_format", "format", default="gptq")
    refuse_unless("GPTQ's checkpoint_format", checkpoint_format, _FORMATS)
    refuse_unless("GPTQ's is_marlin_format", value_of(config, "is_marlin_format"), (None, False))
    refuse_unless("GPTQ's pack_dtype", text(config, "pack_dtype", default="int32"), ("int32",))
    refuse_overrides(config)
    size = group_size(config, "group_size")
    zero_offset = _ONES[bits] if checkpoint_format == "gptq" else 0
    is_ordered = not config.get("desc_act")
    latest: Latest[Columns] = Latest()
    for prefix in ledger.prefixes(".qweight"):
        layer = _take(ledger, prefix, bits, size, is_ordered=is_ordered)
        rows = column_rows(
            layer.qweight,
            (layer.n_out, layer.n_in),
            partial(layer.load, zero_offset),
            layer.decode,
            latest,
        )
        ledger.put(f"{prefix}.weight", rows)


@dataclass(frozen=True, slots=True)
class _Layer:
    bits: int
    n_in: int
    n_out: int
    qweight: Part
    qzeros: Part
    scales: Part
    g_idx: Part | None
    group_size: int

    def load(self, zero_offset: int) -> Columns:
        zeros = codes(self.qzeros.all_words() + np.uint32(zero_offset), self.bits)
        return Columns(
            self.qweight.all_words(),
            zeros[:, : self.n_out],
            self.scales.all_floats(),
            self._groups(),
        )

    def decode(self, words: Words, start: int, stop: int) -> Bytes:
        return codes(words[:, start:stop].T, self.bits)[:, : self.n_in]

    def _groups(self) -> Index:
        if self.g_idx is None:
            return np.arange(self.n_in, dtype=np.int64) // self.group_size
        groups = self.g_idx.all_integers()
        n_groups = self.scales.shape[0]
        if groups.min() < 0 or groups.max() >= n_groups:
            raise IntegrityError(
                f"{self.g_idx.name} names group {groups.min()} to {groups.max()} of {n_groups}"
            )
        return groups


def _take(ledger: Ledger, prefix: str, bits: int, size: int | None, *, is_ordered: bool) -> _Layer:
    qweight = ledger.take(f"{prefix}.qweight", ("I32",), (None, None))
    n_words, n_out = qweight.shape
    g_idx = None
    n_in = n_words * 32 // bits
    if ledger.has(f"{prefix}.g_idx") or not is_ordered:
        g_idx = ledger.take(f"{prefix}.g_idx", ("I32", "I64"), (None,))
        n_in = g_idx.shape[0]
        if ceil_div(n_in * bits, 32) != n_words:
            raise IntegrityError(
                f"{g_idx.name} is for {n_in} inputs, {qweight.name} of shape "
                f"{list(qweight.shape)} at {bits} bits for {n_words * 32 // bits}"
            )
    n_groups = ceil_div(n_in, size or n_in)
    zeros_shape = (n_groups, ceil_div(n_out * bits, 32))
    return _Layer(
        bits,
        n_in,
        n_out,
        qweight,
        ledger.take(f"{prefix}.qzeros", ("I32",), zeros_shape),
        ledger.take(f"{prefix}.scales", FLOAT_TYPES, (n_groups, n_out)),
        g_idx,
        size or n_in,
    )
