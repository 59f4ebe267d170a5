"""Files that are damaged or made to do harm: an error that names them, never a traceback."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from llmedge.convert.tokenizer import TokenizerOptions, convert_tokenizer
from llmedge.convert.tokenizer_reader import draft_tokenizer
from llmedge.core.errors import IntegrityError, LlmedgeError, NotFoundError, UnsupportedError
from tests.convert import checkpoints

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = checkpoints.byte_level(
        tmp_path_factory.mktemp("trained"), checkpoints.gpt2(), n_tokens=600
    )
    return checkpoints.read_tokenizer(folder)


def _vocab(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], None]:
    def apply(value: dict[str, Any]) -> None:
        change(value["model"]["vocab"])

    return apply


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a doubled id": _vocab(lambda vocab: vocab.update(doubled=7)),
    "a negative id": _vocab(lambda vocab: vocab.update(below=-1)),
    "an id that is text": _vocab(lambda vocab: vocab.update(text="7")),
    "an id that is a fraction": _vocab(lambda vocab: vocab.update(half=0.5)),
    "no vocabulary": lambda value: value["model"].pop("vocab"),
    "merges that are a number": lambda value: value["model"].update(merges=7),
    "a merge of three": lambda value: value["model"]["merges"].append(["a", "b", "c"]),
    "a merge without a space": lambda value: value["model"]["merges"].append("ab"),
    "a merge that is an object": lambda value: value["model"]["merges"].append({}),
    "a negative added id": lambda value: value["added_tokens"].append(
        {"id": -5, "content": "<x>", "special": True}
    ),
    "an added token in another's row": lambda value: value["added_tokens"].append(
        {"id": 300, "content": "<x>", "special": True}
    ),
    "an added token with a second id": lambda value: value["added_tokens"].append(
        {"id": 605, "content": "Ġ", "special": True}
    ),
    "a step without a type": lambda value: value.update(pre_tokenizer={"behavior": "Isolated"}),
    "a list as pre-tokenizer": lambda value: value.update(pre_tokenizer=[]),
    "a text as model": lambda value: value.update(model="BPE"),
    "no model": lambda value: value.pop("model"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_contradiction_is_named(
    tmp_path: Path, trained: dict[str, Any], change: Callable[[dict[str, Any]], object]
):
    value = json.loads(json.dumps(trained))
    change(value)
    folder = checkpoints.save(tmp_path / "checkpoint", value)
    with pytest.raises(IntegrityError, match=r"tokenizer\.json") as caught:
        draft_tokenizer(folder, 610, "gpt2")
    assert caught.value.hint


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"<!DOCTYPE html>",
        b"[" * 100_000,
        b'{"model": {"type": "BPE", "vocab": {"\\ud800": 0}, "merges": []}}',
        b'{"model": {"type": "BPE", "vocab": {}, "merges": []}, "added_tokens": 7}',
    ],
    ids=["empty", "cut", "binary", "html", "deep", "surrogate", "wrong type"],
)
def test_what_is_no_tokenizer_json_is_refused(tmp_path: Path, data: bytes):
    (tmp_path / "tokenizer.json").write_bytes(data)
    checkpoints.write_json(tmp_path / "tokenizer_config.json", checkpoints.CONFIG)
    with pytest.raises(LlmedgeError) as caught:
        convert_tokenizer(tmp_path, 10, "gpt2")
    assert isinstance(caught.value, IntegrityError | UnsupportedError)
    assert "tokenizer.json" in caught.value.message


@pytest.mark.parametrize("name", ["tokenizer_config.json", "generation_config.json", "config.json"])
@pytest.mark.parametrize("data", [b"{", b"[]", b'{"eos_token": 7, "eos_token_id": "x"}'])
def test_a_malformed_configuration_is_named(
    tmp_path: Path, trained: dict[str, Any], name: str, data: bytes
):
    folder = checkpoints.save(tmp_path, trained)
    (folder / name).write_bytes(data)
    with pytest.raises(IntegrityError, match=name):
        draft_tokenizer(folder, 610, "gpt2")


def test_more_tokens_than_rows_are_refused_and_trailing_added_ones_left_out(
    tmp_path: Path, trained: dict[str, Any]
):
    folder = checkpoints.save(tmp_path, trained)
    with pytest.raises(UnsupportedError, match="embedding has 500 rows"):
        draft_tokenizer(folder, 500, "gpt2")
    draft = draft_tokenizer(folder, 600, "gpt2")
    assert "1 added tokens have no row" in draft.notes[0]
    assert "<think>" in draft.notes[0]


def test_gaps_are_padded_with_names_of_their_own(tmp_path: Path, trained: dict[str, Any]):
    value = json.loads(json.dumps(trained))
    value["model"]["vocab"]["[PAD606]"] = 605
    folder = checkpoints.save(tmp_path, value)
    draft = draft_tokenizer(folder, 610, "gpt2")
    assert draft.n_padding == 610 - 602
    assert b"[PAD606_]" in draft.base.data


def test_a_checkpoint_that_names_no_end_is_refused(tmp_path: Path, trained: dict[str, Any]):
    folder = checkpoints.save(tmp_path, trained, eos_token=None)
    with pytest.raises(IntegrityError, match="which token ends a text") as caught:
        draft_tokenizer(folder, 610, "gpt2")
    assert "eos_token" in caught.value.hint


def test_a_folder_without_a_tokenizer(tmp_path: Path):
    with pytest.raises(NotFoundError, match=r"tokenizer\.json, tekken\.json"):
        draft_tokenizer(tmp_path, 10, "gpt2")


def test_a_tokenizer_of_a_kind_that_llama_cpp_does_not_know(tmp_path: Path):
    value: dict[str, Any] = {"model": {"type": "WordLevel", "vocab": {"a": 0}}}
    folder = checkpoints.save(tmp_path, value)
    with pytest.raises(UnsupportedError, match="WordLevel"):
        draft_tokenizer(folder, 10, "gpt2")
    value["model"] = {"type": "BPE", "vocab": {"a": 0}, "merges": []}
    with pytest.raises(UnsupportedError, match="neither byte-level nor"):
        draft_tokenizer(checkpoints.save(tmp_path, value), 10, "gpt2")
    value["model"]["end_of_word_suffix"] = "</w>"
    value["pre_tokenizer"] = {"type": "ByteLevel"}
    with pytest.raises(UnsupportedError, match="</w>"):
        draft_tokenizer(checkpoints.save(tmp_path, value), 10, "gpt2")


def test_what_the_tokenizers_library_refuses_is_an_error(tmp_path: Path, trained: dict[str, Any]):
    value = json.loads(json.dumps(trained))
    value["pre_tokenizer"]["type"] = "ByteLevel"
    value["normalizer"] = {"type": "NoSuchStep"}
    folder = checkpoints.save(tmp_path, value)
    with pytest.raises(IntegrityError, match="the tokenizers library refuses"):
        convert_tokenizer(folder, 610, "gpt2")


def test_a_vocabulary_that_crashes_llama_cpp_is_refused(tmp_path: Path):
    folder = checkpoints.unigram(tmp_path)
    value = checkpoints.read_tokenizer(folder)
    # Two texts that are one as C strings; llama.cpp asserts that all are different.
    value["model"]["vocab"] += [["same\0one", -9.0], ["same\0two", -9.0]]
    checkpoints.save(folder, value)
    with pytest.raises(UnsupportedError, match=r"llama\.cpp cannot use this vocabulary") as caught:
        convert_tokenizer(folder, 4010, "bert", TokenizerOptions(allow_mismatch=True))
    assert caught.value.hint
