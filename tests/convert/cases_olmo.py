"""OLMo."""

from __future__ import annotations

from typing import Any

from tests.convert.cases_llama import YARN
from tests.convert.parity import Case, GuardCase

MOE = {"num_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 4}
ROPES: dict[str, Any] = {
    "full_attention": {**YARN, "attention_factor": 1.2},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}
OLMO3 = {"num_hidden_layers": 5, "sliding_window": 8}
OTHER_ROPES = {**ROPES, "sliding_attention": {"rope_type": "default", "rope_theta": 100.0}}


def olmo(name: str, **settings: Any) -> Case:
    return Case(name, "olmo", "OlmoForCausalLM", settings)


def olmo2(name: str, **settings: Any) -> Case:
    return Case(name, "olmo2", "Olmo2ForCausalLM", settings)


def olmo3(name: str, **settings: Any) -> Case:
    return Case(name, "olmo3", "Olmo3ForCausalLM", {**OLMO3, **settings})


def olmoe(name: str, **settings: Any) -> Case:
    return Case(name, "olmoe", "OlmoeForCausalLM", {**MOE, **settings})


CASES = (
    olmo("olmo"),
    olmo("olmo-tied-clipped", tie_word_embeddings=True, clip_qkv=0.5),
    olmo2("olmo2"),
    olmo3("olmo3"),
    olmo3("olmo3-no-window", layer_types=5 * ["full_attention"]),
    olmo3("olmo3-yarn", rope_parameters=ROPES),
    Case(
        "olmo3-2025",
        "olmo3",
        "Olmo3ForCausalLM",
        {**OLMO3, "rope_parameters": ROPES},
        written={
            "layer_types": None,
            "rope_parameters": None,
            "rope_theta": 10000.0,
            "rope_scaling": {**YARN, "attention_factor": 1.2},
        },
    ),
    olmoe("olmoe"),
    Case("olmoe-stacked", "olmoe", "OlmoeForCausalLM", MOE, is_original=False),
)

GUARDS = (
    GuardCase("attention_bias", olmo("olmo", attention_bias=True)),
    GuardCase("attention_bias", olmo2("olmo2", attention_bias=True)),
    GuardCase("tie_word_embeddings", olmo2("olmo2", tie_word_embeddings=True)),
    GuardCase("attention_bias", olmo3("olmo3", attention_bias=True)),
    GuardCase("tie_word_embeddings", olmo3("olmo3", tie_word_embeddings=True)),
    GuardCase("rope_parameters", olmo3("olmo3", rope_parameters=OTHER_ROPES)),
    GuardCase("attention_bias", olmoe("olmoe", attention_bias=True)),
    GuardCase("tie_word_embeddings", olmoe("olmoe", tie_word_embeddings=True)),
    GuardCase("norm_topk_prob", olmoe("olmoe", norm_topk_prob=True)),
    GuardCase("num_key_value_heads", olmoe("olmoe", num_key_value_heads=2)),
    GuardCase("clip_qkv", olmoe("olmoe", clip_qkv=0.2)),
)
