"""Gemma."""

from __future__ import annotations

from typing import Any

from tests.convert.parity import Case, GuardCase

GELU = 1e-3
GELU_25_LAYERS = 3e-3  # the fewest that llama.cpp takes: roundings of the table add up
HEADS = {"head_dim": 32, "query_pre_attn_scalar": 32}
WINDOW = {**HEADS, "sliding_window": 8}
ROPES = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
GEMMA3 = {**WINDOW, "num_hidden_layers": 7, "rope_parameters": ROPES}
EMBEDDING = {**GEMMA3, "use_bidirectional_attention": True}
HUB_GEMMA3 = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256}
SIGLIP = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
GEMMA3N = {
    "head_dim": 16,
    "sliding_window": 8,
    "num_hidden_layers": 25,
    "num_kv_shared_layers": 5,
    "vocab_size_per_layer_input": 320,
    "hidden_size_per_layer_input": 256,
    "laurel_rank": 64,
}
GEMMA4 = {
    "head_dim": 16,
    "global_head_dim": 32,
    "sliding_window": 8,
    "num_hidden_layers": 6,
    "num_kv_shared_layers": 2,
    "use_double_wide_mlp": True,
    "vocab_size_per_layer_input": 320,
    "hidden_size_per_layer_input": 8,
    "layer_types": [
        *2 * ["sliding_attention"],
        *("sliding_attention", "full_attention"),
        *("sliding_attention", "full_attention"),
    ],
}


def gemma2(name: str, **settings: Any) -> Case:
    return Case(name, "gemma2", "Gemma2ForCausalLM", {**WINDOW, **settings}, GELU)


def gemma3(name: str, **settings: Any) -> Case:
    return Case(name, "gemma3_text", "Gemma3ForCausalLM", {**GEMMA3, **settings}, GELU)


def gemma3n(name: str, **settings: Any) -> Case:
    return Case(name, "gemma3n_text", "Gemma3nForCausalLM", {**GEMMA3N, **settings}, GELU_25_LAYERS)


def gemma4(name: str, **settings: Any) -> Case:
    return Case(name, "gemma4_text", "Gemma4ForCausalLM", {**GEMMA4, **settings}, GELU)


