"""Mamba, Mamba 2 and Falcon Mamba: no attention at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.convert.architecture import Architecture, Guard
from llmedge.convert.edits_mamba import MAMBA1_EDITS, UNLIMITED_TIME_STEP, mamba2_edits, mamba_block
from llmedge.convert.guards import equals, with_bias, without_bias

if TYPE_CHECKING:
    from llmedge.convert.config import Config
    from llmedge.gguf.writer import Value

_PREFIXES = ("backbone.", "model.backbone.", "model.")
_NAMES = {"embeddings": "token_embd", "norm_f": "output_norm"}
_BLOCK = {"norm": "attn_norm", **mamba_block("mixer")}
_UNBOUNDED = 1 << 20  # no position is too far; this is what llama.cpp's own models say
_CONV_BIAS = with_bias("use_conv_bias")


def _inner_size(config: Config) -> int:
    return config.integer("expand") * config.integer("hidden_size")


def _common(config: Config) -> dict[str, Value | None]:
    return {
        "context_length": _UNBOUNDED,
        "feed_forward_length": 0,
        "attention.head_count": 0,
        "attention.head_count_kv": None,
        "attention.key_length": None,
        "attention.value_length": None,
        "ssm.conv_kernel": config.integer("conv_kernel"),
        "ssm.inner_size": _inner_size(config),
        "ssm.state_size": config.integer("state_size"),
    }


def _mamba(config: Config) -> dict[str, Value | None]:
    rank = config.get("time_step_rank", "auto")
    if rank == "auto":
        rank = -(-config.integer("hidden_size") // 16)
    else:
        rank = config.integer("time_step_rank")
    return _common(config) | {"ssm.time_step_rank": rank}


def _falcon_mamba(config: Config) -> dict[str, Value | None]:
    return _mamba(config) | {"ssm.dt_b_c_rms": True}


def _mamba2(config: Config) -> dict[str, Value | None]:
    return _common(config) | {
        "ssm.time_step_rank": config.integer("num_heads"),
        "ssm.group_count": config.integer("n_groups"),
    }


_DEFAULTS = {
    "layer_norm_epsilon": 1e-5,
    "expand": 2,
    "conv_kernel": 4,
    "state_size": 16,
    "tie_word_embeddings": True,
}
_GUARDS = (
    _CONV_BIAS,
    without_bias("use_bias"),
    equals("expand", 2, "llama.cpp accepts no other width"),
)
_SMALL_EPSILON = Guard(
    "mixer_rms_eps",
    lambda config: abs(config.number("mixer_rms_eps") - config.number("rms_norm_eps")) < 1e-5,
    "llama.cpp takes the layers' epsilon for the mixer's norms",
)

ARCHITECTURES = (
    Architecture(
        "mamba",
        "Mamba",
        ("MambaForCausalLM",),
        prefixes=_PREFIXES,
        names=_NAMES,
        block=_BLOCK,
        edits=MAMBA1_EDITS,
        metadata=_mamba,
        guards=_GUARDS,
        defaults=_DEFAULTS,
    ),
    Architecture(
        "mamba",
        "Falcon Mamba",
        ("FalconMambaForCausalLM",),
        prefixes=_PREFIXES,
        names=_NAMES,
        block=_BLOCK,
        edits=MAMBA1_EDITS,
        metadata=_falcon_mamba,
        guards=(*_GUARDS, _SMALL_EPSILON),
        defaults=_DEFAULTS | {"mixer_rms_eps": 1e-6},
    ),
    Architecture(
        "mamba2",
        "Mamba 2",
        ("Mamba2ForCausalLM",),
        prefixes=_PREFIXES,
        names=_NAMES,
        block=_BLOCK,
        edits=mamba2_edits(lambda config: config.integer("n_groups")),
        metadata=_mamba2,
        guards=(_CONV_BIAS, without_bias("use_bias"), UNLIMITED_TIME_STEP),
        defaults={
            **_DEFAULTS,
            "state_size": 128,
            "num_heads": 128,
            "n_groups": 8,
            "tie_word_embeddings": False,
        },
    ),
)
