"""StarCoder and StarCoder 2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.convert.arch_gpt import BY_HEADS, GPT2_BLOCK, GPT2_NAMES, SCALED_SCORES
from llmedge.convert.architecture import GELU, Architecture
from llmedge.convert.guards import with_bias
from llmedge.convert.hyperparameters import (
    four_times_wider,
    layer_norm,
    rope_dimensions,
    within_window,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmedge.convert.config import Config
    from llmedge.convert.rows import Rows
    from llmedge.gguf.writer import Value


def _is_multi_query(config: Config) -> bool:
    return config.flag("multi_query", default=True)


def _by_heads(rows: Rows, config: Config) -> Rows | Mapping[str, Rows]:
    return rows if _is_multi_query(config) else BY_HEADS(rows, config)


def _starcoder(config: Config) -> dict[str, Value | None]:
    return {
        **layer_norm(config),
        **four_times_wider(config),
        "attention.head_count_kv": 1 if _is_multi_query(config) else config.n_heads,
    }


def _starcoder2(config: Config) -> dict[str, Value | None]:
    return layer_norm(config) | rope_dimensions(config) | within_window(config)


ARCHITECTURES = (
    Architecture(
        "starcoder",
        "StarCoder",
        ("GPTBigCodeForCausalLM",),
        prefixes=("transformer.",),
        layers="h",
        names=GPT2_NAMES,
        block=GPT2_BLOCK,
        edits={"attn_qkv": _by_heads},
        metadata=_starcoder,
        guards=(SCALED_SCORES,),
        activations=GELU,
        defaults={"layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
    ),
    Architecture(
        "starcoder2",
        "StarCoder 2",
        ("Starcoder2ForCausalLM",),
        block={"mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"},
        metadata=_starcoder2,
        guards=(with_bias("use_bias"),),
        activations=GELU,
        defaults={"norm_epsilon": 1e-5, "num_key_value_heads": 2, "tie_word_embeddings": True},
    ),
)
