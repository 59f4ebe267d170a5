"""Attention from latent values: the names and settings that its models share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmedge.convert.config import Config
    from llmedge.gguf.writer import Value

LATENT = {
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b",
}


def latent_metadata(config: Config) -> dict[str, Value | None]:
    """Return how many latent values there are, and how much of a head rotates."""
    has_latent_queries = config.has("q_lora_rank") and not config.is_null("q_lora_rank")
    return {
        "attention.q_lora_rank": config.integer("q_lora_rank") if has_latent_queries else None,
        "attention.kv_lora_rank": config.integer("kv_lora_rank"),
        "rope.dimension_count": config.integer("qk_rope_head_dim"),
    }
