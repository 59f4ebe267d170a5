"""Mamba, Mamba 2 and Falcon Mamba."""

from __future__ import annotations

from tests.convert.parity import Case, GuardCase

PLAIN = {
    "num_attention_heads": None,
    "num_key_value_heads": None,
    "intermediate_size": None,
    "max_position_embeddings": None,
    "state_size": 16,
}
MAMBA = ("mamba", "MambaForCausalLM")
MAMBA2 = ("mamba2", "Mamba2ForCausalLM")
FALCON = ("falcon_mamba", "FalconMambaForCausalLM")
HEADS = PLAIN | {"num_heads": 8, "head_dim": 16, "n_groups": 1}

ROUNDING = 5e-5  # torch's own: its logits are as far from those in double precision
EPSILON = 1e-4  # llama.cpp has one epsilon for two kinds of norm; with equal ones it is 6e-6

CASES = (
    Case("mamba", *MAMBA, PLAIN, ROUNDING),
    Case("mamba-untied", *MAMBA, PLAIN | {"tie_word_embeddings": False, "time_step_rank": 7}),
    Case("mamba-older", *MAMBA, PLAIN, ROUNDING, {"tie_word_embeddings": None, "d_inner": 128}),
    Case("falcon-mamba", *FALCON, PLAIN, EPSILON),
    Case("falcon-mamba-equal", *FALCON, PLAIN | {"mixer_rms_eps": 1e-5}),
    Case("mamba2", *MAMBA2, HEADS),
    Case("mamba2-groups", *MAMBA2, HEADS | {"n_groups": 2, "conv_kernel": 3}),
    Case("mamba2-wide", *MAMBA2, HEADS | {"expand": 3, "num_heads": 12}),
    Case(
        "mamba2-codestral",
        *MAMBA2,
        HEADS | {"tie_word_embeddings": True},
        renamed={"backbone.": "model.backbone."},
    ),
)

GUARDS = (
    *(
        GuardCase(field, Case(f"{model[0]}-{field}", *model, PLAIN | {field: value}))
        for model in (MAMBA, FALCON)
        for field, value in {"use_conv_bias": False, "use_bias": True, "expand": 3}.items()
    ),
    GuardCase("mixer_rms_eps", Case("falcon-epsilon", *FALCON, PLAIN | {"mixer_rms_eps": 0.3})),
    GuardCase("use_conv_bias", Case("mamba2-conv", *MAMBA2, HEADS | {"use_conv_bias": False})),
    GuardCase("use_bias", Case("mamba2-bias", *MAMBA2, HEADS | {"use_bias": True})),
    GuardCase(
        "time_step_limit", Case("mamba2-limit", *MAMBA2, HEADS | {"time_step_limit": (0.5, 0.6)})
    ),
)
