"""OLMo 1 to 3 and OLMoE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.convert.architecture import Architecture, Guard
from llmedge.convert.edits import EXPERT_EDITS, EXPERTS, PERMUTE_QK
from llmedge.convert.guards import NO_BIAS, NOT_NORMALISED, UNTIED, is_absent
from llmedge.convert.hyperparameters import sliding_layers

if TYPE_CHECKING:
    from llmedge.convert.config import Config
    from llmedge.gguf.writer import Value

_POST_NORMS = {
    "post_attention_layernorm": "post_attention_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def _olmo(config: Config) -> dict[str, Value | None]:
    clip = config.get("clip_qkv")
    return {
        "attention.layer_norm_epsilon": 1e-5,  # not a setting of the original either
        "attention.clamp_kqv": None if clip is None else config.number("clip_qkv"),
    }


def _olmo3(config: Config) -> dict[str, Value | None]:
    sliding = sliding_layers(config, 4)
    if not any(sliding):
        return {}  # llama.cpp ends the process where a window is in no layer
    return {
        "attention.sliding_window": config.integer("sliding_window"),
        "attention.sliding_window_pattern": sliding,
    }


def _has_plain_local_rope(config: Config) -> bool:
    local = config.local_rope
    return not local.values or (local.kind == "default" and local.theta == config.rope.theta)


ARCHITECTURES = (
    Architecture(
        "olmo",
        "OLMo",
        ("OlmoForCausalLM",),
        edits=PERMUTE_QK,
        metadata=_olmo,
        guards=(NO_BIAS,),
    ),
    Architecture(
        "olmo2",
        "OLMo 2",
        ("Olmo2ForCausalLM",),
        block=_POST_NORMS,
        guards=(NO_BIAS, UNTIED),
        defaults={"rms_norm_eps": 1e-5},
    ),
    Architecture(
        "olmo2",
        "OLMo 3",
        ("Olmo3ForCausalLM",),
        block=_POST_NORMS,
        metadata=_olmo3,
        guards=(
            NO_BIAS,
            UNTIED,
            Guard(
                "rope_parameters",
                _has_plain_local_rope,
                "llama.cpp rotates layers with a window like the others, but without scaling",
            ),
        ),
        defaults={"rms_norm_eps": 1e-5, "rope_theta": 5e5, "sliding_window": 4096},
    ),
    Architecture(
        "olmoe",
        "OLMoE",
        ("OlmoeForCausalLM",),
        block=EXPERTS,
        edits=EXPERT_EDITS,
        guards=(
            NO_BIAS,
            UNTIED,
            NOT_NORMALISED,
            Guard(
                "num_key_value_heads",
                lambda config: config.n_kv_heads == config.n_heads,
                "llama.cpp has a key for each query here",
            ),
            is_absent("clip_qkv", "llama.cpp does not clip queries, keys and values here"),
        ),
        defaults={"rms_norm_eps": 1e-5, "num_experts": 64, "num_experts_per_tok": 8},
    ),
)
