"""IBM's Granite."""

from __future__ import annotations

from tests.convert.parity import Case, GuardCase

SCALES = {
    "attention_multiplier": 0.2,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.7,
    "logits_scaling": 2.0,
}
MOE = SCALES | {"num_local_experts": 4, "num_experts_per_tok": 2}
SHARED = MOE | {"shared_intermediate_size": 32}
MAMBA = SCALES | {
    "num_local_experts": 0,
    "shared_intermediate_size": 80,
    "mamba_n_heads": 8,
    "mamba_d_state": 16,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}
HYBRID = ("granitemoehybrid", "GraniteMoeHybridForCausalLM")
OLDER = {"layer_types": ["mamba", "attention", "mamba"], "time_step_limit": None}

CASES = (
    Case("granite", "granite", "GraniteForCausalLM", SCALES),
    Case("granite-silent", "granite", "GraniteForCausalLM", written={"attention_multiplier": None}),
    Case(
        "granite-bias",
        "granite",
        "GraniteForCausalLM",
        SCALES | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    Case("granite-moe", "granitemoe", "GraniteMoeForCausalLM", MOE),
    Case("granite-moe-shared", "granitemoeshared", "GraniteMoeSharedForCausalLM", SHARED),
    Case("granite-moe-unshared", "granitemoeshared", "GraniteMoeSharedForCausalLM", MOE),
    Case("granite-hybrid", *HYBRID, MAMBA),
    Case("granite-hybrid-rope", *HYBRID, MAMBA | {"position_embedding_type": "rope"}),
    Case("granite-hybrid-groups", *HYBRID, MAMBA | {"mamba_n_groups": 2, "mamba_d_conv": 3}),
    Case("granite-hybrid-older", *HYBRID, MAMBA, written=OLDER),
    Case("granite-hybrid-moe", *HYBRID, MAMBA | SHARED),
    Case(
        "granite-hybrid-attention",
        *HYBRID,
        MAMBA | {"layer_types": ["full_attention"] * 3, "position_embedding_type": "rope"},
    ),
    Case(
        "granite-hybrid-attention-moe",
        *HYBRID,
        MAMBA | SHARED | {"layer_types": ["full_attention"] * 3},
    ),
)

GUARDS = (
    GuardCase("mamba_proj_bias", Case("proj-bias", *HYBRID, MAMBA | {"mamba_proj_bias": True})),
    GuardCase(
        "mamba_conv_bias",
        Case("conv-bias", *HYBRID, MAMBA | {"mamba_conv_bias": False}),
        is_fatal=True,
    ),
    GuardCase("mamba_expand", Case("expand", *HYBRID, MAMBA | {"mamba_expand": 3}), is_fatal=True),
    GuardCase("time_step_limit", Case("limit", *HYBRID, MAMBA | {"time_step_limit": (0.5, 0.6)})),
)
