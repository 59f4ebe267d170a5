"""Falcon and Falcon H1."""

from __future__ import annotations

from tests.convert.parity import Case, GuardCase

FALCON = ("falcon", "FalconForCausalLM")
# Falcon 7B, 40B and 11B, and a Falcon with as many keys as queries
PLAIN = {"num_key_value_heads": None, "intermediate_size": None}
SEVEN = PLAIN | {"multi_query": True, "num_kv_heads": 4}
FORTY = PLAIN | {"new_decoder_architecture": True, "num_kv_heads": 2}
H1 = ("falcon_h1", "FalconH1ForCausalLM")
HYBRID = {"mamba_d_ssm": 96, "mamba_n_heads": 6, "mamba_d_state": 16, "head_dim": 16}
SCALES = HYBRID | {
    "lm_head_multiplier": 0.5,
    "embedding_multiplier": 3.0,
    "mlp_multipliers": [0.8, 0.6],
    "key_multiplier": 0.4,
    "attention_out_multiplier": 0.7,
    "attention_in_multiplier": 1.3,
    "ssm_multipliers": [0.4, 0.5, 0.6, 0.7, 0.8],
    "ssm_in_multiplier": 1.2,
    "ssm_out_multiplier": 0.3,
}

CASES = (
    Case("falcon-7b", *FALCON, SEVEN, 1e-3),
    Case("falcon-40b", *FALCON, FORTY, 1e-3),
    Case("falcon-11b", *FALCON, FORTY | {"num_ln_in_parallel_attn": 1}, 1e-3),
    Case(
        "falcon-wide",
        *FALCON,
        PLAIN | {"multi_query": False, "ffn_hidden_size": 96, "tie_word_embeddings": False},
        1e-3,
    ),
    Case(
        "falcon-older",
        *FALCON,
        FORTY,
        1e-3,
        written={
            "num_hidden_layers": None,
            "n_layer": 3,
            "num_attention_heads": None,
            "n_head": 4,
            "num_kv_heads": None,
            "n_head_kv": 2,
            "ffn_hidden_size": None,
            "rope_parameters": None,
            "tie_word_embeddings": None,
        },
    ),
    Case("falcon-h1", *H1, SCALES),
    Case("falcon-h1-tied", *H1, SCALES | {"tie_word_embeddings": True}),
    Case("falcon-h1-bias", *H1, SCALES | {"mlp_bias": True}),
    Case("falcon-h1-unscaled", *H1, HYBRID | {"mamba_d_ssm": None, "mamba_n_heads": 8}),
    Case(
        "falcon-h1-norm",
        *H1,
        SCALES | {"mamba_rms_norm": True, "mamba_norm_before_gate": False, "mamba_n_groups": 2},
    ),
)

GUARDS = (
    GuardCase("alibi", Case("falcon-alibi", *FALCON, SEVEN | {"alibi": True})),
    GuardCase("parallel_attn", Case("falcon-serial", *FALCON, SEVEN | {"parallel_attn": False})),
    GuardCase("bias", Case("falcon-bias", *FALCON, SEVEN | {"bias": True})),
    GuardCase("activation", Case("falcon-relu", *FALCON, SEVEN | {"activation": "relu"})),
    *(
        GuardCase(field, Case(f"falcon-h1-{field}", *H1, SCALES | {field: value}))
        for field, value in {
            "attention_bias": True,
            "mamba_proj_bias": True,
            "projectors_bias": True,
            "time_step_limit": (0.5, 0.6),
        }.items()
    ),
    GuardCase(
        "mamba_conv_bias",
        Case("falcon-h1-conv-bias", *H1, SCALES | {"mamba_conv_bias": False}),
        is_fatal=True,
    ),
    GuardCase(
        "mamba_norm_before_gate",
        Case("falcon-h1-before-gate", *H1, SCALES | {"mamba_rms_norm": True}),
    ),
)
