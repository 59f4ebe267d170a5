from __future__ import annotations

import numpy as np
import pytest

from llmedge.convert.architecture import BLOCK, Architecture, Place
from llmedge.convert.config import Config
from llmedge.convert.edits import split_gate_up
from llmedge.convert.mapping import MappedTensors, map_tensors
from llmedge.convert.registry import BY_CLASS
from llmedge.convert.rows import Rows, constant
from llmedge.core.errors import IntegrityError, UnsupportedError

CONFIG = Config({"architectures": ["X"], "tie_word_embeddings": False, "num_hidden_layers": 20})
ARCHITECTURE = Architecture(
    "x",
    "Examples",
    ("X",),
    block={
        "mlp.experts.*.up_proj": "ffn_up_exps",
        "mlp.experts.gate_up_proj": "ffn_gate_up_exps.weight",
        "mlp.up_proj": None,
        "sinks": "attn_sinks.weight",
    },
    edits={"ffn_gate_up_exps.weight": split_gate_up},
    extra=lambda _: {"rope_freqs.weight": constant([1.0])},
    ignored=("*vision*",),
)


def rows(*shape: int) -> Rows:
    return constant(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("model.embed_tokens.weight", Place(None, "token_embd", ".weight")),
        ("language_model.model.norm.weight", Place(None, "output_norm", ".weight")),
        ("lm_head.weight", Place(None, "output", ".weight")),
        ("model.layers.12.self_attn.q_proj.bias", Place(12, "attn_q", ".bias")),
        ("layers.0.sinks", Place(0, "attn_sinks.weight", "")),
        ("model.layers.3.mlp.experts.7.up_proj.weight", Place(3, "ffn_up_exps", ".weight", 7)),
        ("model.layers.3.mlp.up_proj.weight", None),
        ("model.layers.3.mlp.other.weight", None),
        ("model.layers.x.mlp.gate_proj.weight", None),
    ],
)
def test_a_name_has_one_place_or_none(name: str, place: Place | None):
    assert ARCHITECTURE.place(name) == place


def test_every_name_of_a_block_is_found():
    for inner, target in BLOCK.items():
        if inner == "mlp.up_proj":
            continue
        place = ARCHITECTURE.place(f"model.layers.1.{inner}.weight")
        assert place is not None
        assert place.name == f"blk.1.{target}.weight"


def test_experts_are_stacked_in_their_order():
    tensors = {
        f"model.layers.0.mlp.experts.{n}.up_proj.weight": constant(np.full((2, 3), n, np.float32))
        for n in (10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9)
    }
    stacked = map_tensors(ARCHITECTURE, CONFIG, tensors).rows["blk.0.ffn_up_exps.weight"]
    assert stacked.shape == (11, 2, 3)
    assert stacked.read(0, 22)[:, 0].tolist() == [n for n in range(11) for _ in range(2)]


def test_a_missing_expert_is_an_error():
    tensors = {f"model.layers.0.mlp.experts.{n}.up_proj.weight": rows(2, 3) for n in (0, 2)}
    with pytest.raises(IntegrityError, match="experts 0 to 2"):
        map_tensors(ARCHITECTURE, CONFIG, tensors)


def test_an_edit_may_make_several_tensors():
    fused = {"model.layers.4.mlp.experts.gate_up_proj": rows(3, 8, 5)}
    mapped = map_tensors(ARCHITECTURE, CONFIG, fused).rows
    assert {name: part.shape for name, part in mapped.items() if name.startswith("blk")} == {
        "blk.4.ffn_gate_exps.weight": (3, 4, 5),
        "blk.4.ffn_up_exps.weight": (3, 4, 5),
    }


def test_the_file_begins_with_embeddings_and_ends_with_the_output():
    tensors = {
        "lm_head.weight": rows(4, 3),
        "model.layers.10.self_attn.q_proj.weight": rows(3, 3),
        "model.layers.2.self_attn.q_proj.weight": rows(3, 3),
        "model.embed_tokens.weight": rows(4, 3),
        "model.norm.weight": rows(3),
    }
    assert list(map_tensors(ARCHITECTURE, CONFIG, tensors).rows) == [
        "rope_freqs.weight",
        "token_embd.weight",
        "blk.2.attn_q.weight",
        "blk.10.attn_q.weight",
        "output.weight",
        "output_norm.weight",
    ]


