"""Mistral 3, Ministral 3 and Ministral."""

from __future__ import annotations

from tests.convert.parity import SMALL, Case, GuardCase

YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 16.0,
    "original_max_position_embeddings": 8,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale_all_dim": 1.0,
    "mscale": 1.0,
    "llama_4_scaling_beta": 0.1,
}
MINISTRAL3 = {"head_dim": 32, "rope_parameters": YARN}
VISION = {
    "model_type": "pixtral",
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "head_dim": 16,
    "image_size": 28,
    "patch_size": 14,
}
MINISTRAL = ("ministral", "MinistralForCausalLM")
MISTRAL3 = ("mistral3", "Mistral3ForConditionalGeneration")


def with_vision(model_type: str, settings: dict[str, object]) -> dict[str, object]:
    """Return a model with a small vision tower before it."""
    return {
        "text_config": {"model_type": model_type, **settings},
        "vision_config": VISION,
        "image_token_index": SMALL["vocab_size"] - 1,
        "tie_word_embeddings": False,
    }


CASES = (
    Case("ministral3", "ministral3", "Ministral3ForCausalLM", MINISTRAL3),
    Case(
        "ministral3-mscale",
        "ministral3",
        "Ministral3ForCausalLM",
        MINISTRAL3 | {"rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 0.3}},
    ),
    Case(
        "ministral3-silent",
        "ministral3",
        "Ministral3ForCausalLM",
        {"head_dim": 32},
        written={"rope_parameters": None},
    ),
    Case("mistral3-ministral", *MISTRAL3, with_vision("ministral3", MINISTRAL3)),
    Case("mistral3", *MISTRAL3, with_vision("mistral", {"head_dim": 32, "sliding_window": None})),
    Case(
        "mistral3-tied",
        *MISTRAL3,
        with_vision("ministral3", MINISTRAL3) | {"tie_word_embeddings": True},
    ),
    Case(
        "mistral3-in-memory",
        *MISTRAL3,
        with_vision("ministral3", MINISTRAL3),
        is_original=False,
    ),
    Case("ministral", *MINISTRAL, {"head_dim": 16, "sliding_window": 64}),
    Case(
        "ministral-full",
        *MINISTRAL,
        {"head_dim": 16, "sliding_window": 8, "layer_types": ["full_attention"] * 3},
    ),
)

GUARDS: tuple[GuardCase, ...] = ()
