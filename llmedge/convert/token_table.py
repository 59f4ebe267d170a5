"""A vocabulary as a table: which text and which kind of token each row of the embedding is."""

from __future__ import annotations

from array import array
from enum import IntEnum
from typing import TYPE_CHECKING

from llmedge.convert.tokenizer_files import broken
from llmedge.core.errors import UnsupportedError
from llmedge.gguf.writer import Metadata, StringList, encode_metadata

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from llmedge.convert.tokenizer_files import AddedToken


class TokenKind(IntEnum):
    """How llama.cpp treats a token. Source: include/llama.h `enum llama_token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class TokenTable:
    """The rows of the embedding, filled with tokens.

    Args:
        n_rows: How many there are.
        path: The file that the tokens come from, for errors.
    """

    def __init__(self, n_rows: int, path: Path) -> None:
        self._path = path
        self.texts: list[str | None] = [None] * n_rows
        self.kinds = array("i", [TokenKind.UNUSED]) * n_rows
        self.notes: list[str] = []

    def place(self, token: int, text: str, kind: TokenKind) -> None:
        """Put a token into its row.

        Raises:
            IntegrityError: The row does not exist, or holds another token.
        """
        self._check(token, text)
        if self.texts[token] is not None:
            raise broken(self._path, f"id {token} is both {self.texts[token]!r} and {text!r}")
        self.texts[token] = text
        self.kinds[token] = kind

    def place_all(self, vocab: Mapping[str, int]) -> None:
        """Put a model's tokens into their rows, all of them normal.

        Raises:
            IntegrityError: A row does not exist, or two tokens share one.
        """
        for text, token in vocab.items():
            self.place(token, text, TokenKind.NORMAL)

    def add(self, tokens: Iterable[AddedToken]) -> None:
        """Put added tokens into their rows; special ones are control tokens.

        Trailing ones without a row are left out: the model cannot have learned them.

        Raises:
            IntegrityError: An id is negative, or its row holds another token.
        """
        left_out: list[str] = []
        for token in tokens:
            if token.id >= len(self.texts):
                left_out.append(token.content)
                continue
            self._check(token.id, token.content)
            there = self.texts[token.id]
            if there is not None and there != token.content:
                raise broken(
                    self._path,
                    f"id {token.id} is both {there!r} and the added token {token.content!r}",
                )
            self.texts[token.id] = token.content
            if self.kinds[token.id] != TokenKind.UNKNOWN:
                kind = TokenKind.CONTROL if token.special else TokenKind.USER_DEFINED
                self.kinds[token.id] = kind
        if left_out:
            self.notes.append(
                f"{len(left_out)} added tokens have no row in the embedding and are left out: "
                + ", ".join(left_out[:4])
            )

    def find(self, names: Iterable[str]) -> dict[str, int]:
        """Return the ids of tokens by their text; the missing are missing."""
        wanted = set(names)
        return {
            text: token
            for token, text in enumerate(self.texts)
            if text is not None and text in wanted
        }

    def mark_control(self, tokens: Iterable[int]) -> None:
        """Make normal and user-defined tokens control tokens: they frame a text."""
        for token in tokens:
            if self.kinds[token] in (TokenKind.NORMAL, TokenKind.USER_DEFINED):
                self.kinds[token] = TokenKind.CONTROL

    def finish(self, *, space: str | None = None) -> tuple[Metadata, int]:
        """Fill the empty rows and encode the table.

        Args:
            space: How a vocabulary writes the space; user-defined tokens are written plainly,
                because llama.cpp looks for them before it escapes spaces.

        Returns:
            The metadata, and the number of rows that no token has.

        Raises:
            IntegrityError: Two rows have the same text, or a text is not Unicode.
        """
        if space is not None:
            self._write_spaces(space)
        n_padding = self._pad()
        if len(set(self.texts)) != len(self.texts):
            raise broken(self._path, f"the token {self._doubled()!r} has two ids")
        strings = StringList()
        try:
            for text in self.texts:
                strings.append(text or "")
        except UnicodeEncodeError as error:
            raise broken(self._path, f"a token is not Unicode text: {error.object!r}") from None
        metadata = encode_metadata(
            {"tokenizer.ggml.tokens": strings, "tokenizer.ggml.token_type": self.kinds}
        )
        return metadata, n_padding

    def _check(self, token: int, text: str) -> None:
        if token < 0:
            raise broken(self._path, f"the token {text!r} has the id {token}")
        if token >= len(self.texts):
            raise UnsupportedError(
                f"{self._path} has the token {text!r} with id {token}, but the embedding has "
                f"{len(self.texts)} rows",
                "the tokenizer belongs to another model: take both from the same checkpoint",
            )

    def _write_spaces(self, space: str) -> None:
        known = set(self.texts)
        for token, text in enumerate(self.texts):
            if text is None or self.kinds[token] != TokenKind.USER_DEFINED or space not in text:
                continue
            plain = text.replace(space, " ")
            if plain not in known:
                self.texts[token] = plain

    def _pad(self) -> int:
        empty = [token for token, text in enumerate(self.texts) if text is None]
        known = self.find(f"[PAD{token}]" for token in empty)
        for token in empty:
            name = f"[PAD{token}]"
            self.texts[token] = f"[PAD{token}_]" if name in known else name
        return len(empty)

    def _doubled(self) -> str | None:
        seen: set[str | None] = set()
        for text in self.texts:
            if text in seen:
                return text
            seen.add(text)
        return None
