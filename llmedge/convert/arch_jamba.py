"""AI21's Jamba: Mamba layers, some attention without rope, and experts in some layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.convert.architecture import Architecture
from llmedge.convert.edits_mamba import MAMBA1_EDITS, mamba_block
from llmedge.convert.guards import equals, with_bias, without_bias

if TYPE_CHECKING:
    from llmedge.convert.config import Config
    from llmedge.gguf.writer import Value


def _metadata(config: Config) -> dict[str, Value | None]:
    period, offset = config.integer("attn_layer_period"), config.integer("attn_layer_offset")
    hidden, n_kv = config.integer("hidden_size"), config.n_kv_heads
    rank = config.get("mamba_dt_rank", "auto")
    has_experts = config.integer("num_experts") > 1
    values: dict[str, Value | None] = {
        # no kv heads: a Mamba layer
        "attention.head_count_kv": [
            n_kv if layer % period == offset else 0 for layer in range(config.n_layers)
        ],
        "ssm.conv_kernel": config.integer("mamba_d_conv"),
        "ssm.inner_size": config.integer("mamba_expand") * hidden,
        "ssm.state_size": config.integer("mamba_d_state"),
        "ssm.time_step_rank": -(-hidden // 16)
        if rank == "auto"
        else config.integer("mamba_dt_rank"),
    }
    return values if has_experts else values | {"expert_count": None, "expert_used_count": None}


ARCHITECTURES = (
    Architecture(
        "jamba",
        "Jamba",
        ("JambaForCausalLM",),
        names={"final_layernorm": "output_norm"},
        block={
            "pre_ff_layernorm": "ffn_norm",
            "feed_forward.gate_proj": "ffn_gate",
            "feed_forward.up_proj": "ffn_up",
            "feed_forward.down_proj": "ffn_down",
            "feed_forward.router": "ffn_gate_inp",
            "feed_forward.experts.*.gate_proj": "ffn_gate_exps",
            "feed_forward.experts.*.up_proj": "ffn_up_exps",
            "feed_forward.experts.*.down_proj": "ffn_down_exps",
            "mamba.dt_layernorm": "ssm_dt_norm",
            "mamba.b_layernorm": "ssm_b_norm",
            "mamba.c_layernorm": "ssm_c_norm",
            **mamba_block("mamba"),
        },
        edits=MAMBA1_EDITS,
        metadata=_metadata,
        guards=(
            without_bias("mamba_proj_bias"),
            with_bias("mamba_conv_bias"),
            equals("mamba_expand", 2, "llama.cpp accepts no other width"),
        ),
        defaults={
            "rms_norm_eps": 1e-6,
            "num_key_value_heads": 8,
            "num_experts": 16,
            "num_experts_per_tok": 2,
            "attn_layer_period": 8,
            "attn_layer_offset": 4,
            "mamba_d_state": 16,
            "mamba_d_conv": 4,
            "mamba_expand": 2,
        },
    ),
)
