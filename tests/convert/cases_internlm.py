"""InternLM 3, whose class is not in transformers: Llama computes the same."""

from __future__ import annotations

from tests.convert.parity import Case, GuardCase

LLAMA = ("llama", "LlamaForCausalLM")
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 6.0}
# as internlm3-8b-instruct says it
INTERNLM = {
    "architectures": ["InternLM3ForCausalLM"],
    "bias": False,
    "qkv_bias": False,
    "attention_bias": None,
    "mlp_bias": None,
    "rope_parameters": None,
    "rope_theta": 10000,
    "rope_scaling": {"rope_type": "dynamic", "factor": 6.0},
}

CASES = (
    Case("internlm3", *LLAMA, {"head_dim": 32, "rope_parameters": DYNAMIC}, written=INTERNLM),
    Case(
        "internlm3-bias",
        *LLAMA,
        {"attention_bias": True, "mlp_bias": True},
        written=INTERNLM | {"bias": True, "qkv_bias": True, "rope_scaling": None},
    ),
)

GUARDS: tuple[GuardCase, ...] = ()
