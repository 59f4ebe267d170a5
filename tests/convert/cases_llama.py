"""Llama and what is shaped like it."""

from __future__ import annotations

from tests.convert.parity import Case, GuardCase

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
SMOLLM3 = ("smollm3", "SmolLM3ForCausalLM")
MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}

CASES = (
    Case("llama", "llama", "LlamaForCausalLM"),
    Case("llama-tied", "llama", "LlamaForCausalLM", {"tie_word_embeddings": True}),
    Case("llama-bias", "llama", "LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True}),
    Case("llama-head-dim", "llama", "LlamaForCausalLM", {"head_dim": 32}),
    Case("llama-3", "llama", "LlamaForCausalLM", {"rope_parameters": LLAMA3_ROPE}),
    Case("llama-yarn", "llama", "LlamaForCausalLM", {"rope_parameters": YARN}),
    Case("mistral", "mistral", "MistralForCausalLM", {"sliding_window": None}),
    Case("mixtral", "mixtral", "MixtralForCausalLM", MOE),
    Case("smollm3", *SMOLLM3, {"num_hidden_layers": 5}),
    Case(
        "smollm3-silent",
        *SMOLLM3,
        {"num_hidden_layers": 5, "rope_parameters": {"rope_type": "default", "rope_theta": 2e6}},
        written={"no_rope_layers": None, "rope_parameters": None, "rms_norm_eps": None},
    ),
)

GUARDS = (
    GuardCase(
        "no_rope_layers",
        Case("smollm3", *SMOLLM3, {"no_rope_layers": [1, 0, 1]}),
    ),
    GuardCase(
        "no_rope_layers",
        Case(
            "smollm3-interval",
            *SMOLLM3,
            {"no_rope_layer_interval": 2},
            written={"no_rope_layers": None},
        ),
    ),
    GuardCase(
        "use_sliding_window",
        Case(
            "smollm3-window",
            *SMOLLM3,
            {"num_hidden_layers": 4, "use_sliding_window": True, "sliding_window": 8},
        ),
    ),
)
