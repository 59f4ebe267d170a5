"""OpenBMB's MiniCPM 3, whose keys and values come from latent ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.convert.architecture import Architecture, Guard
from llmedge.convert.edits_mla import LATENT, latent_metadata
from llmedge.convert.guards import equals, without_bias
from llmedge.convert.hyperparameters import LONGROPE, longrope_factors, longrope_metadata

if TYPE_CHECKING:
    from llmedge.convert.config import Config
    from llmedge.gguf.writer import Value


def _metadata(config: Config) -> dict[str, Value | None]:
    return {
        **latent_metadata(config),
        **longrope_metadata(config),
        "attention.key_length": config.integer("qk_nope_head_dim")
        + config.integer("qk_rope_head_dim"),
        "attention.value_length": config.integer(
            "v_head_dim", config.integer("hidden_size") // config.n_heads
        ),
    }


ARCHITECTURES = (
    Architecture(
        "minicpm3",
        "MiniCPM 3",
        ("MiniCPM3ForCausalLM",),
        block=LATENT,
        metadata=_metadata,
        extra=longrope_factors,
        guards=(
            *(
                equals(field, value, f"llama.cpp computes with {value}")
                for field, value in {
                    "scale_emb": 12,
                    "scale_depth": 1.4,
                    "dim_model_base": 256,
                }.items()
            ),
            Guard(
                "q_lora_rank",
                lambda config: not config.is_null("q_lora_rank"),
                "llama.cpp knows queries only from latent values",
            ),
            without_bias("attention_bias"),
            without_bias("mlp_bias"),
        ),
        rope_kinds=frozenset({"default", *LONGROPE}),
        defaults={
            "rms_norm_eps": 1e-5,
            "num_key_value_heads": 40,
            "scale_emb": 12,
            "scale_depth": 1.4,
            "dim_model_base": 256,
            "kv_lora_rank": 256,
            "q_lora_rank": 768,
            "qk_nope_head_dim": 64,
            "qk_rope_head_dim": 32,
            "tie_word_embeddings": True,
        },
    ),
)
