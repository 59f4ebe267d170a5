"""Gemma 1 to 3 and EmbeddingGemma, without their eyes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.convert.architecture import GELU_TANH, VISION, Architecture, Guard
from llmedge.convert.edits import plus_one
from llmedge.convert.guards import NO_BIAS, TIED, has_window, is_on
from llmedge.convert.hyperparameters import sliding_layers

if TYPE_CHECKING:
    from llmedge.convert.config import Config
    from llmedge.gguf.writer import Value

SANDWICH = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
SENSES = (*VISION, "*audio_tower.*", "*embed_vision.*", "*embed_audio.*", "*vision_embedder.*")
SIZES = {"head_dim": 256, "rms_norm_eps": 1e-6, "tie_word_embeddings": True}
TWO_ROPES = {"rope_theta": 1e6, "rope_local_base_freq": 1e4}

CAUSAL = Guard(
    "use_bidirectional_attention",
    lambda config: config.get("use_bidirectional_attention") in (None, False, "vision"),
    "llama.cpp lets positions attend to earlier ones only",
)
PLAIN_LOCAL_ROPE = Guard(
    "rope_parameters",
    lambda config: config.local_rope.kind == "default",
    "llama.cpp does not scale the rope of layers with a window",
)


def _scales_like_llama_cpp(n_layers_largest: int) -> Guard:
    """Return the guard for what queries are divided by; the largest model is an exception."""

    def divisor(config: Config) -> int:
        if config.n_layers == n_layers_largest:
            return config.integer("hidden_size") // config.n_heads
        return config.head_dim

    return Guard(
        "query_pre_attn_scalar",
        lambda config: config.number("query_pre_attn_scalar") == divisor(config),
        "llama.cpp scales queries by the width of a head",
    )


def windows(period: int, config: Config) -> dict[str, Value | None]:
    """Return which layers have a window, how wide it is, and their own rope's base."""
    return {
        "attention.sliding_window": config.integer("sliding_window"),
        "attention.sliding_window_pattern": sliding_layers(config, period),
        "rope.freq_base_swa": config.local_rope.theta,
    }


def _gemma2(config: Config) -> dict[str, Value | None]:
    return windows(2, config) | {
        "rope.freq_base_swa": None,
        "attn_logit_softcapping": config.number("attn_logit_softcapping"),
        "final_logit_softcapping": config.number("final_logit_softcapping"),
    }


def _gemma3(config: Config) -> dict[str, Value | None]:
    cap = config.get("final_logit_softcapping")
    # llama.cpp ends the process where a window is in no layer
    values = windows(6, config) if any(sliding_layers(config, 6)) else {}
    return values | {
        "final_logit_softcapping": None if cap is None else config.number("final_logit_softcapping")
    }


ARCHITECTURES = (
    Architecture(
        "gemma",
        "Gemma",
        ("GemmaForCausalLM",),
        edits={"*norm": plus_one},
        guards=(NO_BIAS, TIED),
        activations=GELU_TANH | {"gelu"},  # written so, but the tanh form was always meant
        defaults={**SIZES, "num_key_value_heads": 16},
    ),
    Architecture(
        "gemma2",
        "Gemma 2",
        ("Gemma2ForCausalLM",),
        block=SANDWICH,
        edits={"*norm": plus_one},
        metadata=_gemma2,
        guards=(
            NO_BIAS,
            TIED,
            has_window(lambda config: sliding_layers(config, 2)),
            _scales_like_llama_cpp(46),
            *(
                Guard(
                    name,
                    lambda config, name=name: not config.is_null(name),
                    "llama.cpp always caps here",
                )
                for name in ("attn_logit_softcapping", "final_logit_softcapping")
            ),
        ),
        activations=GELU_TANH,
        defaults={
            **SIZES,
            "num_key_value_heads": 4,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
    ),
    Architecture(
        "gemma3",
        "Gemma 3",
        ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
        block=SANDWICH,
        edits={"*norm": plus_one},
        metadata=_gemma3,
        guards=(
            CAUSAL,
            NO_BIAS,
            PLAIN_LOCAL_ROPE,
            _scales_like_llama_cpp(62),
        ),
        activations=GELU_TANH,
        defaults={
            **SIZES,
            **TWO_ROPES,
            "vocab_size": 262208,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "max_position_embeddings": 131072,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
        },
        ignored=SENSES,
    ),
    Architecture(
        "gemma-embedding",
        "EmbeddingGemma",
        ("Gemma3TextModel",),
        block=SANDWICH,
        edits={"*norm": plus_one},
        metadata=lambda config: windows(6, config),
        guards=(
            NO_BIAS,
            PLAIN_LOCAL_ROPE,
            has_window(lambda config: sliding_layers(config, 6)),
            _scales_like_llama_cpp(0),
            is_on("use_bidirectional_attention", "llama.cpp lets positions attend to later ones"),
        ),
        activations=GELU_TANH,
        defaults={
            **SIZES,
            **TWO_ROPES,
            "num_key_value_heads": 4,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "use_bidirectional_attention": False,
        },
        is_encoder=True,
        has_dense=True,
    ),
)
