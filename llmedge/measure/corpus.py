"""Texts to measure on, cut into chunks of tokens without holding a text in memory.

Knows nothing of models: it is given a function that turns text into tokens.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from llmedge.core.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import BufferedReader

LANGUAGES = {
    "en": "English",
    "hi": "Hindi",
    "mr": "Marathi",
    "bn": "Bengali",
    "ta": "Tamil",
    "te": "Telugu",
    "kn": "Kannada",
    "ml": "Malayalam",
    "gu": "Gujarati",
    "pa": "Punjabi",
    "or": "Odia",
    "ur": "Urdu",
    "hi-Latn": "romanised Hindi",
}
# What is shipped twice: texts to calibrate with, and others to measure on.
KINDS = {
    **LANGUAGES,
    "code": "program code",
    "maths": "mathematics",
    "chat": "conversations in the model's own template",
}
# The Universal Declaration of Human Rights is shipped in these.
UDHR_LANGUAGES = ("en", "hi", "mr", "bn", "ta", "te", "kn", "ml", "gu", "pa", "ur")
_CONVERSATIONS = ".jsonl"
_PIECE_CHARS = 8192
_BREAK = re.compile(rb"[\n ]")
_INNER_BYTES = bytes(range(0x80, 0xC0))  # of characters in UTF-8, after their first
MIN_CHUNK_TOKENS = 32
WITHOUT_CHAT = "leave conversations out: --lang en,hi, or --calibration-weights en=1"  # a hint


@dataclass(frozen=True, slots=True)
class Corpus:
    """A text to measure on.

    Attributes:
        name: A language's code, another of `KINDS`, `udhr:` and a code, or a file's name.
        path: The file: plain text, or conversations (`.jsonl`), one a line.
        language: The language's code where it is known.
        span: Bytes of the file to read, from and to, at the breaks after them; `None` reads all.
    """

    name: str
    path: Path
    language: str | None = None
    span: tuple[int, int] | None = None

    @property
    def is_chat(self) -> bool:
        """Whether it holds conversations."""
        return self.path.suffix == _CONVERSATIONS


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns of a chat.

    Attributes:
        language: The language's code.
        messages: Mappings with `role` and `content`, first to last.
    """

    language: str
    messages: tuple[dict[str, str], ...]


def shipped_corpus(kind: str) -> Corpus:
    """Return a text to measure on; written for llmedge, CC0, never calibrated with.

    Raises:
        UsageError: None is shipped of this kind.
    """
    return _shipped(kind, "heldout")


def calibration_corpus(kind: str) -> Corpus:
    """Return a text to calibrate with; written for llmedge, CC0, never measured on.

    Raises:
        UsageError: None is shipped of this kind.
    """
    return _shipped(kind, "calibration")


def udhr_corpus(code: str) -> Corpus:
    """Return the articles of the Universal Declaration of Human Rights, alike in every language.

    Models may have met it in training: it compares languages and vocabularies, not knowledge.

    Raises:
        UsageError: It is not shipped in this language.
    """
    if code not in UDHR_LANGUAGES:
        raise UsageError(
            f"the Universal Declaration of Human Rights is not shipped in {code!r}",
            f"shipped: {', '.join(UDHR_LANGUAGES)}",
        )
    return Corpus(f"udhr:{code}", _packaged("udhr", f"{code}.txt"), code)


def _shipped(kind: str, folder: str) -> Corpus:
    if kind not in KINDS:
        known = ", ".join(KINDS)
        raise UsageError(f"no text is shipped for language {kind!r}", f"shipped: {known}")
    suffix = _CONVERSATIONS if kind == "chat" else ".txt"
    path = _packaged(folder, f"{kind}{suffix}")
    return Corpus(kind, path, kind if kind in LANGUAGES else None)


def _packaged(folder: str, name: str) -> Path:
    return Path(str(resources.files("llmedge.measure") / folder / name))


def file_corpus(path: Path) -> Corpus:
    """Return a user's text.

    Raises:
        NotFoundError: There is no such file, or it may not be read.
    """
    try:
        is_file = path.is_file()
        if is_file:
            path.open("rb").close()
    except OSError as error:
        raise NotFoundError(
            f"the text {path} cannot be read: {error.strerror}", "check its permissions"
        ) from None
    if not is_file:
        raise NotFoundError(f"the text {path} is not a file", "give a UTF-8 text with --text")
    return Corpus(path.name, path)


