from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmedge.core.errors import IntegrityError
from llmedge.gguf.entries import Entries
from llmedge.gguf.reader import read_header
from llmedge.gguf.writer import Metadata, encode_header
from tests.gguf_files import ARCHITECTURE, kv_array, kv_string, kv_u32, raw_header, string

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = [b"one", "नमस्ते".encode(), b"", b"\xff"]
KV = (
    ARCHITECTURE,
    kv_u32("a.number", 7),
    kv_array("a.texts", 8, len(TEXTS), b"".join(map(string, TEXTS))),
    kv_array("a.floats", 6, 2, b"\0\0\x80\x3f\0\0\0\x40"),
    kv_array("a.flags", 7, 2, b"\1\0"),
    kv_array("a.nothing", 5, 0, b""),
    kv_string("a.end", "end"),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(raw_header(kv=KV))
    return path


def test_entries_copied_one_by_one_make_the_same_file(path: Path):
    entries = Entries(read_header(path))
    copied = sum((entries.raw(key) for key in entries), start=Metadata(0, b""))
    assert encode_header(copied, ()) == path.read_bytes()


def test_long_lists_are_read_whole(path: Path):
    entries = Entries(read_header(path))
    assert entries.strings("a.texts") == TEXTS
    assert list(entries.numbers("a.floats") or ()) == [1.0, 2.0]
    assert list(entries.numbers("a.flags") or ()) == [1, 0]
    assert entries.numbers("a.nothing") is not None


def test_what_is_no_such_list_is_none(path: Path):
    entries = Entries(read_header(path))
    for key in ("a.number", "a.floats", "no.such"):
        assert entries.strings(key) is None
    for key in ("a.number", "a.texts", "no.such"):
        assert entries.numbers(key) is None
    assert "a.end" in entries
    assert "no.such" not in entries


@pytest.mark.parametrize("n_left", [30, 60, 120, 200])
def test_a_file_that_changes_after_its_check_is_noticed(path: Path, n_left: int):
    header = read_header(path)
    path.write_bytes(path.read_bytes()[:n_left])
    with pytest.raises(IntegrityError, match="changed while it was read"):
        Entries(header)


def test_a_file_with_other_keys_than_were_checked_is_noticed(path: Path):
    header = read_header(path)
    path.write_bytes(path.read_bytes().replace(b"a.number", b"a.nummer"))
    with pytest.raises(IntegrityError, match="changed while it was read"):
        Entries(header)
