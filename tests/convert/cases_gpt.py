"""GPT-2, GPT-NeoX and BLOOM."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tests.convert.parity import Case, GuardCase

if TYPE_CHECKING:
    from tests.convert.parity import Tensors

GELU = 1e-3
GPT2 = ("gpt2", "GPT2LMHeadModel")
NEOX = ("gpt_neox", "GPTNeoXForCausalLM")
BLOOM = ("bloom", "BloomForCausalLM")
PLAIN = {"num_key_value_heads": None, "intermediate_size": None}
WITH_WIDTH = {"num_key_value_heads": None}


def with_buffers(tensors: Tensors) -> Tensors:
    """Add the masks that old versions of transformers saved."""
    mask = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    return {
        **tensors,
        "transformer.h.0.attn.bias": mask,
        "transformer.h.0.attn.masked_bias": torch.tensor(-1e4),
        "gpt_neox.layers.0.attention.bias": mask.clone(),
        "gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.ones(2),
    }


CASES = (
    Case("gpt2", *GPT2, PLAIN, GELU),
    Case("gpt2-inner", *GPT2, PLAIN | {"n_inner": 96, "tie_word_embeddings": False}, GELU),
    # as gpt2 on the Hub has it
    Case(
        "gpt2-older",
        *GPT2,
        PLAIN,
        GELU,
        written={"n_ctx": 256, "n_inner": None, "tie_word_embeddings": None},
        renamed={"transformer.": ""},
        layout=with_buffers,
    ),
    Case("gptneox", *NEOX, WITH_WIDTH, GELU),
    Case(
        "gptneox-serial",
        *NEOX,
        WITH_WIDTH | {"use_parallel_residual": False, "hidden_act": "gelu_fast"},
        GELU,
    ),
    Case("gptneox-tied", *NEOX, WITH_WIDTH | {"tie_word_embeddings": True}, GELU),
    Case(
        "gptneox-older",
        *NEOX,
        WITH_WIDTH,
        GELU,
        written={"rope_parameters": None, "rotary_pct": 0.25, "rotary_emb_base": 10000},
        layout=with_buffers,
    ),
    Case(
        "gptneox-rotary",
        *NEOX,
        WITH_WIDTH | {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
        GELU,
    ),
    Case("bloom", *BLOOM, PLAIN, GELU),
    Case("bloom-six-heads", *BLOOM, PLAIN | {"hidden_size": 96, "num_attention_heads": 6}, GELU),
    Case(
        "bloom-older",
        *BLOOM,
        PLAIN,
        GELU,
        written={"hidden_size": None, "n_embed": 64, "seq_length": 2048},
        renamed={"transformer.": ""},
    ),
)

GUARDS = (
    GuardCase("scale_attn_weights", Case("unscaled", *GPT2, PLAIN | {"scale_attn_weights": False})),
    GuardCase(
        "scale_attn_by_inverse_layer_idx",
        Case("by-layer", *GPT2, PLAIN | {"scale_attn_by_inverse_layer_idx": True}),
    ),
    GuardCase("attention_bias", Case("no-bias", *NEOX, WITH_WIDTH | {"attention_bias": False})),
    GuardCase(
        "apply_residual_connection_post_layernorm",
        Case("after-norm", *BLOOM, PLAIN | {"apply_residual_connection_post_layernorm": True}),
    ),
)
