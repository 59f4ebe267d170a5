"""Edits that several architectures share: each a function of a tensor and the configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmedge.convert.rows import Rows, apply, cut, gather, squeeze, transpose

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llmedge.convert.architecture import Edit
    from llmedge.convert.config import Config
    from llmedge.convert.rows import Floats, Index


def permute_heads(n_heads: Callable[[Config], int]) -> Edit:
    """Return an edit that turns rotated halves of each head into rotated pairs.

    transformers rotates element i with i + half; llama.cpp's NORM rope rotates neighbours.
    """

    def edit(rows: Rows, config: Config) -> Rows:
        heads = n_heads(config)
        return gather(rows, pair_halves(rows.n_out, heads), align=rows.n_out // heads)

    return edit


def pair_halves(n_out: int, n_heads: int) -> Index:
    """Return row numbers that interleave the two halves of each head."""
    order = np.arange(n_out, dtype=np.int64).reshape(n_heads, 2, n_out // n_heads // 2)
    return order.swapaxes(1, 2).reshape(-1)


PERMUTE_QK: Mapping[str, Edit] = {
    "attn_q": permute_heads(lambda config: config.n_heads),
    "attn_k": permute_heads(lambda config: config.n_kv_heads),
}


def plus_one(rows: Rows, _: Config) -> Rows:
    """Add one: the original multiplies by `1 + weight`, llama.cpp by the weight."""
    return apply(rows, lambda floats: floats + np.float32(1))


def elementwise(function: Callable[[Floats], Floats]) -> Edit:
    """Return an edit that changes each weight by itself."""
    return lambda rows, _: apply(rows, function)


def swap_axes(rows: Rows, _: Config) -> Rows:
    """Transpose matrices; vectors stay."""
    return transpose(rows) if len(rows.shape) > 1 else rows


def columns(rows: Rows, chosen: slice) -> Rows:
    """Take some of each row's weights."""
    n_columns = len(range(rows.n_columns)[chosen])
    return Rows(
        (*rows.shape[:-1], n_columns),
        lambda start, stop: np.ascontiguousarray(rows.read(start, stop)[:, chosen]),
        whole_bytes=rows.whole_bytes,
    )


def drop_unit_axes(rows: Rows, _: Config) -> Rows:
    """Turn a depthwise convolution `(channels, 1, width)` into a matrix."""
    return squeeze(rows)


def as_vector(rows: Rows, _: Config) -> Rows:
    """Turn `(1, …, n)` into a vector."""
    return Rows((rows.n_rows * rows.n_columns,), lambda _a, _b: rows.read(0, rows.n_rows))


def split_gate_up(rows: Rows, _: Config) -> Mapping[str, Rows]:
    """Split experts' `(n_experts, 2 × n_ff, n_in)` into gate and up."""
    half = rows.shape[-2] // 2
    return {
        "ffn_gate_exps.weight": cut(rows, 0, half),
        "ffn_up_exps.weight": cut(rows, half, 2 * half),
    }


# Experts' tensors in a block, numbered as on the Hub or stacked as transformers holds them.
EXPERTS = {
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.gate_up_proj": "ffn_gate_up_exps.weight",
    "mlp.experts.down_proj": "ffn_down_exps.weight",
    "mlp.experts.*.gate_proj": "ffn_gate_exps",
    "mlp.experts.*.up_proj": "ffn_up_exps",
    "mlp.experts.*.down_proj": "ffn_down_exps",
}
# The experts that every token goes through, where they are several and called so.
SHARED_EXPERTS = {
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
}
# What a router makes of its scores: `llama_expert_gating_func_type` in llama.cpp.
GATING = {"softmax": 1, "sigmoid": 2}
EXPERT_EDITS: Mapping[str, Edit] = {"ffn_gate_up_exps.weight": split_gate_up}


def regroup(n_groups: Callable[[Config], int], n_parts: int) -> Edit:
    """Return an edit from `(group, part, width)` rows to `(part, group, width)`.

    For a fused query-key-value matrix that lies head by head.
    """

    def edit(rows: Rows, config: Config) -> Rows:
        order = np.arange(rows.n_out, dtype=np.int64).reshape(n_groups(config), n_parts, -1)
        return gather(rows, order.swapaxes(0, 1).reshape(-1))

    return edit


def chain(*edits: Edit) -> Edit:
    """Return edits as one; only the last may return several tensors."""

    def edit(rows: Rows, config: Config) -> Rows | Mapping[str, Rows]:
        result: Rows | Mapping[str, Rows] = rows
        for step in edits:
            if not isinstance(result, Rows):
                raise TypeError("only the last of chained edits may return several tensors")
            result = step(result, config)
        return result

    return edit