def read_chunks(
    corpus: Corpus,
    tokenize: Callable[[str], list[int]],
    tokenize_chat: Callable[[Conversation], list[int]] | None = None,
    *,
    n_ctx: int,
    bos: int | None,
) -> Iterator[list[int]]:
    """Yield the text as chunks of tokens; memory does not grow with the text.

    Args:
        corpus: The text.
        tokenize: Turns a piece of text into tokens, without special ones.
        tokenize_chat: Turns a conversation into tokens; `None` refuses conversations.
        n_ctx: Tokens in a chunk, `bos` included. The last chunk may be shorter, and is left out
            when it has fewer than `MIN_CHUNK_TOKENS`. Of a span there may be none.
        bos: A token to begin every chunk with.

    Raises:
        UsageError: The text is not UTF-8, or too short for one chunk, or it is conversations and
            there is no way to read them.
    """
    if corpus.is_chat and tokenize_chat is None:
        raise UsageError(f"{corpus.name} holds conversations", "the model has no chat template")
    head = [] if bos is None else [bos]
    pending: list[int] = list(head)
    has_yielded = False
    if corpus.is_chat and tokenize_chat is not None:
        parts = map(tokenize_chat, read_conversations(corpus))
    else:
        parts = map(tokenize, read_pieces(corpus))
    for part in parts:
        pending += part
        while len(pending) >= n_ctx:
            yield pending[:n_ctx]
            has_yielded = True
            pending = head + pending[n_ctx:]
    if len(pending) >= MIN_CHUNK_TOKENS:
        yield pending
    elif not has_yielded and corpus.span is None:
        raise UsageError(
            f"the text {corpus.name} has only {len(pending)} tokens",
            f"give one of at least {MIN_CHUNK_TOKENS}, better thousands",
        )


def read_conversations(corpus: Corpus) -> Iterator[Conversation]:
    """Yield the conversations of a `.jsonl` file.

    Raises:
        UsageError: A line is no conversation.
    """
    first, stop = corpus.span or (0, None)
    with corpus.path.open("rb") as file:
        _seek_line(file, first)
        for number, line in enumerate(_lines(file, stop), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                messages = tuple(
                    {"role": str(turn["role"]), "content": str(turn["content"])}
                    for turn in row["messages"]
                )
                yield Conversation(str(row.get("language", "")), messages)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                place = f", counted from byte {first}," if first else ""
                raise UsageError(
                    f"line {number} of {corpus.path}{place} is no conversation",
                    'one a line: {"messages": [{"role": "user", "content": "…"}, …]}',
                ) from None


def _seek_line(file: BufferedReader, first: int) -> None:
    """Go to the first line that begins at or after a byte."""
    if first:
        file.seek(first - 1)
        file.readline()


def _lines(file: BufferedReader, stop: int | None) -> Iterator[bytes]:
    """Yield the lines that begin before a byte."""
    while (stop is None or file.tell() < stop) and (line := file.readline()):
        yield line


def read_pieces(corpus: Corpus) -> Iterator[str]:
    """Yield a text in pieces that end with a line or a space, as tokenizers want them cut.

    Raises:
        UsageError: The text is not UTF-8.
    """
    held = ""
    try:
        if corpus.span is not None:
            yield _read_span(corpus.path, *corpus.span)
            return
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


def _read_span(path: Path, first: int, stop: int) -> str:
    """Return the words between two bytes of a text; one that is cut at either end is left out.

    Raises:
        UnicodeDecodeError: The text is not UTF-8.
    """
    with path.open("rb") as file:
        file.seek(first)
        data = file.read(stop - first)
        is_cut = bool(file.read(1))
    if first:
        break_at = _BREAK.search(data)
        data = data[break_at.start() :] if break_at else data.lstrip(_INNER_BYTES)
    if is_cut:
        end = max(data.rfind(b"\n"), data.rfind(b" "))
        data = data[:end] if end > 0 else _whole_characters(data)
    return data.decode("utf-8")


def _whole_characters(data: bytes) -> bytes:
    """Return text without the character that it was cut in."""
    start = len(data.rstrip(_INNER_BYTES)) - 1
    return data if data[start:].decode("utf-8", "ignore") else data[:start]
