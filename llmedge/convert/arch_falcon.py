"""Falcon, and Falcon H1 with attention and Mamba side by side in every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmedge.convert.architecture import GELU, Architecture, Guard
from llmedge.convert.edits_mamba import UNLIMITED_TIME_STEP, mamba2_edits, mamba_block
from llmedge.convert.guards import is_off, is_on, with_bias, without_bias
from llmedge.convert.hyperparameters import four_times_wider, layer_norm
from llmedge.convert.rows import apply, gather, scale_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llmedge.convert.architecture import Edit
    from llmedge.convert.config import Config
    from llmedge.convert.rows import Floats, Rows
    from llmedge.gguf.writer import Value


def _n_kv_heads(config: Config) -> int:
    if config.flag("new_decoder_architecture", default=False):
        return config.n_kv_heads
    return 1 if config.flag("multi_query", default=True) else config.n_heads


def _queries_first(rows: Rows, config: Config) -> Rows:
    """Turn groups of some queries, one key and one value into all queries, all keys, all values."""
    n_groups = _n_kv_heads(config)
    n_queries = config.n_heads // n_groups
    order = np.arange(rows.shape[0], dtype=np.int64).reshape(n_groups, n_queries + 2, -1)
    parts = (order[:, :n_queries], order[:, n_queries], order[:, n_queries + 1])
    return gather(rows, np.concatenate([part.reshape(-1) for part in parts]))


def _falcon(config: Config) -> dict[str, Value | None]:
    n_kv = {"attention.head_count_kv": _n_kv_heads(config)}
    return layer_norm(config) | four_times_wider(config) | n_kv


def _inner_size(config: Config) -> int:
    if config.is_null("mamba_d_ssm"):
        return config.integer("mamba_expand", 2) * config.integer("hidden_size")
    return config.integer("mamba_d_ssm", 1024)


def _falcon_h1(config: Config) -> dict[str, Value | None]:
    return {
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "ssm.conv_kernel": config.integer("mamba_d_conv"),
        "ssm.inner_size": _inner_size(config),
        "ssm.state_size": config.integer("mamba_d_state"),
        "ssm.time_step_rank": config.integer("mamba_n_heads"),
        "ssm.group_count": config.integer("mamba_n_groups"),
    }


def _scaled(factor: Callable[[Config], float]) -> Edit:
    return lambda rows, config: apply(rows, _times(factor(config)))


def _times(factor: float) -> Callable[[Floats], Floats]:
    return lambda floats: floats * np.float32(factor)


def _multiplier(*names: str) -> Edit:
    return _scaled(lambda config: float(np.prod([config.number(name, 1.0) for name in names])))


def _mlp_multiplier(number: int) -> Edit:
    return _scaled(lambda config: _list(config, "mlp_multipliers", 2)[number])


def _list(config: Config, name: str, length: int) -> list[float]:
    return config.numbers(name) if config.has(name) else [1.0] * length


def _ssm_in(rows: Rows, config: Config) -> Rows:
    """Scale the parts that the layer's input is projected to: gate, x, B, C and time steps."""
    inner = _inner_size(config)
    state = config.integer("mamba_n_groups") * config.integer("mamba_d_state")
    widths = (inner, inner, state, state, config.integer("mamba_n_heads"))
    scales = np.repeat(_list(config, "ssm_multipliers", 5), widths)
    return scale_rows(rows, (scales * config.number("ssm_in_multiplier", 1.0)).astype(np.float32))


def _embeddings(rows: Rows, config: Config) -> Mapping[str, Rows]:
    """Scale embeddings, which differ from the output's weights even where they are tied."""
    result = {"token_embd.weight": apply(rows, _times(config.number("embedding_multiplier", 1.0)))}
    if config.flag("tie_word_embeddings", default=False):
        result["output.weight"] = apply(rows, _times(config.number("lm_head_multiplier", 1.0)))
    return result


ARCHITECTURES = (
    Architecture(
        "falcon",
        "Falcon",
        ("FalconForCausalLM",),
        prefixes=("transformer.",),
        layers="h",
        names={"word_embeddings": "token_embd", "ln_f": "output_norm"},
        block={
            "ln_attn": "attn_norm_2",
            "ln_mlp": "attn_norm",
            "self_attention.query_key_value": "attn_qkv",
            "self_attention.dense": "attn_output",
            "mlp.dense_h_to_4h": "ffn_up",
            "mlp.dense_4h_to_h": "ffn_down",
        },
        edits={"attn_qkv": _queries_first},
        metadata=_falcon,
        guards=(
            is_off("alibi", "llama.cpp applies rope"),
            is_on(
                "parallel_attn",
                "llama.cpp computes attention and feed-forward side by side",
                default=True,
            ),
            without_bias("bias"),
            Guard(
                "activation",
                lambda config: config.get("activation", "gelu") in GELU,
                "llama.cpp computes GELU",
            ),
        ),
        defaults={
            "layer_norm_epsilon": 1e-5,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": True,
        },
    ),
    Architecture(
        "falcon-h1",
        "Falcon H1",
        ("FalconH1ForCausalLM",),
        names={"final_layernorm": "output_norm"},
        block={
            "pre_ff_layernorm": "ffn_norm",
            "feed_forward.gate_proj": "ffn_gate",
            "feed_forward.up_proj": "ffn_up",
            "feed_forward.down_proj": "ffn_down",
            **mamba_block("mamba"),
        },
        edits={
            **mamba2_edits(lambda config: config.integer("mamba_n_groups")),
            "token_embd": _embeddings,
            "output": _multiplier("lm_head_multiplier"),
            "attn_q": _multiplier("attention_in_multiplier"),
            "attn_k": _multiplier("attention_in_multiplier", "key_multiplier"),
            "attn_v": _multiplier("attention_in_multiplier"),
            "attn_output": _multiplier("attention_out_multiplier"),
            "ssm_in": _ssm_in,
            "ssm_out": _multiplier("ssm_out_multiplier"),
            "ffn_norm": lambda rows, _: {"ffn_norm": rows},  # llama.cpp expects no `.weight` here
            "ffn_gate": _mlp_multiplier(0),
            "ffn_down": _mlp_multiplier(1),
        },
        metadata=_falcon_h1,
        guards=(
            *(
                without_bias(field)
                for field in ("attention_bias", "mamba_proj_bias", "projectors_bias")
            ),
            with_bias("mamba_conv_bias"),
            Guard(
                "mamba_norm_before_gate",
                lambda config: (
                    not config.flag("mamba_rms_norm", default=False)
                    or not config.flag("mamba_norm_before_gate", default=True)
                ),
                "llama.cpp normalizes after the gate",
            ),
            UNLIMITED_TIME_STEP,
        ),
        defaults={
            "rms_norm_eps": 1e-5,
            "num_key_value_heads": 8,
            "mamba_d_conv": 4,
            "mamba_d_state": 256,
            "mamba_n_heads": 128,
            "mamba_n_groups": 1,
        },
    ),
)
