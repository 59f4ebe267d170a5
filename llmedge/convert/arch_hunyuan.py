"""Hunyuan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.convert.architecture import Architecture
from llmedge.convert.edits import EXPERT_EDITS, EXPERTS
from llmedge.convert.guards import NO_BIAS

if TYPE_CHECKING:
    from llmedge.convert.config import Config
    from llmedge.gguf.writer import Value

_BLOCK = {
    "self_attn.query_layernorm": "attn_q_norm",
    "self_attn.key_layernorm": "attn_k_norm",
}
_KINDS = frozenset({"default", "linear", "yarn", "dynamic"})


def _stretched(config: Config) -> dict[str, Value | None]:
    """Return the frequencies' base, which `alpha` of dynamic scaling raises.

    Without it, dynamic scaling begins where the context ends.

    Source: transformers `HunYuanDenseV1RotaryEmbedding`.
    """
    rope, width = config.rope, config.head_dim
    alpha = rope.number("alpha", 1.0) if rope.kind == "dynamic" else 1.0
    return {"rope.freq_base": rope.theta * alpha ** (width / (width - 2))}


def _experts(config: Config) -> dict[str, Value | None]:
    n_ff = config.integer("intermediate_size")
    return _stretched(config) | {
        "expert_feed_forward_length": n_ff,
        "expert_shared_feed_forward_length": n_ff,
    }


ARCHITECTURES = (
    Architecture(
        "hunyuan-dense",
        "Hunyuan",
        ("HunYuanDenseV1ForCausalLM",),
        block=_BLOCK,
        metadata=_stretched,
        guards=(NO_BIAS,),
        rope_kinds=_KINDS,
        defaults={"rms_norm_eps": 1e-5},
    ),
    Architecture(
        "hunyuan-moe",
        "Hunyuan MoE",
        ("HunYuanMoEV1ForCausalLM",),
        block={
            **_BLOCK,
            **EXPERTS,
            "mlp.gate.wg": "ffn_gate_inp",
            "mlp.shared_mlp.gate_proj": "ffn_gate_shexp",
            "mlp.shared_mlp.up_proj": "ffn_up_shexp",
            "mlp.shared_mlp.down_proj": "ffn_down_shexp",
        },
        edits=EXPERT_EDITS,
        metadata=_experts,
        guards=(NO_BIAS,),
        rope_kinds=_KINDS,
        defaults={"rms_norm_eps": 1e-5, "num_experts": 1, "num_experts_per_tok": 1},
    ),
)
