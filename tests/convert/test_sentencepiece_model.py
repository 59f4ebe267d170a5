from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.convert.sentencepiece_model import PieceType, read_model
from llmedge.core.errors import IntegrityError
from tests.convert import checkpoints
from tests.convert.checkpoints import field

if TYPE_CHECKING:
    from pathlib import Path

VALUE: dict[str, Any] = {
    "model": {
        "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "<0x0A>": 3, "▁": 4, "अ": 5, "▁अ": 6},
        "merges": [["▁", "अ"]],
    }
}
DATA = checkpoints.sentencepiece(VALUE)


def test_pieces_scores_types_and_flags_are_read(tmp_path: Path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(DATA)
    model = read_model(path)
    assert [piece.text for piece in model.pieces] == list(VALUE["model"]["vocab"])
    assert model.pieces[6].score == 0
    assert [piece.type for piece in model.pieces[:4]] == [
        PieceType.UNKNOWN,
        PieceType.CONTROL,
        PieceType.CONTROL,
        PieceType.BYTE,
    ]
    assert (model.is_unigram, model.has_byte_fallback) == (False, True)
    assert (model.adds_prefix, model.merges_spaces) == (True, False)
    assert model.names() == {"unk": "<unk>", "bos": "<s>", "eos": "</s>"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x0b",
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\xff" * 20,
        b"\x08\x96",
        field(1, field(1, b"\xff\xfe")),
        field(1, field(2, b"12345")),
        field(1, field(3, 99)),
        DATA + field(2, field(3, 4)),
    ],
    ids=["empty", "wire type", "length", "varint", "cut", "text", "score", "type", "model"],
)
def test_what_is_no_model_is_refused(tmp_path: Path, data: bytes):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"tokenizer\.model"):
        read_model(path)


@given(at=st.integers(0, len(DATA) - 1), byte=st.integers(0, 255))
def test_any_changed_byte_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, byte: int
):
    path = tmp_path_factory.getbasetemp() / "changed.model"
    path.write_bytes(DATA[:at] + bytes([byte]) + DATA[at + 1 :])
    with contextlib.suppress(IntegrityError):
        assert read_model(path).pieces
