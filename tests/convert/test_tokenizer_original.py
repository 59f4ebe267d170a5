"""The light ways to load a tokenizer give the ids that the library gives from the whole file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tokenizers import Tokenizer

from llmedge.convert.tokenizer_original import encode_original
from tests.convert import checkpoints

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FAMILIES: dict[str, Callable[[Path], Path]] = {
    "byte-level": lambda folder: checkpoints.byte_level(folder, checkpoints.gpt2()),
    "spm": checkpoints.spm,
    "unigram": checkpoints.unigram,
    "wordpiece": lambda folder: checkpoints.wordpiece(folder, lowercase=True),
}
EXTRA = ["", "<s>hello<mask></s> <think>again", "<s>", "\n\n\nline\n\n"]


def assert_same(folder: Path) -> None:
    texts = [*checkpoints.texts(), *EXTRA]
    whole = Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
    expected = [whole.encode(text, add_special_tokens=False).ids for text in texts]
    assert [list(ids) for ids in encode_original(folder, texts)] == expected


@pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES.keys())
def test_each_family_encodes_as_from_the_whole_file(tmp_path: Path, make: Callable[[Path], Path]):
    assert_same(make(tmp_path))


def test_merges_of_line_breaks_like_gemmas(tmp_path: Path):
    folder = checkpoints.spm(tmp_path, prefix=False)
    value = checkpoints.read_tokenizer(folder)
    model = value["model"]
    for text in ("\n", "\n\n", "\n\n\n", "\\n"):
        model["vocab"][text] = len(model["vocab"])
    model["merges"][:0] = [["\n", "\n"], ["\n\n", "\n"]]
    checkpoints.save(folder, value)
    assert_same(folder)
    ids = encode_original(folder, ["\n\n\n", "\n"])
    assert [list(of_text) for of_text in ids] == [
        [model["vocab"]["\n\n\n"]],
        [model["vocab"]["\n"]],
    ]


def test_merges_that_fit_on_no_line_are_read_from_the_whole_file(tmp_path: Path):
    folder = checkpoints.spm(tmp_path, prefix=False)
    value = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    value["model"]["vocab"][" "] = len(value["model"]["vocab"])
    value["model"]["vocab"]["  "] = len(value["model"]["vocab"])
    value["model"]["merges"].append([" ", " "])
    value["normalizer"] = None
    checkpoints.save(folder, value)
    assert_same(folder)
