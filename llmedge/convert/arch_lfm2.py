"""Liquid AI's LFM2: short convolutions between attention layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.convert.architecture import Architecture
from llmedge.convert.edits import GATING, drop_unit_axes
from llmedge.convert.guards import equals, is_on, layer_types, with_bias, without_bias

if TYPE_CHECKING:
    from llmedge.convert.config import Config
    from llmedge.gguf.writer import Value

_NAMES = {"embedding_norm": "token_embd_norm"}
_BLOCK = {
    "operator_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
    "self_attn.out_proj": "attn_output",
    "self_attn.q_layernorm": "attn_q_norm",
    "self_attn.k_layernorm": "attn_k_norm",
    "conv.in_proj": "shortconv.in_proj",
    "conv.conv": "shortconv.conv",
    "conv.out_proj": "shortconv.out_proj",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w3": "ffn_up",
    "feed_forward.w2": "ffn_down",
    "feed_forward.gate": "ffn_gate_inp",
    "feed_forward.expert_bias": "exp_probs_b.bias",
    "feed_forward.experts.*.w1": "ffn_gate_exps",
    "feed_forward.experts.*.w3": "ffn_up_exps",
    "feed_forward.experts.*.w2": "ffn_down_exps",
}
_DEFAULTS = {
    "tie_word_embeddings": True,
    "norm_eps": 1e-5,
    "rope_theta": 1000000.0,
    "num_key_value_heads": 8,
    "conv_L_cache": 3,
}
_EDITS = {"shortconv.conv": drop_unit_axes}


def _convolutions(config: Config) -> dict[str, Value | None]:
    kinds = layer_types(config, ("full_attention",))
    if not config.has("layer_types") and config.has("full_attn_idxs"):
        attention = config.items("full_attn_idxs")
        kinds = ["full_attention" if i in attention else "conv" for i in range(config.n_layers)]
    n_kv = config.n_kv_heads
    return {
        "attention.head_count_kv": [0 if kind == "conv" else n_kv for kind in kinds],
        "shortconv.l_cache": config.integer("conv_L_cache"),
    }


def _n_ff(config: Config) -> int:
    """Return the width that the model has, which is not the one that the configuration states.

    Source: transformers `models/lfm2/modeling_lfm2.py`, `Lfm2MLP`.
    """
    width = config.integer("block_ff_dim", config.integer("intermediate_size"))
    if not config.flag("block_auto_adjust_ff_dim", default=True):
        return width
    step = config.integer("block_multiple_of", 256)
    width = int(config.number("block_ffn_dim_multiplier", 1.0) * int(2 * width / 3))
    return -(-width // step) * step


def _dense(config: Config) -> dict[str, Value | None]:
    return _convolutions(config) | {"feed_forward_length": _n_ff(config)}


def _experts(config: Config) -> dict[str, Value | None]:
    return _convolutions(config) | {
        "leading_dense_block_count": config.integer("num_dense_layers"),
        "expert_gating_func": GATING["sigmoid"],
    }


ARCHITECTURES = (
    Architecture(
        "lfm2",
        "LFM2",
        ("Lfm2ForCausalLM",),
        names=_NAMES,
        block=_BLOCK,
        edits=_EDITS,
        metadata=_dense,
        guards=(without_bias("conv_bias"),),
        defaults=_DEFAULTS | {"intermediate_size": 12288},
    ),
    Architecture(
        "lfm2moe",
        "LFM2 MoE",
        ("Lfm2MoeForCausalLM",),
        names=_NAMES,
        block=_BLOCK,
        edits=_EDITS,
        metadata=_experts,
        guards=(
            without_bias("conv_bias"),
            with_bias("use_expert_bias"),
            is_on("norm_topk_prob", "llama.cpp normalizes in any case", default=True),
            equals("routed_scaling_factor", 1.0, "llama.cpp does not scale here"),
        ),
        defaults=_DEFAULTS
        | {
            "intermediate_size": 7168,
            "moe_intermediate_size": 1792,
            "num_dense_layers": 2,
            "num_experts": 32,
            "routed_scaling_factor": 1.0,
            "num_experts_per_tok": 4,
        },
    ),
)
