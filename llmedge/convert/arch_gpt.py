"""GPT-2, GPT-NeoX (Pythia) and BLOOM: a mean-subtracting norm, GELU, and biases everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.convert.architecture import GELU, Architecture
from llmedge.convert.edits import regroup, swap_axes
from llmedge.convert.guards import is_off, is_on, with_bias
from llmedge.convert.hyperparameters import four_times_wider, layer_norm, rope_dimensions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmedge.convert.config import Config
    from llmedge.convert.rows import Rows
    from llmedge.gguf.writer import Value

SCALED_SCORES = is_on(
    "scale_attn_weights", "llama.cpp divides by the root of a head's width", default=True
)
GPT2_NAMES = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"}
GPT2_BLOCK = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
BY_HEADS = regroup(lambda config: config.n_heads, 3)


def _gpt2(config: Config) -> dict[str, Value | None]:
    return layer_norm(config) | four_times_wider(config)


def _gpt_neox(config: Config) -> dict[str, Value | None]:
    return {
        **layer_norm(config),
        **rope_dimensions(config),
        "use_parallel_residual": config.flag("use_parallel_residual", default=True),
    }


def _embeddings(rows: Rows, config: Config) -> Mapping[str, Rows]:
    """Write tied embeddings twice: llama.cpp's GPT-NeoX does not tie them."""
    is_tied = config.flag("tie_word_embeddings", default=False)
    return {"token_embd.weight": rows} | ({"output.weight": rows} if is_tied else {})


ARCHITECTURES = (
    Architecture(
        "gpt2",
        "GPT-2",
        ("GPT2LMHeadModel",),
        prefixes=("transformer.",),
        layers="h",
        names=GPT2_NAMES,
        block=GPT2_BLOCK,
        # its layers are convolutions of width one, with axes the other way round
        edits=dict.fromkeys(("attn_qkv", "attn_output", "ffn_up", "ffn_down"), swap_axes),
        metadata=_gpt2,
        guards=(
            SCALED_SCORES,
            is_off("scale_attn_by_inverse_layer_idx", "llama.cpp scales all layers alike"),
        ),
        activations=GELU,
        defaults={"layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
    ),
    Architecture(
        "gptneox",
        "GPT-NeoX, Pythia",
        ("GPTNeoXForCausalLM",),
        prefixes=("gpt_neox.",),
        names={
            "embed_in": "token_embd",
            "final_layer_norm": "output_norm",
            "embed_out": "output",
        },
        block={
            "attention.query_key_value": "attn_qkv",
            "attention.dense": "attn_output",
            "mlp.dense_h_to_4h": "ffn_up",
            "mlp.dense_4h_to_h": "ffn_down",
        },
        edits={"attn_qkv": BY_HEADS, "token_embd": _embeddings},
        metadata=_gpt_neox,
        guards=(with_bias("attention_bias"),),
        activations=GELU,
        defaults={"layer_norm_eps": 1e-5, "rotary_pct": 0.25},
    ),
    Architecture(
        "bloom",
        "BLOOM",
        ("BloomForCausalLM",),
        prefixes=("transformer.",),
        layers="h",
        names={
            "word_embeddings": "token_embd",
            "word_embeddings_layernorm": "token_embd_norm",
            "ln_f": "output_norm",
        },
        block={
            "self_attention.query_key_value": "attn_qkv",
            "self_attention.dense": "attn_output",
            "mlp.dense_h_to_4h": "ffn_up",
            "mlp.dense_4h_to_h": "ffn_down",
        },
        edits={"attn_qkv": BY_HEADS},
        metadata=_gpt2,
        guards=(
            is_off(
                "apply_residual_connection_post_layernorm",
                "llama.cpp adds what was before the norm",
            ),
        ),
        defaults={
            "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": True,
            "max_position_embeddings": 2048,
        },
    ),
)
