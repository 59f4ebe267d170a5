"""Texts to measure on, cut into chunks of tokens without holding a text in memory.

Knows nothing of models: it is given a function that turns text into tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from llmedge.core.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LANGUAGES = {"en": "English", "hi": "Hindi"}
_PIECE_CHARS = 8192
MIN_CHUNK_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Corpus:
    """A text to measure on.

    Attributes:
        name: A language's code, or a file's name.
        path: The file.
    """

    name: str
    path: Path


def shipped_corpus(language: str) -> Corpus:
    """Return the text that is shipped for a language; written for llmedge, CC0.

    Raises:
        UsageError: None is shipped for it.
    """
    if language not in LANGUAGES:
        known = ", ".join(LANGUAGES)
        raise UsageError(f"no text is shipped for language {language!r}", f"shipped: {known}")
    folder = resources.files("llmedge.measure") / "texts"
    return Corpus(language, Path(str(folder / f"{language}.txt")))


def file_corpus(path: Path) -> Corpus:
    """Return a user's text.

    Raises:
        NotFoundError: There is no such file.
    """
    if not path.is_file():
        raise NotFoundError(f"the text {path} is not a file", "give a UTF-8 text with --text")
    return Corpus(path.name, path)


def read_chunks(
    corpus: Corpus, tokenize: Callable[[str], list[int]], *, n_ctx: int, bos: int | None
) -> Iterator[list[int]]:
    """Yield the text as chunks of tokens; memory does not grow with the text.

    Args:
        corpus: The text.
        tokenize: Turns a piece of text into tokens, without special ones.
        n_ctx: Tokens in a chunk, `bos` included. The last chunk may be shorter, and is left out
            when it has fewer than `MIN_CHUNK_TOKENS`.
        bos: A token to begin every chunk with.

    Raises:
        UsageError: The text is not UTF-8, or too short for one chunk.
    """
    head = [] if bos is None else [bos]
    pending: list[int] = list(head)
    has_yielded = False
    for piece in _read_pieces(corpus):
        pending += tokenize(piece)
        while len(pending) >= n_ctx:
            yield pending[:n_ctx]
            has_yielded = True
            pending = head + pending[n_ctx:]
    if len(pending) >= MIN_CHUNK_TOKENS:
        yield pending
    elif not has_yielded:
        raise UsageError(
            f"the text {corpus.name} has only {len(pending)} tokens",
            f"give one of at least {MIN_CHUNK_TOKENS}, better thousands",
        )


def _read_pieces(corpus: Corpus) -> Iterator[str]:
    """Yield the text in pieces that end with a line or a space, as tokenizers want them cut."""
    held = ""
    try:
        with corpus.path.open(encoding="utf-8") as file:
            while block := file.read(_PIECE_CHARS):
                held += block
                cut = max(held.rfind("\n"), held.rfind(" "))
                # The space stays with the word after it: tokens begin with spaces.
                if cut > 0:
                    yield held[:cut]
                    held = held[cut:]
                elif len(held) >= 4 * _PIECE_CHARS:
                    yield held
                    held = ""
    except UnicodeDecodeError as error:
        raise UsageError(f"the text {corpus.path} is not UTF-8: {error}") from None
    if held:
        yield held
