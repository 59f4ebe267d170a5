"""DeepSeek 2 and 3: attention from latent values, and experts in groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.convert.architecture import Architecture, Guard
from llmedge.convert.edits import EXPERT_EDITS, EXPERTS, GATING, SHARED_EXPERTS
from llmedge.convert.edits_mla import LATENT, latent_metadata
from llmedge.convert.guards import equals, is_off, is_on, without_bias
from llmedge.convert.rows import cut, reshape, transpose

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmedge.convert.config import Config
    from llmedge.convert.rows import Rows
    from llmedge.gguf.writer import Value

# Numbers of layers by which llama.cpp knows the models without latent queries.
_LITE = (26, 27)

_BLOCK = {
    **LATENT,
    **EXPERTS,
    "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
    **SHARED_EXPERTS,
}


def _split_latent(rows: Rows, config: Config) -> Mapping[str, Rows]:
    """Split each head's way from latent values to keys, transposed, and to values.

    llama.cpp multiplies queries by the first and keeps latent values in its kv cache.
    """
    n_key, n_value = config.integer("qk_nope_head_dim"), config.integer("v_head_dim")
    heads = reshape(rows, (config.n_heads, n_key + n_value, rows.n_columns))
    return {
        "attn_k_b.weight": transpose(cut(heads, 0, n_key)),
        "attn_v_b.weight": cut(heads, n_key, n_key + n_value),
    }


def _metadata(config: Config) -> dict[str, Value | None]:
    n_latent, n_rope = config.integer("kv_lora_rank"), config.integer("qk_rope_head_dim")
    values = latent_metadata(config) | {
        "attention.head_count_kv": 1,
        "attention.key_length": n_latent + n_rope,
        "attention.value_length": n_latent,
        "attention.key_length_mla": config.integer("qk_nope_head_dim") + n_rope,
        "attention.value_length_mla": config.integer("v_head_dim"),
        "leading_dense_block_count": config.integer("first_k_dense_replace"),
        "expert_shared_count": config.integer("n_shared_experts"),
        "expert_weights_scale": config.number("routed_scaling_factor"),
        "expert_weights_norm": config.flag("norm_topk_prob"),
        "expert_gating_func": GATING[config.text("scoring_func")],
    }
    if config.n_layers not in _LITE:
        values["attention.q_lora_rank"] = values["attention.q_lora_rank"] or 0
    if config.rope.kind == "yarn":
        # llama.cpp takes a tenth for the number itself, and scales the scores by it.
        values["rope.scaling.yarn_log_multiplier"] = config.rope.number("mscale_all_dim") / 10
        values["rope.scaling.attn_factor"] = None
    return values


def _groups(config: Config) -> dict[str, Value | None]:
    n_groups = config.integer("n_group")
    return _metadata(config) | {
        "expert_group_count": n_groups,
        "expert_group_used_count": config.integer("topk_group"),
    }


def _is_plain_yarn(config: Config) -> bool:
    rope = config.rope
    weights = rope.values.get("mscale"), rope.values.get("mscale_all_dim")
    return rope.kind != "yarn" or (
        weights[0] == weights[1] and bool(weights[0]) and not rope.values.get("attention_factor")
    )


def _picks_from_all(config: Config) -> bool:
    return config.get("topk_method") == "greedy" or config.get("n_group", 1) == 1


_GUARDS = (
    Guard(
        "rope_parameters",
        _is_plain_yarn,
        "llama.cpp stretches queries, keys and scores by one and the same factor",
    ),
    Guard(
        "q_lora_rank",
        lambda config: (
            config.n_layers not in _LITE or latent_metadata(config)["attention.q_lora_rank"] is None
        ),
        f"llama.cpp knows models with {' or '.join(map(str, _LITE))} layers without latent queries",
    ),
    without_bias("attention_bias"),
)
_ROPE_KINDS = frozenset({"default", "yarn"})
_DEFAULTS = {
    "rms_norm_eps": 1e-6,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}

ARCHITECTURES = (
    Architecture(
        "deepseek2",
        "DeepSeek 2",
        ("DeepseekV2ForCausalLM",),
        block=_BLOCK,
        edits={**EXPERT_EDITS, "attn_kv_b": _split_latent},
        metadata=_metadata,
        guards=(
            *_GUARDS,
            without_bias("mlp_bias"),
            is_off("norm_topk_prob", "transformers does not normalize"),
            equals("scoring_func", "softmax", "transformers computes softmax"),
            Guard("topk_method", _picks_from_all, "llama.cpp chooses groups by their best two"),
        ),
        rope_kinds=_ROPE_KINDS,
        defaults={
            **_DEFAULTS,
            "n_routed_experts": 64,
            "n_shared_experts": 2,
            "moe_intermediate_size": 1407,
            "first_k_dense_replace": 0,
            "routed_scaling_factor": 1.0,
            "norm_topk_prob": False,
            "scoring_func": "softmax",
            "topk_method": "greedy",
        },
    ),
    Architecture(
        "deepseek2",
        "DeepSeek 3",
        ("DeepseekV3ForCausalLM",),
        block=_BLOCK,
        edits={**EXPERT_EDITS, "attn_kv_b": _split_latent},
        metadata=_groups,
        guards=(
            *_GUARDS,
            equals("scoring_func", "sigmoid", "transformers computes the sigmoid"),
            is_on("rope_interleave", "llama.cpp rotates neighbours", default=True),
        ),
        rope_kinds=_ROPE_KINDS,
        has_drafts=True,
        defaults={
            **_DEFAULTS,
            "n_routed_experts": 256,
            "n_shared_experts": 1,
            "moe_intermediate_size": 2048,
            "num_experts_per_tok": 8,
            "first_k_dense_replace": 3,
            "routed_scaling_factor": 2.5,
            "norm_topk_prob": True,
            "scoring_func": "sigmoid",
            "n_group": 8,
            "topk_group": 4,
        },
    ),
)
