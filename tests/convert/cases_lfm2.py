"""Liquid AI's LFM2."""

from __future__ import annotations

from tests.convert.parity import Case, GuardCase

KINDS = {"layer_types": ["conv", "full_attention", "conv"]}
MOE = KINDS | {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "num_dense_layers": 1,
}
LFM2 = ("lfm2", "Lfm2ForCausalLM")
LFM2_MOE = ("lfm2_moe", "Lfm2MoeForCausalLM")
# as LFM2-1.2B says it
OLDER = {
    "block_ff_dim": 96,
    "intermediate_size": None,
    "full_attn_idxs": [1],
    "layer_types": None,
    "tie_embedding": True,
    "tie_word_embeddings": None,
    "rope_theta": 1000000.0,
    "rope_parameters": None,
}

CASES = (
    Case("lfm2", *LFM2, KINDS | {"block_auto_adjust_ff_dim": False}),
    Case("lfm2-adjusted", *LFM2, KINDS | {"block_multiple_of": 32}),
    Case("lfm2-older", *LFM2, KINDS, written=OLDER),
    Case("lfm2-untied", *LFM2, KINDS | {"tie_word_embeddings": False, "conv_L_cache": 4}),
    Case(
        "lfm2-untied-older",
        *LFM2,
        KINDS | {"tie_word_embeddings": False},
        written=OLDER | {"tie_embedding": False},
    ),
    Case("lfm2-moe", *LFM2_MOE, MOE),
)

GUARDS = (
    GuardCase("conv_bias", Case("lfm2-conv-bias", *LFM2, KINDS | {"conv_bias": True})),
    *(
        GuardCase(field, Case(f"lfm2-moe-{field}", *LFM2_MOE, MOE | {field: value}))
        for field, value in {
            "conv_bias": True,
            "use_expert_bias": False,
            "norm_topk_prob": False,
            "routed_scaling_factor": 2.5,
        }.items()
    ),
)
