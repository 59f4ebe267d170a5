"""LG's EXAONE 4."""

from __future__ import annotations

from tests.convert.cases_llama import LLAMA3_ROPE
from tests.convert.parity import Case, GuardCase

EXAONE = ("exaone4", "Exaone4ForCausalLM")
# EXAONE 4 1.2B and 32B
SMALL = {"sliding_window": None, "layer_types": ["full_attention"] * 3}
LARGE = {
    "num_hidden_layers": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "sliding_window": 8,
    "rope_parameters": LLAMA3_ROPE,
}

CASES = (
    Case("exaone4", *EXAONE, SMALL),
    Case("exaone4-llama3", *EXAONE, SMALL | {"rope_parameters": LLAMA3_ROPE}),
    Case(
        "exaone4-window",
        *EXAONE,
        LARGE,
        written={"sliding_window_pattern": "LLLG", "layer_types": None},
    ),
)

GUARDS = (
    GuardCase("sliding_window", Case("exaone4-few-layers", *EXAONE, {"sliding_window": 8})),
    GuardCase(
        "layer_types",
        Case("exaone4-no-window", *EXAONE, LARGE | {"layer_types": 64 * ["full_attention"]}),
        is_fatal=True,
    ),
)
