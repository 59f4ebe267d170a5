from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmedge.convert.token_table import TokenKind, TokenTable
from llmedge.convert.tokenizer_files import AddedToken
from llmedge.core.errors import IntegrityError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def table(tmp_path: Path) -> TokenTable:
    return TokenTable(6, tmp_path / "tokenizer.json")


def test_added_tokens_are_control_or_user_defined_and_unknown_stays(table: TokenTable):
    table.place(0, "<unk>", TokenKind.UNKNOWN)
    table.add(
        [
            AddedToken(0, "<unk>", special=True),
            AddedToken(1, "<s>", special=True),
            AddedToken(2, "<think>"),
        ]
    )
    assert list(table.kinds[:3]) == [TokenKind.UNKNOWN, TokenKind.CONTROL, TokenKind.USER_DEFINED]


def test_user_defined_spaces_are_written_plainly_unless_that_text_is_taken(table: TokenTable):
    table.place_all({"▁": 0, " ": 1})
    table.add([AddedToken(2, "▁▁"), AddedToken(1, " "), AddedToken(0, "▁")])
    metadata, n_padding = table.finish(space="▁")
    assert table.texts[:3] == ["▁", " ", "  "]
    assert (metadata.n_keys, n_padding) == (2, 3)


def test_a_text_with_two_ids_is_refused(table: TokenTable):
    table.place(0, "a", TokenKind.NORMAL)
    table.place(1, "a", TokenKind.NORMAL)
    with pytest.raises(IntegrityError, match="'a' has two ids"):
        table.finish()


def test_a_text_that_is_not_unicode_is_refused(table: TokenTable):
    table.place(0, "\ud800", TokenKind.NORMAL)
    with pytest.raises(IntegrityError, match="not Unicode"):
        table.finish()
