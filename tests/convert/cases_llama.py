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
    Case("smollm3", "smollm3", "SmolLM3ForCausalLM", {"num_hidden_layers": 5}),
)

GUARDS = (
    GuardCase(
        "no_rope_layers",
        Case("smollm3", "smollm3", "SmolLM3ForCausalLM", {"no_rope_layers": [1, 0, 1]}),
    ),
)