CASES = (
    Case("gemma", "gemma", "GemmaForCausalLM", {"head_dim": 32}, GELU),
    Case(
        "gemma-2024",
        "gemma",
        "GemmaForCausalLM",
        {"head_dim": 32, "num_key_value_heads": 1},
        GELU,
        written={"hidden_act": "gelu", "tie_word_embeddings": None, "rope_parameters": None},
    ),
    gemma2("gemma2", attn_logit_softcapping=2.0, final_logit_softcapping=5.0),
    Case(
        "gemma2-2024",
        "gemma2",
        "Gemma2ForCausalLM",
        {**WINDOW, "num_hidden_layers": 4},
        GELU,
        written={
            "layer_types": None,
            "rope_parameters": None,
            "rope_theta": 1e4,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "tie_word_embeddings": None,
        },
    ),
    gemma3("gemma3"),
    gemma3("gemma3-untied-capped", tie_word_embeddings=False, final_logit_softcapping=10.0),
    gemma3("gemma3-no-window", layer_types=7 * ["full_attention"]),
    # as Rnj says it
    Case(
        "gemma3-period-of-one",
        "gemma3_text",
        "Gemma3ForCausalLM",
        {**GEMMA3, "sliding_window_pattern": 1},
        GELU,
        written={"layer_types": None, "sliding_window_pattern": 1},
    ),
    gemma3("gemma3-pattern", layer_types=["full_attention", *6 * ["sliding_attention"]]),
    Case(
        "gemma3-2025",
        "gemma3_text",
        "Gemma3ForCausalLM",
        {**GEMMA3, "sliding_window_pattern": 3},
        GELU,
        written={
            "layer_types": None,
            "rope_parameters": None,
            "sliding_window_pattern": 3,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
    ),
    Case(
        "gemma3-vision",
        "gemma3",
        "Gemma3ForConditionalGeneration",
        {"text_config": GEMMA3, "vision_config": SIGLIP},
        GELU,
    ),
    Case(
        "gemma3-vision-2025",
        "gemma3",
        "Gemma3ForConditionalGeneration",
        {
            "text_config": {
                **GEMMA3,
                **HUB_GEMMA3,
                "query_pre_attn_scalar": 256,
                "max_position_embeddings": 131072,
            },
            "vision_config": SIGLIP,
        },
        GELU,
        written={
            "tie_word_embeddings": None,
            "text_config": {
                "hidden_size": 64,
                "intermediate_size": 96,
                "model_type": "gemma3_text",
                "num_hidden_layers": 7,
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                "sliding_window": 8,
                "vocab_size": 320,
            },
        },
    ),
    gemma3n("gemma3n"),
    gemma3n("gemma3n-untied", tie_word_embeddings=False),
    Case(
        "gemma3n-2025",
        "gemma3n_text",
        "Gemma3nForCausalLM",
        {**GEMMA3N, "vocab_size_per_layer_input": 310},
        GELU_25_LAYERS,
        written={
            "layer_types": None,
            "rope_parameters": None,
            "activation_sparsity_pattern": None,
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
            "intermediate_size": 96,
        },
    ),
    Case(
        "gemma3n-vision",
        "gemma3n_text",
        "Gemma3nForCausalLM",
        GEMMA3N,
        GELU_25_LAYERS,
        renamed={"model.": "model.language_model."},
        saved_as="Gemma3nForConditionalGeneration",
    ),
    Case("gemma-embedding", "gemma3_text", "Gemma3TextModel", EMBEDDING, GELU),
    gemma4("gemma4"),
    gemma4("gemma4-capped", final_logit_softcapping=5.0, num_kv_shared_layers=0),
    gemma4(
        "gemma4-dense",
        hidden_size_per_layer_input=0,
        attention_k_eq_v=True,
        num_global_key_value_heads=1,
        num_kv_shared_layers=0,
    ),
    gemma4(
        "gemma4-moe",
        hidden_size_per_layer_input=0,
        num_kv_shared_layers=0,
        enable_moe_block=True,
        num_experts=4,
        top_k_experts=2,
        moe_intermediate_size=32,
    ),
    Case(
        "gemma4-hub",
        "gemma4_text",
        "Gemma4ForCausalLM",
        GEMMA4,
        GELU,
        written={"per_layer_config": None, "rope_parameters": None, "global_head_dim": 32},
    ),
    Case(
        "gemma4-vision",
        "gemma4",
        "Gemma4ForConditionalGeneration",
        {"text_config": GEMMA4, "vision_config": None, "audio_config": None},
        GELU,
    ),
)

FULL, SLIDING = "full_attention", "sliding_attention"
LOCAL_ROPE = {
    "full_attention": {"rope_type": "default", "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
}
GEMMA4_LOCAL_ROPE = {
    **LOCAL_ROPE,
    "full_attention": {
        "rope_type": "proportional",
        "rope_theta": 1e6,
        "partial_rotary_factor": 0.25,
    },
}

GUARDS = (
    *(
        GuardCase(field, Case("gemma", "gemma", "GemmaForCausalLM", {"head_dim": 32, field: value}))
        for field, value in (
            ("attention_bias", True),
            ("tie_word_embeddings", False),
        )
    ),
    GuardCase("attention_bias", gemma2("gemma2", attention_bias=True)),
    GuardCase("tie_word_embeddings", gemma2("gemma2", tie_word_embeddings=False)),
    GuardCase("layer_types", gemma2("gemma2", layer_types=3 * [FULL]), is_fatal=True),
    GuardCase("query_pre_attn_scalar", gemma2("gemma2", query_pre_attn_scalar=256)),
    GuardCase("attn_logit_softcapping", gemma2("gemma2", attn_logit_softcapping=None)),
    GuardCase("final_logit_softcapping", gemma2("gemma2", final_logit_softcapping=None)),
    GuardCase("use_bidirectional_attention", gemma3("gemma3", use_bidirectional_attention=True)),
    GuardCase("attention_bias", gemma3("gemma3", attention_bias=True)),
    GuardCase("query_pre_attn_scalar", gemma3("gemma3", query_pre_attn_scalar=128)),
    GuardCase("rope_parameters", gemma3("gemma3", rope_parameters=LOCAL_ROPE)),
    GuardCase("attention_bias", gemma3n("gemma3n", attention_bias=True)),
    GuardCase("rope_parameters", gemma3n("gemma3n", rope_parameters=LOCAL_ROPE)),
    GuardCase("num_kv_shared_layers", gemma3n("gemma3n", num_kv_shared_layers=6)),
    GuardCase(
        "activation_sparsity_pattern", gemma3n("gemma3n", activation_sparsity_pattern=25 * [0.0])
    ),
    GuardCase("final_logit_softcapping", gemma3n("gemma3n", final_logit_softcapping=5.0)),
    GuardCase("altup_active_idx", gemma3n("gemma3n", altup_active_idx=1)),
    GuardCase("altup_num_inputs", gemma3n("gemma3n", altup_num_inputs=3)),
    GuardCase("altup_correct_scale", gemma3n("gemma3n", altup_correct_scale=False)),
    GuardCase("laurel_rank", gemma3n("gemma3n", laurel_rank=32)),
    GuardCase("hidden_size_per_layer_input", gemma3n("gemma3n", hidden_size_per_layer_input=32)),
    GuardCase(
        "layer_types",
        gemma3n("gemma3n", num_hidden_layers=20, num_kv_shared_layers=0, layer_types=20 * [FULL]),
        is_fatal=True,
    ),
    GuardCase(
        "layer_types",
        gemma4("gemma4", num_kv_shared_layers=0, layer_types=6 * [FULL]),
        is_fatal=True,
    ),
    GuardCase(
        "layer_types",
        Case(
            "gemma-embedding",
            "gemma3_text",
            "Gemma3TextModel",
            {**EMBEDDING, "layer_types": 7 * [FULL]},
        ),
        is_fatal=True,
    ),
    GuardCase("use_bidirectional_attention", gemma4("gemma4", use_bidirectional_attention="all")),
    GuardCase("attention_bias", gemma4("gemma4", attention_bias=True)),
    GuardCase("rope_parameters", gemma4("gemma4", rope_parameters=GEMMA4_LOCAL_ROPE)),
    GuardCase(
        "num_kv_shared_layers",
        gemma4("gemma4", layer_types=[SLIDING, FULL, SLIDING, SLIDING, SLIDING, FULL]),
        is_fatal=True,
    ),
    *(
        GuardCase(
            field,
            Case("gemma-embedding", "gemma3_text", "Gemma3TextModel", {**EMBEDDING, field: value}),
        )
        for field, value in (
            ("use_bidirectional_attention", False),
            ("attention_bias", True),
            ("query_pre_attn_scalar", 256),
            ("rope_parameters", LOCAL_ROPE),
        )
    ),
)
