"""GPT-OSS, its experts in MXFP4 as published or in floats as transformers saves them.

llama.cpp rounds the bounds between which yarn goes over from one frequency to the other, and has no
setting against it; the models do not (`truncate` is false), so that logits drift with distance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.convert.architecture import UNTRUNCATED, Architecture, Guard, with_rope
from llmedge.convert.edits import columns
from llmedge.convert.guards import UNTIED, equals, has_window
from llmedge.convert.hyperparameters import sliding_layers
from llmedge.convert.rows import transpose

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmedge.convert.config import Config
    from llmedge.convert.rows import Rows
    from llmedge.gguf.writer import Value


def _experts(rows: Rows, _: Config) -> Mapping[str, Rows]:
    """Part `(n_experts, n_in, n_ff × 2)`, where gate and up alternate, and transpose."""
    return {
        f"ffn_{name}_exps.weight": transpose(columns(rows, slice(first, None, 2)))
        for first, name in enumerate(("gate", "up"))
    }


def _biases(rows: Rows, _: Config) -> Mapping[str, Rows]:
    return {
        f"ffn_{name}_exps.bias": columns(rows, slice(first, None, 2))
        for first, name in enumerate(("gate", "up"))
    }


def _metadata(config: Config) -> dict[str, Value | None]:
    return {
        "attention.sliding_window": config.integer("sliding_window"),
        "attention.sliding_window_pattern": sliding_layers(config, 2),
        "expert_feed_forward_length": config.integer("intermediate_size"),
    }


# What the class does where its configuration has no `rope_parameters`.
_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 150000.0,
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
_GPT_OSS = Architecture(
    "gpt-oss",
    "GPT-OSS",
    ("GptOssForCausalLM",),
    block={
        "post_attention_layernorm": "post_attention_norm",
        "self_attn.sinks": "attn_sinks.weight",
        "mlp.router": "ffn_gate_inp",
        "mlp.experts.gate_up_proj": "ffn_gate_up_exps.weight",
        "mlp.experts.gate_up_proj_bias": "ffn_gate_up_exps.bias",
        "mlp.experts.down_proj": "transposed",
        "mlp.experts.gate": "ffn_gate_exps.weight",
        "mlp.experts.up": "ffn_up_exps.weight",
        "mlp.experts.down": "ffn_down_exps.weight",
        "mlp.experts.down_proj_bias": "ffn_down_exps.bias",
    },
    edits={
        "ffn_gate_up_exps.weight": _experts,
        "ffn_gate_up_exps.bias": _biases,
        "transposed": lambda rows, _: {"ffn_down_exps.weight": transpose(rows)},
    },
    metadata=_metadata,
    guards=(
        UNTIED,
        has_window(lambda config: sliding_layers(config, 2)),
        Guard(
            "attention_bias",
            lambda config: config.flag("attention_bias"),
            "llama.cpp wants a bias after attention here",
        ),
        equals("swiglu_alpha", 1.702, "llama.cpp takes 1.702"),
        equals("swiglu_limit", 7.0, "llama.cpp takes 7"),
    ),
    # As published its bounds are not rounded: at 600 tokens of random weights a KL divergence of
    # 0.0023, 96.5 % of the predictions equal. Every converted GPT-OSS has that.
    rope_kinds=frozenset({"default", "yarn", f"yarn{UNTRUNCATED}"}),
    defaults={
        "num_key_value_heads": 8,
        "num_local_experts": 128,
        "num_experts_per_tok": 4,
        "rms_norm_eps": 1e-5,
        "head_dim": 64,
        "sliding_window": 128,
        "attention_bias": True,
        "swiglu_alpha": 1.702,
        "swiglu_limit": 7.0,
        "rope_theta": 150000.0,
    },
)

ARCHITECTURES = (with_rope(_GPT_OSS, _ROPE),)
