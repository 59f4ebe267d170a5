"""Qwen 2, 2.5, 3 and 3.5, and their mixtures of experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmedge.convert.architecture import VISION, Architecture, Guard
from llmedge.convert.edits import (
    EXPERT_EDITS,
    EXPERTS,
    chain,
    drop_unit_axes,
    elementwise,
    plus_one,
)
from llmedge.convert.guards import NO_BIAS, NORMALISED, NOT_NORMALISED, UNTIED, is_off
from llmedge.convert.rows import apply, gather

if TYPE_CHECKING:
    from llmedge.convert.architecture import Edit
    from llmedge.convert.config import Config
    from llmedge.convert.rows import Index, Rows
    from llmedge.gguf.writer import Value

_EPSILON = {"rms_norm_eps": 1e-6}
_MTP = ("mtp.*", "model.mtp.*")

_FULL_ATTENTION = is_off("use_sliding_window", "llama.cpp lets all layers see all positions")
_ALL_SPARSE = (
    Guard(
        "mlp_only_layers",
        lambda config: not config.get("mlp_only_layers"),
        "llama.cpp has experts in every layer",
    ),
    Guard(
        "decoder_sparse_step",
        lambda config: config.integer("decoder_sparse_step", 1) == 1,
        "llama.cpp has experts in every layer",
    ),
)


def _value_heads(n_skipped: int, config: Config, width: int) -> Index:
    """Return row numbers that put value heads round robin over the key heads they belong to.

    transformers repeats each key head for the value heads next to each other; llama.cpp repeats
    the whole row of key heads.
    """
    n_keys = config.integer("linear_num_key_heads")
    n_values = config.integer("linear_num_value_heads")
    order = np.arange(n_values * width, dtype=np.int64).reshape(n_keys, -1, width)
    heads = order.swapaxes(0, 1).reshape(-1)
    return np.concatenate([np.arange(n_skipped, dtype=np.int64), n_skipped + heads])


def _after_keys(rows: Rows, config: Config) -> Rows:
    """Reorder the value part of rows that are queries, keys and values."""
    n_keys = config.integer("linear_num_key_heads") * config.integer("linear_key_head_dim")
    return gather(rows, _value_heads(2 * n_keys, config, config.integer("linear_value_head_dim")))


def _of_values(rows: Rows, config: Config) -> Rows:
    return gather(rows, _value_heads(0, config, config.integer("linear_value_head_dim")))


def _of_heads(rows: Rows, config: Config) -> Rows:
    return gather(rows, _value_heads(0, config, 1))


def _columns_of_values(rows: Rows, config: Config) -> Rows:
    order = _value_heads(0, config, config.integer("linear_value_head_dim"))
    return apply(rows, lambda floats: np.ascontiguousarray(floats[:, order]))


_DECAY = elementwise(lambda floats: -np.exp(floats))
_PLUS_ONE: dict[str, Edit] = {
    "attn*norm": plus_one,
    "post_attention_norm": plus_one,
    "output_norm": plus_one,
}


def _is_linear(config: Config) -> list[bool]:
    if config.has("layer_types"):
        return [kind == "linear_attention" for kind in config.items("layer_types")]
    interval = config.integer("full_attention_interval", 4)
    return [(layer + 1) % interval != 0 for layer in range(config.n_layers)]


def _linear_attention(config: Config) -> dict[str, Value | None]:
    n_values = config.integer("linear_num_value_heads")
    return {
        "attention.recurrent_layers": _is_linear(config),
        "rope.dimension_count": int(config.head_dim * config.rope.partial),
        "ssm.conv_kernel": config.integer("linear_conv_kernel_dim"),
        "ssm.state_size": config.integer("linear_key_head_dim"),
        "ssm.group_count": config.integer("linear_num_key_heads"),
        "ssm.time_step_rank": n_values,
        "ssm.inner_size": n_values * config.integer("linear_value_head_dim"),
    }


def _rope_sections(config: Config) -> dict[str, Value | None]:
    given = config.rope.values.get("mrope_section")
    sections = config.rope.numbers("mrope_section") if given else (11, 11, 10)
    return {"rope.dimension_sections": [*map(int, sections), 0]}


def _part_key_heads(rows: Rows, config: Config) -> dict[str, Rows]:
    """Part rows that lie key head by key head: query, key, values, and the values' gates."""
    n_keys = config.integer("linear_num_key_heads")
    width = config.integer("linear_key_head_dim")
    values = config.integer("linear_num_value_heads") // n_keys
    values *= config.integer("linear_value_head_dim")
    heads = np.arange(rows.n_rows, dtype=np.int64).reshape(n_keys, -1)
    query, key, value, gate = np.split(heads, np.cumsum([width, width, values]), axis=1)
    together = [part.reshape(-1) for part in (query, key, value)]
    return {
        "attn_qkv.weight": gather(rows, np.concatenate(together)),
        "attn_gate.weight": gather(rows, gate.reshape(-1)),
    }


