"""Gemma 3n and 4, whose layers have embeddings of their own, without their eyes and ears."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from llmedge.convert.arch_gemma import (
    CAUSAL,
    PLAIN_LOCAL_ROPE,
    SANDWICH,
    SENSES,
    SIZES,
    TWO_ROPES,
    windows,
)
from llmedge.convert.architecture import GELU_TANH, Architecture, Guard
from llmedge.convert.edits import EXPERT_EDITS
from llmedge.convert.guards import NO_BIAS, equals, has_window, is_on
from llmedge.convert.hyperparameters import sliding_layers
from llmedge.convert.rows import Rows, constant, gather

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmedge.convert.config import Config
    from llmedge.gguf.writer import Value

_PER_LAYER_NAMES = {
    "embed_tokens_per_layer": "per_layer_token_embd",
    "per_layer_model_projection": "per_layer_model_proj",
    "per_layer_projection_norm": "per_layer_proj_norm",
}
_PER_LAYER_BLOCK = {
    "per_layer_input_gate": "inp_gate",
    "per_layer_projection": "proj",
    "post_per_layer_input_norm": "post_norm",
}
_SHARED_FROM = Guard(
    "num_kv_shared_layers",
    lambda config: _shares_like_llama_cpp(6, config),
    "llama.cpp takes shared keys and values from the last two layers that have their own, which it "
    "takes to be one with a window and one without",
)


def _shares_like_llama_cpp(period: int, config: Config) -> bool:
    n_shared = config.integer("num_kv_shared_layers")
    return not n_shared or sliding_layers(config, period)[:-n_shared][-2:] == [True, False]


def _per_layer(config: Config) -> dict[str, Value | None]:
    has_none = config.is_null("hidden_size_per_layer_input")
    return {
        "attention.shared_kv_layers": config.integer("num_kv_shared_layers"),
        "embedding_length_per_layer_input": (
            0 if has_none else config.integer("hidden_size_per_layer_input")
        ),
    }


def _pad_tokens(rows: Rows, config: Config) -> Rows:
    """Give tokens of images and sound, which have no embedding of their own here, the first one."""
    n_missing = config.integer("vocab_size") - rows.n_rows
    if n_missing <= 0:
        return rows
    own = np.arange(rows.n_rows, dtype=np.int64)
    return gather(rows, np.concatenate([own, np.zeros(n_missing, np.int64)]))


def _unused_keys(config: Config) -> Mapping[str, Rows]:
    """Return Gemma 3n's keys and values of layers that share others': nobody reads them."""
    width = config.n_kv_heads * config.head_dim
    n_shared = config.integer("num_kv_shared_layers")
    shapes = {
        "attn_k": (width, config.integer("hidden_size")),
        "attn_v": (width, config.integer("hidden_size")),
        "attn_k_norm": (config.head_dim,),
    }
    return {
        f"blk.{layer}.{name}.weight": Rows(
            shape, lambda start, stop, n=shape[-1]: np.zeros((stop - start, n), np.float32)
        )
        for layer in range(config.n_layers - n_shared, config.n_layers)
        for name, shape in shapes.items()
    }


def _gemma4_full(config: Config, name: str, given: str, default: int) -> int:
    """Return what layers without a window have: in one place of the config or another."""
    overrides = config.get("per_layer_config")
    if isinstance(overrides, dict):
        for override in cast("dict[str, dict[str, int]]", overrides).values():
            if name in override:
                return override[name]
    return config.integer(given, default)


def _gemma4_sliding(config: Config) -> list[bool]:
    return [*sliding_layers(config, 6)[:-1], False]  # the last layer never has a window


def _gemma4(config: Config) -> dict[str, Value | None]:
    sliding = _gemma4_sliding(config)
    width = _gemma4_full(config, "head_dim", "global_head_dim", 512)
    n_full = config.n_kv_heads
    if config.flag("attention_k_eq_v"):
        n_full = _gemma4_full(config, "num_key_value_heads", "num_global_key_value_heads", n_full)
    n_ff = config.integer("intermediate_size")
    n_own = config.n_layers - config.integer("num_kv_shared_layers")
    wide = 2 if config.flag("use_double_wide_mlp") else 1
    cap = config.get("final_logit_softcapping")
    return (
        windows(6, config)
        | _per_layer(config)
        | {
            "attention.sliding_window_pattern": sliding,
            "attention.key_length": width,
            "attention.value_length": width,
            "attention.key_length_swa": config.head_dim,
            "attention.value_length_swa": config.head_dim,
            "attention.head_count_kv": [config.n_kv_heads if each else n_full for each in sliding],
            "feed_forward_length": [
                n_ff if layer < n_own else wide * n_ff for layer in range(config.n_layers)
            ],
            "expert_used_count": (
                config.integer("top_k_experts") if config.has("num_experts") else None
            ),
            "rope.dimension_count": width,
            "rope.dimension_count_swa": config.head_dim,
            # llama.cpp caps at 30 where a file is silent
            "final_logit_softcapping": (
                0.0 if cap is None else config.number("final_logit_softcapping")
            ),
        }
    )


def _proportional_factors(config: Config) -> Mapping[str, Rows]:
    """Return divisors of frequencies that rotate a part of each half of a head.

    Source: transformers `_compute_proportional_rope_parameters`.
    """
    rope = config.rope
    width = _gemma4_full(config, "head_dim", "global_head_dim", 512)
    share = rope.number("partial_rotary_factor", 1.0)
    factors = np.full(width // 2, 1e30, np.float32)
    factors[: int(share * width // 2)] = rope.number("factor", 1.0)
    return {"rope_freqs.weight": constant(factors)}


ARCHITECTURES = (
    Architecture(
        "gemma3n",
        "Gemma 3n",
        ("Gemma3nForCausalLM", "Gemma3nForConditionalGeneration"),
        names={
            **_PER_LAYER_NAMES,
            "altup_projections.*": "altup_proj",
            "altup_unembed_projections.*": "altup_unembd_proj",
        },
        block={
            **SANDWICH,
            **_PER_LAYER_BLOCK,
            "altup.correct_output_scale": "altup_correct_scale.weight",
            "altup.correction_coefs": "altup_correct_coef",
            "altup.prediction_coefs": "altup_predict_coef",
            "altup.modality_router": "altup_router",
            "altup.router_norm": "altup_router_norm",
            "laurel.linear_left": "laurel_l",
            "laurel.linear_right": "laurel_r",
            "laurel.post_laurel_norm": "laurel_post_norm",
        },
        edits={"per_layer_token_embd": _pad_tokens},
        metadata=lambda config: windows(5, config) | _per_layer(config),
        extra=_unused_keys,
        guards=(
            NO_BIAS,
            PLAIN_LOCAL_ROPE,
            has_window(lambda config: sliding_layers(config, 5)),
            Guard(
                "num_kv_shared_layers",
                lambda config: (
                    config.n_layers - config.integer("num_kv_shared_layers") == 20
                    and _shares_like_llama_cpp(5, config)
                ),
                "llama.cpp gives keys and values of their own to 20 layers",
            ),
            Guard(
                "activation_sparsity_pattern",
                lambda config: (
                    not config.has("activation_sparsity_pattern")
                    or config.numbers("activation_sparsity_pattern")
                    == 10 * [0.95] + (config.n_layers - 10) * [0.0]
                ),
                "llama.cpp keeps a twentieth of the first ten layers' activations",
            ),
            equals("final_logit_softcapping", 30, "llama.cpp caps at 30"),
            equals("altup_active_idx", 0, "llama.cpp takes the first"),
            equals("altup_num_inputs", 4, "llama.cpp takes 4"),
            is_on("altup_correct_scale", "llama.cpp scales what it corrects"),
            equals("laurel_rank", 64, "llama.cpp takes 64"),
            equals("hidden_size_per_layer_input", 256, "llama.cpp takes 256"),
        ),
        activations=GELU_TANH,
        defaults={
            **SIZES,
            **TWO_ROPES,
            "num_key_value_heads": 2,
            "num_kv_shared_layers": 15,
            "sliding_window": 512,
            "final_logit_softcapping": 30.0,
            "hidden_size_per_layer_input": 256,
            "altup_active_idx": 0,
            "altup_num_inputs": 4,
            "altup_correct_scale": True,
            "laurel_rank": 64,
        },
        ignored=SENSES,
    ),
    Architecture(
        "gemma4",
        "Gemma 4",
        ("Gemma4ForCausalLM", "Gemma4ForConditionalGeneration"),
        names=_PER_LAYER_NAMES,
        block={
            **SANDWICH,
            **_PER_LAYER_BLOCK,
            "layer_scalar": "layer_output_scale.weight",
            "router.proj": "ffn_gate_inp",
            "router.scale": "ffn_gate_inp.scale",
            "router.per_expert_scale": "ffn_down_exps.scale",
            "experts.gate_up_proj": "ffn_gate_up_exps.weight",
            "experts.down_proj": "ffn_down_exps.weight",
            "post_feedforward_layernorm_1": "post_ffw_norm_1",
            "post_feedforward_layernorm_2": "post_ffw_norm_2",
            "pre_feedforward_layernorm_2": "pre_ffw_norm_2",
        },
        edits={"per_layer_token_embd": _pad_tokens, **EXPERT_EDITS},
        metadata=_gemma4,
        extra=_proportional_factors,
        guards=(
            CAUSAL,
            NO_BIAS,
            PLAIN_LOCAL_ROPE,
            has_window(_gemma4_sliding),
            _SHARED_FROM,
        ),
        activations=GELU_TANH,
        rope_kinds=frozenset({"proportional"}),
        defaults={
            **SIZES,
            **TWO_ROPES,
            "num_key_value_heads": 4,
            "sliding_window": 512,
            "num_kv_shared_layers": 0,
            "hidden_size_per_layer_input": 256,
            "attention_k_eq_v": False,
            "use_double_wide_mlp": False,
            "rope_parameters": {
                "full_attention": {
                    "rope_type": "proportional",
                    "rope_theta": 1e6,
                    "partial_rotary_factor": 0.25,
                },
                "sliding_attention": {"rope_theta": 1e4},
            },
        },
        ignored=SENSES,
    ),
)
