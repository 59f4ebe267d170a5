"""Qwen."""

from __future__ import annotations

from tests.convert.cases_llama import YARN
from tests.convert.parity import Case, GuardCase

SLIDING = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
HEADS = {"head_dim": 32}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
MOE2 = {**MOE, "shared_expert_intermediate_size": 80}
MOE3 = {**MOE, **HEADS, "norm_topk_prob": True}
LINEAR = {
    "num_hidden_layers": 5,
    "head_dim": 32,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.25,
        "mrope_section": [2, 1, 1],
        "mrope_interleaved": True,
    },
}
LINEAR_MOE = {**LINEAR, **MOE2, "intermediate_size": None}
NEXT = {
    "num_hidden_layers": 5,
    "head_dim": 32,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "shared_expert_intermediate_size": 80,
}
# The delta rule solves a triangular system, and in another order here than there.
DELTA = 3e-5
VISION = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_heads": 2,
    "out_hidden_size": 64,
    "num_position_embeddings": 16,
}

CASES = (
    Case("qwen2", "qwen2", "Qwen2ForCausalLM"),
    Case("qwen2-tied", "qwen2", "Qwen2ForCausalLM", {"tie_word_embeddings": True}),
    Case(
        "qwen2-2024",
        "qwen2",
        "Qwen2ForCausalLM",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        written={"rope_parameters": None, "layer_types": None, "rope_theta": 1e6}
        | {"use_sliding_window": False, "sliding_window": 8, "max_window_layers": 1},
    ),
    Case(
        "qwen2-yarn",
        "qwen2",
        "Qwen2ForCausalLM",
        {"rope_parameters": YARN},
        written={
            "rope_parameters": None,
            "rope_scaling": {
                "type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    Case("qwen2-moe", "qwen2_moe", "Qwen2MoeForCausalLM", MOE2),
    Case("qwen2-moe-no-bias", "qwen2_moe", "Qwen2MoeForCausalLM", {**MOE2, "qkv_bias": False}),
    Case("qwen2-moe-stacked", "qwen2_moe", "Qwen2MoeForCausalLM", MOE2, is_original=False),
    Case("qwen3", "qwen3", "Qwen3ForCausalLM", HEADS),
    Case("qwen3-tied", "qwen3", "Qwen3ForCausalLM", {**HEADS, "tie_word_embeddings": True}),
    Case("qwen3-default-heads", "qwen3", "Qwen3ForCausalLM", written={"head_dim": None}),
    Case("qwen3-yarn", "qwen3", "Qwen3ForCausalLM", {**HEADS, "rope_parameters": YARN}),
    Case("qwen3-embedding", "qwen3", "Qwen3Model", HEADS),
    Case("qwen3-moe", "qwen3_moe", "Qwen3MoeForCausalLM", MOE3),
    Case("qwen3-moe-stacked", "qwen3_moe", "Qwen3MoeForCausalLM", MOE3, is_original=False),
    Case("qwen3.5", "qwen3_5_text", "Qwen3_5ForCausalLM", LINEAR, DELTA),
    Case(
        "qwen3.5-tied-pattern",
        "qwen3_5_text",
        "Qwen3_5ForCausalLM",
        {
            **LINEAR,
            "tie_word_embeddings": True,
            "linear_num_value_heads": 2,
            "layer_types": ["full_attention", *2 * ["linear_attention", "full_attention"]],
        },
        DELTA,
    ),
    Case(
        "qwen3.5-vision",
        "qwen3_5",
        "Qwen3_5ForConditionalGeneration",
        {"text_config": LINEAR, "vision_config": VISION},
        DELTA,
    ),
    Case("qwen3.5-moe", "qwen3_5_moe_text", "Qwen3_5MoeForCausalLM", LINEAR_MOE, DELTA),
    Case(
        "qwen3.5-moe-stacked",
        "qwen3_5_moe_text",
        "Qwen3_5MoeForCausalLM",
        LINEAR_MOE,
        DELTA,
        is_original=False,
    ),
    Case(
        "qwen3.5-moe-vision",
        "qwen3_5_moe",
        "Qwen3_5MoeForConditionalGeneration",
        {"text_config": LINEAR_MOE, "vision_config": VISION},
        DELTA,
    ),
    Case("qwen3-next", "qwen3_next", "Qwen3NextForCausalLM", NEXT, DELTA),
    Case(
        "qwen3-next-stacked",
        "qwen3_next",
        "Qwen3NextForCausalLM",
        NEXT,
        DELTA,
        is_original=False,
    ),
)

GUARDS = (
    GuardCase("use_sliding_window", Case("qwen2", "qwen2", "Qwen2ForCausalLM", SLIDING)),
    GuardCase("use_sliding_window", Case("qwen3", "qwen3", "Qwen3ForCausalLM", HEADS | SLIDING)),
    GuardCase(
        "use_sliding_window", Case("qwen3-embedding", "qwen3", "Qwen3Model", HEADS | SLIDING)
    ),
    *(
        GuardCase(
            "attention_bias", Case("qwen3", "qwen3", class_name, {**HEADS, "attention_bias": True})
        )
        for class_name in ("Qwen3ForCausalLM", "Qwen3Model")
    ),
    *(
        GuardCase(name, Case(model, model, class_name, {**settings, **changes}))
        for model, class_name, settings in (
            ("qwen2_moe", "Qwen2MoeForCausalLM", MOE2),
            ("qwen3_moe", "Qwen3MoeForCausalLM", MOE3),
        )
        for name, changes in (
            ("use_sliding_window", {**SLIDING, "max_window_layers": 3}),
            ("mlp_only_layers", {"mlp_only_layers": [0]}),
            ("decoder_sparse_step", {"decoder_sparse_step": 2}),
            ("norm_topk_prob", {"norm_topk_prob": model == "qwen2_moe"}),
        )
    ),
    GuardCase(
        "tie_word_embeddings",
        Case(
            "qwen2_moe", "qwen2_moe", "Qwen2MoeForCausalLM", {**MOE2, "tie_word_embeddings": True}
        ),
    ),
    GuardCase(
        "attention_bias",
        Case("qwen3_moe", "qwen3_moe", "Qwen3MoeForCausalLM", {**MOE3, "attention_bias": True}),
    ),
    GuardCase(
        "attention_bias",
        Case("qwen3.5", "qwen3_5_text", "Qwen3_5ForCausalLM", {**LINEAR, "attention_bias": True}),
    ),
    *(
        GuardCase(
            field,
            Case(
                "qwen3.5-moe",
                "qwen3_5_moe_text",
                "Qwen3_5MoeForCausalLM",
                {**LINEAR_MOE, field: value},
            ),
        )
        for field, value in (("attention_bias", True), ("linear_value_head_dim", 32))
    ),
    GuardCase(
        "linear_value_head_dim",
        Case(
            "qwen3.5", "qwen3_5_text", "Qwen3_5ForCausalLM", {**LINEAR, "linear_value_head_dim": 32}
        ),
    ),
    *(
        GuardCase(
            name, Case("qwen3-next", "qwen3_next", "Qwen3NextForCausalLM", {**NEXT, **change})
        )
        for name, change in (
            ("attention_bias", {"attention_bias": True}),
            ("linear_value_head_dim", {"linear_value_head_dim": 32}),
            ("mlp_only_layers", {"mlp_only_layers": [0]}),
            ("decoder_sparse_step", {"decoder_sparse_step": 2}),
            ("norm_topk_prob", {"norm_topk_prob": False}),
        )
    ),
)