_SHARED_EXPERT = {
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
}
_SHARED_EXPERT_EDITS: dict[str, Edit] = {**EXPERT_EDITS, "ffn_gate_inp_shexp": drop_unit_axes}
_LINEAR_BLOCK = {
    "post_attention_layernorm": "post_attention_norm",
    "linear_attn.conv1d": "ssm_conv1d",
    "linear_attn.A_log": "ssm_a",
    "linear_attn.dt_bias": "ssm_dt.bias",
    "linear_attn.norm": "ssm_norm",
    "linear_attn.out_proj": "ssm_out",
}
_LINEAR_DEFAULTS = {
    **_EPSILON,
    "head_dim": 256,
    "partial_rotary_factor": 0.25,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
}
# Qwen 3.5 has projections of their own for what Qwen 3 Next keeps together.
_SPLIT_BLOCK = {
    **_LINEAR_BLOCK,
    "linear_attn.in_proj_qkv": "attn_qkv",
    "linear_attn.in_proj_z": "attn_gate",
    "linear_attn.in_proj_a": "ssm_alpha",
    "linear_attn.in_proj_b": "ssm_beta",
}
_SPLIT_EDITS: dict[str, Edit] = {
    **_PLUS_ONE,
    "attn_qkv": _after_keys,
    "attn_gate": _of_values,
    "ssm_conv1d": chain(drop_unit_axes, _after_keys),
    "ssm_a": chain(_of_heads, _DECAY),
    "ssm_dt.bias": _of_heads,
    "ssm_alpha": _of_heads,
    "ssm_beta": _of_heads,
    "ssm_out": _columns_of_values,
}
_ONE_WIDTH = Guard(
    "linear_value_head_dim",
    lambda config: config.integer("linear_value_head_dim") == config.integer("linear_key_head_dim"),
    "llama.cpp has linear attention's keys and values of one width",
)


def _shared_expert(config: Config) -> dict[str, Value | None]:
    n_ff = config.integer("shared_expert_intermediate_size")
    return {"expert_shared_feed_forward_length": n_ff}


ARCHITECTURES = (
    Architecture(
        "qwen2",
        "Qwen 2, 2.5",
        ("Qwen2ForCausalLM",),
        guards=(_FULL_ATTENTION,),
        defaults={"num_key_value_heads": 32, **_EPSILON},
    ),
    Architecture(
        "qwen3",
        "Qwen 3",
        ("Qwen3ForCausalLM",),
        guards=(_FULL_ATTENTION, NO_BIAS),
        defaults={"head_dim": 128, "num_key_value_heads": 32, **_EPSILON},
    ),
    Architecture(
        "qwen3",
        "Qwen 3 Embedding",
        ("Qwen3Model",),
        guards=(_FULL_ATTENTION, NO_BIAS),
        defaults={"head_dim": 128, "num_key_value_heads": 32, **_EPSILON},
        is_encoder=True,
    ),
    Architecture(
        "qwen2moe",
        "Qwen 1.5, 2 MoE",
        ("Qwen2MoeForCausalLM",),
        block={**EXPERTS, **_SHARED_EXPERT},
        edits=_SHARED_EXPERT_EDITS,
        metadata=_shared_expert,
        guards=(
            _FULL_ATTENTION,
            *_ALL_SPARSE,
            NOT_NORMALISED,
            UNTIED,
        ),
        defaults={
            **_EPSILON,
            "num_key_value_heads": 16,
            "num_experts": 60,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
        },
    ),
    Architecture(
        "qwen3moe",
        "Qwen 3 MoE",
        ("Qwen3MoeForCausalLM",),
        block=EXPERTS,
        edits=EXPERT_EDITS,
        guards=(
            _FULL_ATTENTION,
            NO_BIAS,
            *_ALL_SPARSE,
            NORMALISED,
        ),
        defaults={
            **_EPSILON,
            "num_key_value_heads": 4,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
            "norm_topk_prob": False,
        },
    ),
    Architecture(
        "qwen35",
        "Qwen 3.5",
        ("Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration"),
        block=_SPLIT_BLOCK,
        edits=_SPLIT_EDITS,
        metadata=lambda config: _linear_attention(config) | _rope_sections(config),
        guards=(NO_BIAS, _ONE_WIDTH),
        defaults={**_LINEAR_DEFAULTS, "num_key_value_heads": 4},
        ignored=(*VISION, *_MTP),
    ),
    Architecture(
        "qwen35moe",
        "Qwen 3.5 MoE",
        ("Qwen3_5MoeForCausalLM", "Qwen3_5MoeForConditionalGeneration"),
        block={**_SPLIT_BLOCK, **EXPERTS, **_SHARED_EXPERT},
        edits={**_SPLIT_EDITS, **_SHARED_EXPERT_EDITS},
        metadata=lambda config: (
            _linear_attention(config) | _rope_sections(config) | _shared_expert(config)
        ),
        guards=(NO_BIAS, _ONE_WIDTH),
        defaults={
            **_LINEAR_DEFAULTS,
            "num_key_value_heads": 2,
            "num_experts": 256,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512,
        },
        ignored=(*VISION, *_MTP),
    ),
    Architecture(
        "qwen3next",
        "Qwen 3 Next",
        ("Qwen3NextForCausalLM",),
        block={
            **_LINEAR_BLOCK,
            **EXPERTS,
            **_SHARED_EXPERT,
            "linear_attn.in_proj_qkvz": "attn_qkvz",
            "linear_attn.in_proj_ba": "ssm_ba",
        },
        edits={
            **_PLUS_ONE,
            **_SHARED_EXPERT_EDITS,
            "attn_qkvz": _part_key_heads,
            "ssm_conv1d": drop_unit_axes,
            "ssm_a": _DECAY,
        },
        metadata=lambda config: _linear_attention(config) | _shared_expert(config),
        guards=(NO_BIAS, _ONE_WIDTH, *_ALL_SPARSE, NORMALISED),
        defaults={
            **_LINEAR_DEFAULTS,
            "num_key_value_heads": 2,
            "num_experts": 512,
            "num_experts_per_tok": 10,
            "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512,
            "norm_topk_prob": True,
        },
        ignored=_MTP,
    ),
)
