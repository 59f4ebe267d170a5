from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from llmedge.convert.sentencepiece_model import PieceType
from llmedge.convert.tokenizer import convert_tokenizer
from llmedge.convert.tokenizer_reader import draft_tokenizer
from llmedge.convert.tokenizer_source import find_source
from llmedge.core.errors import NotFoundError, UnsupportedError
from tests.convert import checkpoints
from tests.convert.checkpoints import field

if TYPE_CHECKING:
    from pathlib import Path


def write_gpt2_files(folder: Path, trained: Path, **config: object) -> Path:
    model = checkpoints.read_tokenizer(trained)["model"]
    folder.mkdir()
    checkpoints.write_json(folder / "vocab.json", model["vocab"])
    lines = ["#version: 0.2", *(" ".join(merge) for merge in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    checkpoints.write_json(folder / "tokenizer_config.json", checkpoints.CONFIG | config)
    return folder


@pytest.mark.parametrize(
    ("name", "pattern", "pre"),
    [("GPT2Tokenizer", None, "gpt-2"), ("Qwen2Tokenizer", checkpoints.QWEN2, "qwen2")],
)
def test_vocab_and_merges_are_cut_as_their_class_does(
    tmp_path: Path, name: str, pattern: str | None, pre: str
):
    pre_tokenizer = checkpoints.cut(pattern) if pattern else checkpoints.gpt2()
    trained = checkpoints.byte_level(tmp_path / "trained", pre_tokenizer)
    folder = write_gpt2_files(tmp_path / "checkpoint", trained, tokenizer_class=name)
    _, report = convert_tokenizer(folder, 2001, "gpt2")
    assert report.pre == pre


def test_an_unknown_class_is_not_guessed(tmp_path: Path):
    trained = checkpoints.byte_level(tmp_path / "trained", checkpoints.gpt2(), n_tokens=600)
    folder = write_gpt2_files(tmp_path / "checkpoint", trained, tokenizer_class="CodeGenTokenizer")
    with pytest.raises(UnsupportedError, match="CodeGenTokenizer"):
        find_source(folder)
    (folder / "merges.txt").unlink()
    with pytest.raises(NotFoundError, match=r"merges\.txt"):
        find_source(folder)


def test_a_word_list_is_berts(tmp_path: Path):
    trained = checkpoints.wordpiece(tmp_path / "trained", lowercase=False)
    vocab = checkpoints.read_tokenizer(trained)["model"]["vocab"]
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    words = sorted(vocab, key=vocab.__getitem__)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    checkpoints.write_json(folder / "tokenizer_config.json", {"do_lower_case": False})
    _, report = convert_tokenizer(folder, 6000, "bert")
    assert (report.model, report.adds_bos, report.adds_eos) == ("bert", True, True)
    assert sum(result.n_mismatches for result in report.results) <= 2


def piece(text: str, kind: PieceType) -> bytes:
    return field(1, field(1, text.encode()) + b"\x15\0\0\x80\xbf" + field(3, kind))


def test_fairseqs_model_is_renumbered(tmp_path: Path):
    kinds = (PieceType.UNKNOWN, PieceType.CONTROL, PieceType.CONTROL)
    front = zip(("<unk>", "<s>", "</s>"), kinds, strict=True)
    data = b"".join(piece(text, kind) for text, kind in front)
    data += piece("▁a", PieceType.NORMAL) + piece("b", PieceType.NORMAL) + field(2, field(3, 1))
    (tmp_path / "sentencepiece.bpe.model").write_bytes(data)
    source = find_source(tmp_path)
    vocab = json.loads(source.data)["model"]["vocab"]
    expected = ["<s>", "<pad>", "</s>", "<unk>", "▁a", "b", "<mask>"]
    assert [text for text, _ in vocab] == expected
    draft = draft_tokenizer(tmp_path, 7, "bert")
    assert draft.special.ids == {"bos": 0, "eos": 2, "unk": 3, "pad": 1}
    assert (draft.special.adds_bos, draft.special.adds_eos) == (True, True)


def test_tokenizer_json_comes_before_the_model_file(tmp_path: Path):
    folder = checkpoints.spm(tmp_path, n_tokens=700)
    (folder / "tokenizer.model").write_bytes(b"not read")
    assert find_source(folder).path.name == "tokenizer.json"
