from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from llmedge.convert.config import Config, read_config
from llmedge.core.errors import IntegrityError, NotFoundError

if TYPE_CHECKING:
    from pathlib import Path


def test_old_spellings_are_the_new_ones():
    config = Config({"n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1024})
    assert (config.n_layers, config.n_heads, config.n_kv_heads) == (12, 12, 12)
    assert config.head_dim == 64
    assert config.integer("max_position_embeddings") == 1024


def test_the_text_model_of_a_multimodal_one_is_lifted():
    config = Config({"hidden_size": 1, "text_config": {"hidden_size": 64, "num_hidden_layers": 2}})
    assert config.integer("hidden_size") == 64
    assert config.is_nested


def test_null_is_silence_and_defaults_fill_it():
    config = Config({"head_dim": None, "hidden_size": 64, "num_attention_heads": 4})
    assert config.head_dim == 16
    assert config.with_defaults({"head_dim": 32}).head_dim == 32
    assert not config.has("head_dim")


@pytest.mark.parametrize(
    ("raw", "kind", "theta", "partial"),
    [
        ({}, "default", 10000.0, 1.0),
        ({"rope_theta": 5e5, "rope_scaling": None}, "default", 5e5, 1.0),
        ({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2}}, "linear", 5e5, 1.0),
        ({"rope_parameters": {"rope_theta": 1e6, "rope_type": "yarn"}}, "yarn", 1e6, 1.0),
        ({"rotary_pct": 0.25, "rotary_emb_base": 1e4}, "default", 1e4, 0.25),
        ({"partial_rotary_factor": 0.5}, "default", 1e4, 0.5),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e6, "rope_type": "linear"}}},
            "linear",
            1e6,
            1.0,
        ),
    ],
)
def test_rope_is_read_in_every_spelling(
    raw: dict[str, object], kind: str, theta: float, partial: float
):
    rope = Config(raw).rope
    assert (rope.kind, rope.theta, rope.partial) == (kind, theta, partial)


def test_sliding_layers_have_a_rope_of_their_own():
    new = {"rope_parameters": {"sliding_attention": {"rope_theta": 123.0}}}
    assert Config(new).local_rope.theta == 123.0
    assert Config({"rope_local_base_freq": 456.0, "rope_theta": 1e6}).local_rope.theta == 456.0


@pytest.mark.parametrize(
    ("raw", "read"),
    [
        ({}, lambda config: config.architecture),
        ({"architectures": "Llama"}, lambda config: config.architecture),
        ({"num_hidden_layers": "many"}, lambda config: config.n_layers),
        ({"num_hidden_layers": True}, lambda config: config.n_layers),
        ({"num_hidden_layers": -1}, lambda config: config.n_layers),
        ({"num_hidden_layers": 1e9}, lambda config: config.n_layers),
        ({"rms_norm_eps": []}, lambda config: config.number("rms_norm_eps")),
        ({"tie_word_embeddings": 1}, lambda config: config.flag("tie_word_embeddings")),
        ({"hidden_act": 3}, lambda config: config.text("hidden_act")),
        ({"layer_types": {}}, lambda config: config.items("layer_types")),
        ({"rope_theta": "big"}, lambda config: config.rope),
        ({"rope_scaling": {"factor": "big"}}, lambda config: config.rope.number("factor")),
        ({"rope_scaling": {"long_factor": [1, "x"]}}, lambda c: c.rope.numbers("long_factor")),
    ],
)
def test_a_value_that_cannot_be_meant_is_named(raw: dict[str, object], read: object):
    with pytest.raises(IntegrityError, match=r"config\.json"):
        read(Config(raw))  # type: ignore[operator]


def test_no_configuration_is_not_found(tmp_path: Path):
    with pytest.raises(NotFoundError, match=r"config\.json"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"a": ' + "[" * 100_000, "\ud800".encode("utf-8", "surrogatepass")]
)
def test_a_damaged_configuration_is_an_error(tmp_path: Path, text: str | bytes):
    data = text.encode() if isinstance(text, str) else text
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(IntegrityError, match=r"config\.json"):
        read_config(tmp_path)


def test_a_configuration_of_gigabytes_is_not_read(tmp_path: Path):
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(IntegrityError, match="far too many"):
        read_config(tmp_path)


def test_a_configuration_survives_the_way_to_disk(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["X"]}))
    assert read_config(tmp_path).architecture == "X"
