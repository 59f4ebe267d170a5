"""AWQ, its `gemm` layout: words of eight 4-bit codes along the outputs, in an order of their own.

    qweight (n_in, n_out / 8)   qzeros (n_groups, n_out / 8)   scales (n_groups, n_out)

weight[o, i] = (code[i, o] - zero[i // group_size, o]) * scale[i // group_size, o]

Source: github.com/casper-hansen/AutoAWQ, awq/modules/linear/gemm.py `from_linear`.
"""

from __future__ import annotations

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
)
from llmedge.convert.packed_parts import FLOAT_TYPES, Latest, Ledger, ceil_div

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmedge.convert.packed_parts import Bytes, Part, Words

_PER_WORD = 8
_OUTPUTS = (0, 2, 4, 6, 1, 3, 5, 7)  # of the codes in a word, lowest bits first


def unpack_awq(ledger: Ledger, config: Mapping[str, object]) -> None:
    """Take every AWQ layer.

    Raises:
        UnsupportedError: A bit width or layout that is not read.
        IntegrityError: Tensors of a layer do not fit each other.
    """
    refuse_unless("AWQ's bits", integer(config, "bits", "w_bit"), (4,))
    refuse_unless("AWQ's version", text(config, "version", "format", default="gemm"), ("gemm",))
    refuse_overrides(config)
    size = group_size(config, "group_size", "q_group_size")
    latest: Latest[Columns] = Latest()
    for prefix in ledger.prefixes(".qweight"):
        qweight = ledger.take(f"{prefix}.qweight", ("I32",), (None, None))
        n_in, n_words = qweight.shape
        per_group = size or n_in
        n_groups = ceil_div(n_in, per_group)
        qzeros = ledger.take(f"{prefix}.qzeros", ("I32",), (n_groups, n_words))
        n_out = n_words * _PER_WORD
        scales = ledger.take(f"{prefix}.scales", FLOAT_TYPES, (n_groups, n_out))

        load = partial(_load, qweight, qzeros, scales, per_group)
        ledger.put(f"{prefix}.weight", column_rows(qweight, (n_out, n_in), load, _decode, latest))


def _load(qweight: Part, qzeros: Part, scales: Part, per_group: int) -> Columns:
    zeros = _decode(qzeros.all_words(), 0, scales.shape[1]).T
    groups = np.arange(qweight.shape[0], dtype=np.int64) // per_group
    return Columns(qweight.all_words(), zeros, scales.all_floats(), groups)


def _decode(words: Words, start: int, stop: int) -> Bytes:
    """Return the codes of outputs `[start, stop)`, an output a row."""
    first = start // _PER_WORD
    taken = np.ascontiguousarray(words[:, first : ceil_div(stop, _PER_WORD)].T)
    n_words, n_in = taken.shape
    split = np.empty((n_words, _PER_WORD, n_in), np.uint8)
    for place, output in enumerate(_OUTPUTS):
        split[:, output] = taken >> (4 * place) & 15
    return split.reshape(-1, n_in)[start - first * _PER_WORD : stop - first * _PER_WORD]
