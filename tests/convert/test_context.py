from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmedge.runtime.model import Model
from tests.convert.parity import Case, convert, make_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

MINISTRAL = ("ministral", "MinistralForCausalLM")


@pytest.mark.parametrize(
    ("case", "n_ctx"),
    [
        (Case("window", *MINISTRAL, {"head_dim": 16, "sliding_window": 64}), 64),
        (Case("long-window", *MINISTRAL, {"head_dim": 16, "sliding_window": 4096}), 256),
        (
            Case(
                "unused-window",
                *MINISTRAL,
                {"head_dim": 16, "sliding_window": 64, "layer_types": ["full_attention"] * 3},
            ),
            256,
        ),
        (Case("mistral", "mistral", "MistralForCausalLM", {"sliding_window": 64}), 64),
        (Case("mistral-none", "mistral", "MistralForCausalLM", {"sliding_window": None}), 256),
        (Case("mixtral", "mixtral", "MixtralForCausalLM", {"sliding_window": 128}), 128),
        (Case("code", "starcoder2", "Starcoder2ForCausalLM", {"sliding_window": 64}), 64),
        (
            Case(
                "positions",
                "roberta",
                "RobertaModel",
                {"pad_token_id": 1, "num_key_value_heads": None},
            ),
            254,
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Case) else str(value),
)
def test_a_context_is_as_long_as_llama_cpp_computes_as_the_original(
    case: Case, n_ctx: int, tmp_path: Path
):
    make_checkpoint(case, tmp_path / "checkpoint")
    with Model.load(convert(tmp_path / "checkpoint", tmp_path / "model.gguf")) as model:
        assert model.n_ctx_train == n_ctx
