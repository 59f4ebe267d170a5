from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmedge.convert.config import Config
from llmedge.convert.registry import (
    ARCHITECTURES,
    BY_CLASS,
    check_guards,
    find_architecture,
    list_classes,
)
from llmedge.core.errors import UnsupportedError
from tests.convert.parity import Case, GuardCase, difference

if TYPE_CHECKING:
    from pathlib import Path

LLAMA = ("llama", "LlamaForCausalLM")


def test_no_class_is_registered_twice():
    names = [name for architecture in ARCHITECTURES for name in architecture.classes]
    assert len(names) == len(set(names)) == len(BY_CLASS)
    assert len(names) >= 40


def test_the_figures_shipped_are_of_exactly_the_registered_classes():
    rows = list_classes()
    assert {row.model_class for row in rows} == set(BY_CLASS)
    assert all(row.argmax == 1 and row.kl < 1e-5 for row in rows)


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        ({"architectures": ["ParamBharatGenForCausalLM"]}, "graph of its own"),
        ({"architectures": ["MyOwnModel"], "auto_map": {"AutoModel": "x.Y"}}, "modelling code"),
        ({"architectures": ["LlamaForCausalLm"]}, "LlamaForCausalLM is"),
        ({"architectures": ["BertForTokenClassification"]}, "classifies tokens"),
        ({"architectures": ["Unheard"]}, "entry in the table"),
    ],
)
def test_a_class_that_is_not_registered_is_told_what_would_be_needed(
    raw: dict[str, object], word: str
):
    with pytest.raises(UnsupportedError, match=word):
        find_architecture(Config(raw))


# What every class has: the activation and the kind of rope.
EVERYWHERE = (
    GuardCase("hidden_act", Case("relu", *LLAMA, {"hidden_act": "relu"})),
    GuardCase("hidden_act", Case("tanh", *LLAMA, {"hidden_act": "gelu_pytorch_tanh"})),
    GuardCase(
        "rope_type",
        Case(
            "dynamic",
            *LLAMA,
            {
                "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
                "max_position_embeddings": 16,
            },
        ),
    ),
    GuardCase(
        "rope_type",
        Case(
            "untruncated",
            *LLAMA,
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "rope_theta": 10000.0,
                    "factor": 8.0,
                    "original_max_position_embeddings": 64,
                    "truncate": False,
                }
            },
        ),
    ),
)


def test_tokens_that_see_later_ones_are_refused(tmp_path: Path):
    raw = {"architectures": ["LlamaForCausalLM"], "is_causal": False}
    with pytest.raises(UnsupportedError, match="is_causal"):
        check_guards(BY_CLASS["LlamaForCausalLM"], Config(raw))


@pytest.mark.parametrize("guarded", EVERYWHERE, ids=lambda guarded: guarded.case.name)
def test_a_guard_of_all_classes_prevents_wrong_logits(guarded: GuardCase, tmp_path: Path):
    with pytest.raises(UnsupportedError, match=guarded.field):
        difference(guarded.case, tmp_path / "guarded")
    unguarded = difference(guarded.case, tmp_path / "unguarded", guarded=False)
    assert unguarded.argmax < 1 or unguarded.kl > 1e-4, unguarded


def test_silence_about_the_activation_passes():
    check_guards(BY_CLASS["LlamaForCausalLM"], Config({"architectures": ["LlamaForCausalLM"]}))