TIED = Config({"tie_word_embeddings": True, "num_hidden_layers": 20})


def test_a_tied_output_that_repeats_the_embedding_is_left_out():
    tensors = {"lm_head.weight": rows(4, 3), "model.embed_tokens.weight": rows(4, 3)}
    mapped = map_tensors(ARCHITECTURE, TIED, tensors)
    assert "output.weight" not in mapped.rows
    assert mapped.ignored == ("lm_head.weight",)


@pytest.mark.parametrize("differs_at", [0, 2, 999])
def test_a_tied_output_that_differs_is_kept_as_transformers_keeps_it(differs_at: int):
    other = np.zeros((1000, 3), np.float32)
    other[differs_at, 1] = 1
    tensors = {"lm_head.weight": constant(other), "model.embed_tokens.weight": rows(1000, 3)}
    assert "output.weight" in map_tensors(ARCHITECTURE, TIED, tensors).rows


def test_what_is_left_out_is_told():
    name = "vision_tower.layers.0.weight"
    assert map_tensors(ARCHITECTURE, CONFIG, {name: rows(3)}).ignored == (name,)


def test_a_tensor_without_a_place_is_an_error():
    with pytest.raises(UnsupportedError, match=r"model\.layers\.0\.odd\.weight \(2 such\)"):
        map_tensors(
            ARCHITECTURE,
            CONFIG,
            {"model.layers.0.odd.weight": rows(3), "model.layers.1.odd.weight": rows(3)},
        )


def test_two_tensors_for_one_place_are_an_error():
    with pytest.raises(IntegrityError, match=r"output_norm\.weight"):
        map_tensors(ARCHITECTURE, CONFIG, {"model.norm.weight": rows(3), "norm.weight": rows(3)})


ROWS = constant([1.0])
AFTER: tuple[str, ...] = (
    "model.layers.1.input_layernorm.weight",
    "model.layers.1.eh_proj.weight",
    "model.layers.2.eh_proj.weight",
)


def after_one_layer(class_name: str, **settings: object) -> MappedTensors:
    config = Config({"architectures": [class_name], "num_hidden_layers": 1, **settings})
    tensors = dict.fromkeys(("model.layers.0.input_layernorm.weight", *AFTER), ROWS)
    return map_tensors(BY_CLASS[class_name], config, tensors)


def test_blocks_that_draft_tokens_are_left_out_knowingly():
    mapped = after_one_layer("Glm4MoeForCausalLM", num_nextn_predict_layers=2)
    assert set(mapped.rows) == {"blk.0.attn_norm.weight"}
    assert mapped.ignored == AFTER


@pytest.mark.parametrize(
    ("class_name", "settings", "named"),
    [
        ("Glm4MoeForCausalLM", {"num_nextn_predict_layers": 1}, r"layers\.2\.eh_proj.+\(1 such"),
        ("Glm4MoeForCausalLM", {}, r"layers\.1\.input_layernorm.+\(3 such"),
        ("LlamaForCausalLM", {"num_nextn_predict_layers": 2}, r"layers\.1\.input_layernorm.+\(3"),
    ],
)
def test_any_other_block_after_the_last_one_is_an_error(
    class_name: str, settings: dict[str, object], named: str
):
    with pytest.raises(UnsupportedError, match=named):
        after_one_layer(class_name, **settings)


def test_tensors_of_one_number_become_a_list_in_the_order_of_their_blocks():
    config = Config({"architectures": ["ApertusForCausalLM"], "num_hidden_layers": 11})
    tensors = {
        f"model.layers.{layer}.mlp.act_fn.alpha_p": constant([float(layer)])
        for layer in (10, *range(10))
    }
    mapped = map_tensors(BY_CLASS["ApertusForCausalLM"], config, tensors)
    assert mapped.numbers == {"xielu.alpha_p": [float(layer) for layer in range(11)]}
    assert not mapped.rows
