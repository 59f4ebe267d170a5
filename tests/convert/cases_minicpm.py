"""OpenBMB's MiniCPM."""

from __future__ import annotations

from tests.convert.parity import Case, GuardCase

MINICPM3 = ("minicpm3", "MiniCPM3ForCausalLM")
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.3, 1.6],
    "long_factor": [1.0, 1.5, 2.5, 4.0],
    "original_max_position_embeddings": 256,
}
LONGER = LONGROPE | {"original_max_position_embeddings": 16}

CASES = (
    Case("minicpm3", *MINICPM3, LATENT),
    Case("minicpm3-untied", *MINICPM3, LATENT | {"tie_word_embeddings": False}),
    Case("minicpm3-longrope", *MINICPM3, LATENT | {"rope_parameters": LONGROPE}),
    Case("minicpm3-longrope-long", *MINICPM3, LATENT | {"rope_parameters": LONGER}),
    Case(
        "minicpm3-older",
        *MINICPM3,
        LATENT | {"v_head_dim": None, "rope_parameters": LONGROPE},
        written={
            "rope_parameters": None,
            "rope_theta": 10000.0,
            "rope_scaling": {**LONGROPE, "type": "longrope", "rope_type": None},
            "head_dim": None,
            "v_head_dim": None,
        },
    ),
)

GUARDS = tuple(
    GuardCase(field, Case(f"minicpm3-{field}", *MINICPM3, LATENT | {field: value}))
    for field, value in {
        "scale_emb": 3,
        "scale_depth": 0.7,
        "dim_model_base": 64,
        "q_lora_rank": None,
        "attention_bias": True,
        "mlp_bias": True,
    }.items()
)
