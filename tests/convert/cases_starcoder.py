"""StarCoder and StarCoder 2."""

from __future__ import annotations

from tests.convert.parity import Case, GuardCase

GELU = 1e-3
STARCODER = ("gpt_bigcode", "GPTBigCodeForCausalLM")
STARCODER2 = ("starcoder2", "Starcoder2ForCausalLM")
PLAIN = {"num_key_value_heads": None, "intermediate_size": None}

CASES = (
    Case("starcoder", *STARCODER, PLAIN, GELU),
    Case("starcoder-heads", *STARCODER, PLAIN | {"multi_query": False, "n_inner": 96}, GELU),
    Case("starcoder2", *STARCODER2, {"sliding_window": 64}, GELU),
    Case("starcoder2-untied", *STARCODER2, {"tie_word_embeddings": False}, GELU),
    Case("starcoder2-older", *STARCODER2, tolerance=GELU, written={"tie_word_embeddings": None}),
)

GUARDS = (
    GuardCase(
        "scale_attn_weights",
        Case("code-unscaled", *STARCODER, PLAIN | {"scale_attn_weights": False}),
    ),
    GuardCase("use_bias", Case("code-no-bias", *STARCODER2, {"use_bias": False})),
)
