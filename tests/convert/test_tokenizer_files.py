from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from llmedge.convert.tokenizer_files import (
    ModelConfig,
    ModelType,
    TokenizerConfig,
    TokenizerJson,
    decode,
    iterate_merges,
    read_bytes,
    read_config,
)
from llmedge.core.errors import IntegrityError, NotFoundError

PATH = Path("tokenizer.json")


def merges(text: str) -> list[tuple[str, str]]:
    return list(iterate_merges(PATH, msgspec.Raw(text.encode())))


def test_merges_of_both_formats_are_pairs():
    assert merges('["Ġ t","अ ा"]') == [("Ġ", "t"), ("अ", "ा")]
    assert merges('[ ["Ġ", "t"] , ["\\n","\\u0905 "] ]') == [("Ġ", "t"), ("\n", "अ ")]
    assert merges('["a\\" \\\\"]') == [('a"', "\\")]
    assert merges("[]") == []


@pytest.mark.parametrize("text", ['["ab"]', '["a b c"]', '[["a"]]', '[["a","b","c"]]', "[1]", "{}"])
def test_what_is_no_pair_is_refused(text: str):
    with pytest.raises(IntegrityError, match=r"tokenizer\.json"):
        merges(text)


def test_models_of_old_files_are_told_by_their_fields():
    def name(model: bytes) -> str:
        tokenizer = decode(PATH, b'{"model": ' + model + b"}", TokenizerJson)
        return decode(PATH, tokenizer.model, ModelType).name

    assert name(b'{"merges": [], "vocab": {}}') == "BPE"
    assert name(b'{"max_input_chars_per_word": 100, "vocab": {}}') == "WordPiece"
    assert name(b'{"vocab": []}') == "Unigram"
    assert name(b'{"type": "BPE"}') == "BPE"


def test_a_configuration_may_hold_numbers_that_json_does_not_know(tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_text('{"time_step_limit": [0.0, Infinity], "eos_token_id": [3, 4]}')
    config = read_config(path, ModelConfig)
    assert config is not None
    assert config.ids("eos") == (3, 4)
    assert read_config(tmp_path / "missing.json", ModelConfig) is None


def test_a_token_may_be_a_name_or_an_object():
    config = msgspec.convert(
        {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}}, TokenizerConfig
    )
    assert (config.name("bos"), config.name("eos"), config.name("pad")) == ("<s>", "</s>", None)


def test_a_file_that_is_missing_or_far_too_large_is_refused(tmp_path: Path):
    with pytest.raises(NotFoundError, match=r"gone\.json"):
        read_bytes(tmp_path / "gone.json")
    (tmp_path / "large.json").write_bytes(b" " * 11)
    with pytest.raises(IntegrityError, match="11 bytes"):
        read_bytes(tmp_path / "large.json", 10)
