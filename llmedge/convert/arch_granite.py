"""IBM's Granite: dense, with experts, and with Mamba layers between attention layers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llmedge.convert.architecture import Architecture
from llmedge.convert.edits import PERMUTE_QK, split_gate_up
from llmedge.convert.edits_mamba import UNLIMITED_TIME_STEP, mamba2_edits, mamba_block
from llmedge.convert.guards import equals, layer_types, with_bias, without_bias
from llmedge.convert.hyperparameters import rope_dimensions
from llmedge.convert.rows import cut

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmedge.convert.config import Config
    from llmedge.convert.rows import Rows
    from llmedge.gguf.writer import Value

_EXPERTS = {
    "block_sparse_moe.router.layer": "ffn_gate_inp",
    "block_sparse_moe.input_linear": "ffn_gate_up_exps",
    "block_sparse_moe.output_linear": "ffn_down_exps",
    "shared_mlp.input_linear": "shared_in",
    "shared_mlp.output_linear": "shared_out",
}


def _n_experts(config: Config) -> int:
    return config.integer("num_experts", 0)


def _n_ff_shared(config: Config) -> int:
    return config.integer("shared_intermediate_size", 0)


def _shared_in(rows: Rows, config: Config) -> Mapping[str, Rows]:
    """Split what is a shared expert beside others, and the whole feed-forward without them."""
    half, ending = rows.n_rows // 2, "_shexp" if _n_experts(config) else ""
    return {
        f"ffn_gate{ending}.weight": cut(rows, 0, half),
        f"ffn_up{ending}.weight": cut(rows, half, rows.n_rows),
    }


def _shared_out(rows: Rows, config: Config) -> Mapping[str, Rows]:
    return {f"ffn_down{'_shexp' if _n_experts(config) else ''}.weight": rows}


_EDITS = {
    **PERMUTE_QK,
    "ffn_gate_up_exps": split_gate_up,
    "shared_in": _shared_in,
    "shared_out": _shared_out,
}


def _multipliers(config: Config) -> dict[str, Value | None]:
    return rope_dimensions(config) | {
        "attention.scale": config.number("attention_multiplier", 1.0),
        "embedding_scale": config.number("embedding_multiplier", 1.0),
        "residual_scale": config.number("residual_multiplier", 1.0),
        "logit_scale": config.number("logits_scaling", 1.0),
    }


def _experts(config: Config) -> dict[str, Value | None]:
    values = _multipliers(config)
    if _n_experts(config):
        return values | {"expert_shared_feed_forward_length": _n_ff_shared(config) or None}
    shared = _n_ff_shared(config)
    return values | {"feed_forward_length": shared, "expert_count": None, "expert_used_count": None}


def _is_mamba(config: Config) -> list[bool]:
    return [kind in ("mamba", "linear_attention") for kind in layer_types(config, ("mamba",))]


def _only_attention(config: Config) -> dict[str, Value | None]:
    # llama.cpp asks this key whether there is rope at all.
    has_rope = config.get("position_embedding_type") == "rope"
    return _experts(config) | {"rope.scaling.finetuned": has_rope}


def _hybrid(config: Config) -> dict[str, Value | None]:
    n_inner, n_kv = (
        config.integer("mamba_expand") * config.integer("hidden_size"),
        config.n_kv_heads,
    )
    return _only_attention(config) | {
        # no kv heads: a Mamba layer
        "attention.head_count_kv": [0 if is_mamba else n_kv for is_mamba in _is_mamba(config)],
        "ssm.conv_kernel": config.integer("mamba_d_conv"),
        "ssm.inner_size": n_inner,
        "ssm.state_size": config.integer("mamba_d_state"),
        "ssm.time_step_rank": config.integer("mamba_n_heads"),
        "ssm.group_count": config.integer("mamba_n_groups"),
    }


_DEFAULTS = {"rms_norm_eps": 1e-6}
_MOE_DEFAULTS = {"num_experts": 8, "num_experts_per_tok": 2, **_DEFAULTS}

_HYBRID = Architecture(
    "granitehybrid",
    "Granite 4",
    ("GraniteMoeHybridForCausalLM",),
    block=_EXPERTS | mamba_block("mamba"),
    edits={**_EDITS, **mamba2_edits(lambda config: config.integer("mamba_n_groups"))},
    metadata=_hybrid,
    guards=(
        without_bias("mamba_proj_bias"),
        with_bias("mamba_conv_bias"),
        equals("mamba_expand", 2, "llama.cpp accepts no other width"),
        UNLIMITED_TIME_STEP,
    ),
    defaults={
        **_MOE_DEFAULTS,
        "shared_intermediate_size": 1024,
        "mamba_expand": 2,
        "mamba_d_conv": 4,
        "mamba_d_state": 256,
        "mamba_n_heads": 128,
        "mamba_n_groups": 1,
    },
    variant=lambda config: None if any(_is_mamba(config)) else _ATTENTION_HYBRID,
)
# Granite 4's smallest models have no Mamba layer, and llama.cpp's granitehybrid needs one.
_ATTENTION_HYBRID = replace(_HYBRID, name="granite", metadata=_only_attention, guards=())

ARCHITECTURES = (
    Architecture(
        "granite",
        "Granite",
        ("GraniteForCausalLM",),
        edits=PERMUTE_QK,
        metadata=_multipliers,
        defaults=_DEFAULTS,
    ),
    Architecture(
        "granitemoe",
        "Granite MoE",
        ("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"),
        block=_EXPERTS,
        edits=_EDITS,
        metadata=_experts,
        defaults=_MOE_DEFAULTS,
    ),
    _HYBRID,
)
