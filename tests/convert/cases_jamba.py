"""AI21's Jamba."""

from __future__ import annotations

from tests.convert.parity import Case, GuardCase

JAMBA = ("jamba", "JambaForCausalLM")
PERIODS = {
    "num_hidden_layers": 4,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "num_experts": 4,
    "num_experts_per_tok": 2,
}

CASES = (
    Case("jamba", *JAMBA, PERIODS),
    Case("jamba-tied", *JAMBA, PERIODS | {"tie_word_embeddings": True, "mamba_dt_rank": 7}),
    Case("jamba-dense", *JAMBA, PERIODS | {"num_experts": 1, "attn_layer_period": 3}),
)

GUARDS = (
    GuardCase("mamba_proj_bias", Case("jamba-bias", *JAMBA, PERIODS | {"mamba_proj_bias": True})),
    GuardCase("mamba_conv_bias", Case("jamba-conv", *JAMBA, PERIODS | {"mamba_conv_bias": False})),
    GuardCase(
        "mamba_expand", Case("jamba-wide", *JAMBA, PERIODS | {"mamba_expand": 3}), is_fatal=True
    ),
)
