"""DeepSeek 2 and 3."""

from __future__ import annotations

from tests.convert.parity import Case, GuardCase

LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 32,
    "num_experts_per_tok": 2,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 40.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
TWO = ("deepseek_v2", "DeepseekV2ForCausalLM")
THREE = ("deepseek_v3", "DeepseekV3ForCausalLM")
LITE = LATENT | {"n_routed_experts": 4, "n_shared_experts": 2, "q_lora_rank": None}
BIG = LITE | {"q_lora_rank": 24, "routed_scaling_factor": 3.0}
V3 = LATENT | {"n_routed_experts": 8, "q_lora_rank": 24, "n_group": 4, "topk_group": 2}
# a smaller model of a number of layers that means something to llama.cpp
TWENTY_SIX = {"num_hidden_layers": 26, "hidden_size": 32, "intermediate_size": 32}

CASES = (
    Case("deepseek-2", *TWO, BIG),
    Case("deepseek-2-tied", *TWO, BIG | {"tie_word_embeddings": True, "first_k_dense_replace": 0}),
    Case("deepseek-2-direct", *TWO, LITE),
    Case("deepseek-2-lite", *TWO, LITE | TWENTY_SIX),
    Case(
        "deepseek-2-yarn",
        *TWO,
        BIG | {"rope_parameters": YARN | {"mscale": 0.707, "mscale_all_dim": 0.707}},
    ),
    Case("deepseek-3", *THREE, V3),
    Case("deepseek-3-yarn", *THREE, V3 | {"rope_parameters": YARN}),
    Case(
        "deepseek-3-unnormalized",
        *THREE,
        V3 | {"norm_topk_prob": False, "n_group": 1, "topk_group": 1, "q_lora_rank": None},
    ),
    # as DeepSeek-V3 says it
    Case(
        "deepseek-3-older",
        *THREE,
        V3 | {"rope_parameters": YARN},
        written={
            "rope_parameters": None,
            "rope_theta": 10000,
            "rope_scaling": {**YARN, "type": "yarn", "rope_type": None, "rope_theta": None},
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
            "rope_interleave": None,
        },
    ),
    Case("deepseek-3-in-memory", *THREE, V3, is_original=False),
)

GUARDS = (
    GuardCase(
        "rope_parameters",
        Case("deepseek-mscale", *THREE, V3 | {"rope_parameters": YARN | {"mscale": 0.5}}),
    ),
    GuardCase(
        "rope_parameters",
        Case("deepseek-2-mscale", *TWO, BIG | {"rope_parameters": YARN | {"mscale": 0.5}}),
    ),
    GuardCase("q_lora_rank", Case("deepseek-2-26", *TWO, BIG | TWENTY_SIX)),
    GuardCase("q_lora_rank", Case("deepseek-3-26", *THREE, V3 | TWENTY_SIX)),
    GuardCase("attention_bias", Case("deepseek-2-bias", *TWO, BIG | {"attention_bias": True})),
    GuardCase("attention_bias", Case("deepseek-3-bias", *THREE, V3 | {"attention_bias": True})),
    GuardCase("mlp_bias", Case("deepseek-mlp-bias", *TWO, BIG | {"mlp_bias": True})),
    GuardCase("norm_topk_prob", Case("deepseek-norm", *TWO, BIG | {"norm_topk_prob": True})),
    GuardCase(
        "scoring_func", Case("deepseek-softmax", *THREE, V3, written={"scoring_func": "softmax"})
    ),
    GuardCase(
        "scoring_func", Case("deepseek-sigmoid", *TWO, BIG, written={"scoring_func": "sigmoid"})
    ),
    GuardCase(
        "topk_method",
        Case(
            "deepseek-groups",
            *TWO,
            BIG
            | {
                "n_routed_experts": 8,
                "topk_method": "group_limited_greedy",
                "n_group": 4,
                "topk_group": 1,
            },
        ),
    ),
    GuardCase("rope_interleave", Case("deepseek-halves", *THREE, V3 | {"rope_interleave": False})),
)
