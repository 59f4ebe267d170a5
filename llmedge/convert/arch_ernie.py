"""ERNIE 4.5."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.convert.architecture import Architecture, Guard
from llmedge.convert.edits import EXPERT_EDITS, EXPERTS, SHARED_EXPERTS, as_vector
from llmedge.convert.guards import equals, is_off

if TYPE_CHECKING:
    from llmedge.convert.config import Config
    from llmedge.gguf.writer import Value

_NO_BIASES = is_off("use_bias", "llama.cpp has no biases in feed-forward layers here")
_DEFAULTS = {"rms_norm_eps": 1e-5, "rope_theta": 5e5, "tie_word_embeddings": True}
_MTP = ("*mtp_block.*", "*mtp_emb_norm.*", "*mtp_hidden_norm.*", "*mtp_linear_proj.*")


def _experts(config: Config) -> dict[str, Value | None]:
    n_shared = config.integer("moe_num_shared_experts")
    return {
        "expert_shared_count": n_shared,
        "expert_shared_feed_forward_length": n_shared * config.integer("moe_intermediate_size"),
        "interleave_moe_layer_step": config.integer("moe_layer_interval"),
        "leading_dense_block_count": config.integer("moe_layer_start_index"),
    }


ARCHITECTURES = (
    Architecture(
        "ernie4_5",
        "ERNIE 4.5",
        ("Ernie4_5ForCausalLM",),
        guards=(_NO_BIASES,),
        defaults={**_DEFAULTS, "head_dim": 128, "num_key_value_heads": 2},
    ),
    Architecture(
        "ernie4_5-moe",
        "ERNIE 4.5 MoE",
        ("Ernie4_5_MoeForCausalLM",),
        block={
            **EXPERTS,
            "mlp.moe_statics.e_score_correction_bias": "exp_probs_b.bias",
            "mlp.gate.moe_statics.e_score_correction_bias": "exp_probs_b.bias",
            **SHARED_EXPERTS,
        },
        edits={**EXPERT_EDITS, "exp_probs_b.bias": as_vector},
        metadata=_experts,
        guards=(
            _NO_BIASES,
            equals("moe_layer_interval", 1, "llama.cpp has experts in all later layers"),
            Guard(
                "moe_norm_min",
                lambda config: config.number("moe_norm_min") < 1e-6,
                "llama.cpp lets the weights of a token's experts sum to one",
            ),
            Guard(
                "moe_layer_end_index",
                lambda config: (
                    not (0 <= config.integer("moe_layer_end_index") < config.n_layers - 1)
                ),
                "llama.cpp has experts in all later layers",
            ),
        ),
        defaults={
            **_DEFAULTS,
            "num_key_value_heads": 4,
            "moe_intermediate_size": 1536,
            "moe_k": 6,
            "moe_num_experts": 64,
            "moe_num_shared_experts": 2,
            "moe_layer_interval": 1,
            "moe_norm_min": 1e-12,
            "moe_layer_start_index": 1,
            "moe_layer_end_index": -1,
        },
        ignored=_MTP,
    ),
)
