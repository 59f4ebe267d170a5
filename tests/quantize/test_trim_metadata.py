from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import numpy as np
import pytest

from llmedge.core.errors import UnsupportedError
from llmedge.gguf.entries import Entries
from llmedge.gguf.reader import Array, Header, read_header
from llmedge.gguf.writer import encode_header
from llmedge.quantize.trim_keep import Selection, Wishes, select_tokens
from llmedge.quantize.trim_metadata import named_ids, require_known_metadata, trimmed_metadata
from llmedge.quantize.trim_vocabulary import read_vocabulary
from tests.quantize.trim_models import write_by_score, write_byte_level

if TYPE_CHECKING:
    from pathlib import Path

    import gguf

LATIN = Wishes(frozenset(["Latin"]), pinned=frozenset([0, 2, 400]))


def trimmed(source: Path, target: Path, added=None) -> tuple[Header, Entries, Selection]:
    """Write the trimmed metadata of a model without its tensors, and read it back."""
    header = read_header(source)
    entries = Entries(header)
    vocabulary = read_vocabulary(header, entries)
    selection = select_tokens(vocabulary, LATIN)
    metadata = trimmed_metadata(header, entries, vocabulary, selection, added or {})
    target.write_bytes(encode_header(metadata, ()))
    new = read_header(target)
    return new, Entries(new), selection


def test_lists_keep_the_items_of_kept_tokens(tmp_path: Path):
    source = write_by_score(tmp_path / "s.gguf")
    old = Entries(read_header(source))
    _, new, selection = trimmed(source, tmp_path / "t.gguf")
    for key in ("token_type", "scores"):
        before, after = (entries.numbers(f"tokenizer.ggml.{key}") for entries in (old, new))
        assert before is not None
        assert after == array(before.typecode, [before[token] for token in selection.kept])
    tokens = old.strings("tokenizer.ggml.tokens") or []
    assert new.strings("tokenizer.ggml.tokens") == [tokens[token] for token in selection.kept]


def test_merges_of_dropped_tokens_go_and_the_others_keep_their_order(tmp_path: Path):
    source = write_byte_level(tmp_path / "b.gguf")
    _, new, selection = trimmed(source, tmp_path / "t.gguf")
    old_merges = Entries(read_header(source)).strings("tokenizer.ggml.merges") or []
    tokens = set(new.strings("tokenizer.ggml.tokens") or [])
    merges = new.strings("tokenizer.ggml.merges") or []
    assert merges == [
        line for line in old_merges if {*line.split(b" "), line.replace(b" ", b"")} <= tokens
    ]
    assert 0 < len(merges) < len(old_merges)
    assert len(tokens) == len(selection.kept)


def test_everything_else_is_copied_and_new_keys_follow(tmp_path: Path):
    source = write_byte_level(tmp_path / "b.gguf")
    old = read_header(source)
    new, _, selection = trimmed(source, tmp_path / "t.gguf", {"general.description": "new"})
    changed = {f"tokenizer.ggml.{name}" for name in ("tokens", "token_type", "merges")}
    changed |= {
        "qwen2.vocab_size",
        "tokenizer.ggml.eos_token_id",
        "tokenizer.ggml.padding_token_id",
    }
    same = {key: value for key, value in old.metadata.items() if key not in changed}
    assert {key: new.metadata[key] for key in same} == same
    assert [*old.metadata, "general.description"] == list(new.metadata)
    assert new.number("qwen2.vocab_size") == len(selection.kept)


def test_ids_move_with_their_tokens_and_those_out_of_range_go(tmp_path: Path):
    def name_ids(writer: gguf.GGUFWriter) -> None:
        writer.add_uint32("tokenizer.ggml.mask_token_id", 400)
        writer.add_uint32("tokenizer.ggml.eom_token_id", 636)
        writer.add_int32("tokenizer.ggml.cls_token_id", -1)
        writer.add_array("tokenizer.ggml.stop_token_ids", [2, 300, 999])
        writer.add_array("tokenizer.ggml.suppress_tokens", [1, 635, -1, 300])

    source = write_byte_level(tmp_path / "b.gguf", change=name_ids)
    header = read_header(source)
    assert named_ids(header, Entries(header)) == {0, 2, 400, 636, -1, 300, 999}
    new, _, selection = trimmed(source, tmp_path / "t.gguf")
    kept = list(selection.kept)
    ids = {key: new.metadata[key] for key in new.metadata if "token_id" in key}
    stops = ids.pop("tokenizer.ggml.stop_token_ids")
    assert isinstance(stops, Array)
    assert [kept[item] for item in stops.items] == [token for token in (2, 300) if token in kept]
    suppressed = new.metadata["tokenizer.ggml.suppress_tokens"]
    assert isinstance(suppressed, Array)
    assert [kept[item] for item in suppressed.items] == [t for t in (1, 635, 300) if t in kept]
    assert (suppressed.type_name, stops.type_name) == ("i32", "i32")
    assert {key.removeprefix("tokenizer.ggml."): kept[value] for key, value in ids.items()} == {
        "eos_token_id": 2,
        "padding_token_id": 0,
        "mask_token_id": 400,
    }


def test_a_copy_of_the_old_tokenizer_and_the_old_alignment_go(tmp_path: Path):
    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_string("tokenizer.huggingface.json", "{}")
        writer.add_custom_alignment(64)

    source = write_byte_level(tmp_path / "b.gguf", change=add)
    require_known_metadata(read_header(source), 636)
    new, _, _ = trimmed(source, tmp_path / "t.gguf")
    assert "tokenizer.huggingface.json" not in new.metadata
    assert new.alignment == 32


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("qwen2.token_classes", [0] * 636),
        ("qwen2.image_token_id", 5),
        ("qwen2.adapters.token_ids_activate", [1, 2]),
        ("qwen2.draft_vocab_size", 600),
        ("tokenizer.ggml.last_id", 600),
        ("tokenizer.ggml.added_tokens", ["one"]),
        ("tokenizer.ggml.stop_token_ids", ["one"]),
        ("tokenizer.ggml.precompiled_charsmap", [1, 2]),
    ],
)
def test_metadata_that_may_depend_on_the_vocabulary_is_refused_by_name(
    tmp_path: Path, key: str, value
):
    def add(writer: gguf.GGUFWriter) -> None:
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            writer.add_uint32(key, value)

    header = read_header(write_byte_level(tmp_path / "b.gguf", change=add))
    with pytest.raises(UnsupportedError, match=key):
        require_known_metadata(header, 636)


def test_usual_metadata_is_known(smollm2: Path, gemma3: Path, tmp_path: Path):
    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_array("general.tags", ["a", "b"])
        writer.add_bool("tokenizer.ggml.add_space_prefix", False)
        writer.add_chat_template([{"name": "tool_use", "template": "x"}])
        writer.add_array("qwen2.rope.factors", [1.0] * 64)
        writer.add_float32("qwen2.something", float(np.pi))

    tiny = write_byte_level(tmp_path / "b.gguf", change=add)
    for path, n_vocab in ((smollm2, 49_152), (gemma3, 262_144), (tiny, 636)):
        require_known_metadata(read_header(path), n_vocab)
