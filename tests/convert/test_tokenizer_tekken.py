from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest

from llmedge.convert.pre_tokenizer import TEKKEN
from llmedge.convert.tokenizer import convert_tokenizer
from llmedge.convert.tokenizer_tekken import Tekken, letters
from llmedge.core.errors import IntegrityError
from tests.convert import checkpoints

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WORDS = [b" t", b"he", b" the", "न".encode(), "नम".encode()]


def tekken() -> dict[str, Any]:
    tokens = [*(bytes([byte]) for byte in range(256)), *WORDS, b"left out"]
    return {
        "config": {
            "pattern": TEKKEN,
            "default_vocab_size": 256 + len(WORDS) + 20,
            "default_num_special_tokens": 20,
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(data).decode(), "token_str": None}
            for rank, data in enumerate(tokens)
        ],
    }


def write(folder: Path, value: dict[str, Any]) -> Path:
    checkpoints.write_json(folder / "tekken.json", value)
    return folder / "tekken.json"


def test_words_merge_by_rank(tmp_path: Path):
    own = Tekken(write(tmp_path, tekken()))
    assert own.encode_word(b" the") == [20 + 256 + 2]
    assert own.encode_word(b"h") == [20 + ord("h")]
    assert own.special[:3] == [("<unk>", True), ("<s>", True), ("</s>", True)]


def test_every_way_to_halve_a_token_is_a_merge():
    ranks = {b"a": 0, b"b": 1, b"ab": 2, b"ba": 3, b"aba": 4}
    assert list(Tekken.halves(ranks)) == [(b"a", b"b"), (b"b", b"a"), (b"a", b"ba"), (b"ab", b"a")]


def test_bytes_are_spelt_as_gpt2_does():
    spelt = letters()
    assert len(set(spelt.values())) == 256
    assert (spelt[0x20], spelt[0x0A], spelt[ord("a")]) == ("Ġ", "Ċ", "a")


def test_it_is_converted_and_encodes_alike(tmp_path: Path):
    value = tekken()
    value["special_tokens"] = [
        {"rank": 1, "token_str": "<s>", "is_control": True},
        {"rank": 2, "token_str": "</s>", "is_control": True},
        {"rank": 3, "token_str": "[THINK]", "is_control": False},
    ]
    write(tmp_path, value)
    _, report = convert_tokenizer(tmp_path, 300, "llama")
    assert (report.pre, report.n_padding) == ("granite-embed-multi-97m", 300 - 281)
    assert not any(result.n_mismatches for result in report.results)


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no base64": lambda value: value["vocab"][300 - 40].update(token_bytes="?"),
    "out of order": lambda value: value["vocab"][7].update(rank=8),
    "a byte missing": lambda value: value["vocab"][7].update(token_bytes="YWJj"),
    "doubled": lambda value: value["vocab"][7].update(token_bytes="CA=="),
    "too few": lambda value: value["config"].update(default_vocab_size=10**9),
    "negative": lambda value: value["config"].update(default_num_special_tokens=-1),
    "a special token too many": lambda value: value.update(
        special_tokens=[{"rank": 99, "token_str": "<x>"}]
    ),
    "no pattern": lambda value: value["config"].pop("pattern"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_contradiction_is_named(tmp_path: Path, change: Callable[[dict[str, Any]], object]):
    value = tekken()
    change(value)
    with pytest.raises(IntegrityError, match=r"tekken\.json"):
        Tekken(write(tmp_path, value))


def test_a_pattern_that_is_no_regular_expression_is_an_error(tmp_path: Path):
    value = tekken()
    value["config"]["pattern"] = "("
    write(tmp_path, value)
    checkpoints.write_json(tmp_path / "tokenizer_config.json", checkpoints.CONFIG)
    with pytest.raises(IntegrityError, match="the tokenizers library refuses"):
        convert_tokenizer(tmp_path, 300, "llama")
