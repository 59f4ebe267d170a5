"""A checkpoint's own tokenizer, run by the `tokenizers` library in a process of its own."""

from __future__ import annotations

import contextlib
import re
import tempfile
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from llmedge.convert.in_child import run_in_child
from llmedge.convert.tokenizer_files import ModelType, UnigramModel, decode, iterate_merges
from llmedge.convert.tokenizer_source import Source, find_source
from llmedge.convert.tokenizer_tekken import Tekken
from llmedge.core.errors import IntegrityError, LlmedgeError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from tokenizers import Tokenizer

    from llmedge.host.child import Talk


# merges.txt has one merge a line. Gemma merges line breaks; they are written as this character,
# which is no character of any text.
_LINE_BREAK = "\U0010fffe"
_JSON_LINE_BREAK = re.compile(rb"\\\\|\\n|\\u000[aA]")

_NO_TOKENS = msgspec.Raw(b'{"type":"BPE","vocab":{},"merges":[]}')


class _Added(msgspec.Struct, frozen=True):
    id: int
    content: str
    special: bool = False
    normalized: bool = True
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


class _Json(msgspec.Struct, frozen=True):
    """tokenizer.json in its parts, each still JSON."""

    model: msgspec.Raw
    added_tokens: list[_Added] | None = None
    normalizer: msgspec.Raw = msgspec.Raw(b"null")
    pre_tokenizer: msgspec.Raw = msgspec.Raw(b"null")


class _Bpe(msgspec.Struct, frozen=True):
    vocab: msgspec.Raw
    merges: msgspec.Raw
    type: str | None = None
    unk_token: str | None = None
    fuse_unk: bool = False
    byte_fallback: bool = False
    ignore_merges: bool = False


@dataclass(frozen=True, slots=True)
class _WrittenBpe:
    bpe: _Bpe
    has_line_breaks: bool


def encode_original(folder: Path, texts: Sequence[str]) -> list[array[int]]:
    """Encode texts with a checkpoint's own tokenizer, without special tokens around them.

    Raises:
        IntegrityError: The `tokenizers` library refuses the file.
        ResourceError: It ended the process.
    """
    return run_in_child(f"encoding with the tokenizer of {folder}", _encode, folder, list(texts))


def _encode(talk: Talk, folder: Path, texts: list[str]) -> list[array[int]]:
    """Run in the child."""
    del talk
    source = find_source(folder)
    if source.is_tekken:
        return _encode_tekken(source.path, texts)
    with _translated(source.path):
        return _load(source, texts).encode(texts)


class _Encoder:
    """A tokenizer, and the ids of its tokens where it numbers them otherwise."""

    def __init__(self, tokenizer: Tokenizer, ids: list[int] | None = None) -> None:
        self._tokenizer = tokenizer
        self._ids = ids
        tokenizer.no_padding()
        tokenizer.no_truncation()

    def encode(self, texts: list[str]) -> list[array[int]]:
        found = (self._tokenizer.encode(text, add_special_tokens=False).ids for text in texts)
        if self._ids is None:
            return [array("i", ids) for ids in found]
        return [array("i", [self._ids[token] for token in ids]) for ids in found]


def _encode_tekken(path: Path, texts: list[str]) -> list[array[int]]:
    from tokenizers import Regex, pre_tokenizers

    tekken = Tekken(path)
    with _translated(path):
        cut = pre_tokenizers.Split(Regex(tekken.pattern), "isolated")
        words = ([word for word, _ in cut.pre_tokenize_str(text)] for text in texts)
        return [
            array("i", [token for word in cut for token in tekken.encode_word(word.encode())])
            for cut in words
        ]


def _load(source: Source, texts: list[str]) -> _Encoder:
    """Load a tokenizer so that a large vocabulary takes as little memory as it can."""
    from tokenizers import Tokenizer

    parts = decode(source.path, source.data, _Json)
    kind = decode(source.path, parts.model, ModelType).name
    if kind == "BPE":
        with tempfile.TemporaryDirectory(prefix="llmedge-") as folder:
            written = _write_bpe(source.path, parts, Path(folder))
            if written is not None:
                return _Encoder(_assemble_bpe(parts, written, Path(folder)))
    if kind == "Unigram":
        return _assemble_unigram(source.path, parts, texts)
    return _Encoder(Tokenizer.from_str(source.data.decode("utf-8")))


def _write_bpe(path: Path, parts: _Json, folder: Path) -> _WrittenBpe | None:
    """Write a BPE model's two files; `None` where a merge does not fit on a line.

    Loaded from these, a large vocabulary takes a third of the memory.
    """
    bpe = decode(path, parts.model, _Bpe)
    has_line_breaks = False
    with (folder / "merges.txt").open("w", encoding="utf-8", newline="\r\n") as file:
        for left, right in iterate_merges(path, bpe.merges):
            line = f"{left} {right}"
            if "\n" in line:
                has_line_breaks = True
                line = line.replace("\n", _LINE_BREAK)
            if line.count(" ") != 1 or left == "#version":
                return None
            file.write(line + "\n")
    if has_line_breaks and any("\n" in token.content for token in parts.added_tokens or []):
        return None
    vocab = memoryview(bpe.vocab)
    if has_line_breaks:
        vocab = _JSON_LINE_BREAK.sub(_escape_line_break, vocab)
    (folder / "vocab.json").write_bytes(vocab)
    return _WrittenBpe(bpe, has_line_breaks)


def _escape_line_break(match: re.Match[bytes]) -> bytes:
    return match[0] if match[0] == rb"\\" else _LINE_BREAK.encode()


def _assemble_bpe(parts: _Json, written: _WrittenBpe, folder: Path) -> Tokenizer:
    from tokenizers import normalizers
    from tokenizers.models import BPE

    tokenizer = _frame(parts)
    bpe = written.bpe
    if written.has_line_breaks:
        line_breaks = normalizers.Replace("\n", _LINE_BREAK)
        own = tokenizer.normalizer
        tokenizer.normalizer = normalizers.Sequence([own, line_breaks]) if own else line_breaks
    tokenizer.model = BPE.from_file(  # pyright: ignore[reportUnknownMemberType]
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        unk_token=bpe.unk_token,
        fuse_unk=bpe.fuse_unk,
        byte_fallback=bpe.byte_fallback,
        ignore_merges=bpe.ignore_merges,
    )
    _add_tokens(tokenizer, parts)
    return tokenizer


def _assemble_unigram(path: Path, parts: _Json, texts: list[str]) -> _Encoder:
    """Build a unigram model of the pieces that occur in the texts; no other can be chosen.

    Its trie would take more than 300 MB for a vocabulary of 250 thousand.
    """
    model = decode(path, parts.model, UnigramModel)
    tokenizer = _frame(parts)
    normalizer, pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    words: list[str] = []
    for text in texts:
        text = normalizer.normalize_str(text) if normalizer else text
        words += (
            [word for word, _ in pre_tokenizer.pre_tokenize_str(text)] if pre_tokenizer else [text]
        )
    hay = "\n".join(words)
    pairs = {hay[at : at + 2] for at in range(len(hay))}
    added = {token.content for token in parts.added_tokens or []}
    # The lowest score sets the price of the unknown.
    lowest = min(range(len(model.vocab)), key=lambda token: model.vocab[token][1], default=0)
    kept = [
        token
        for token, (piece, _) in enumerate(model.vocab)
        if token in (lowest, model.unk_id)
        or piece in added
        or (model.byte_fallback and piece.startswith("<0x"))
        or ((len(piece) < 2 or piece[:2] in pairs) and piece in hay)
    ]
    # As JSON again: the library reads numbers in its own way, which decides between equals.
    reduced = {
        "type": "Unigram",
        "unk_id": kept.index(model.unk_id) if model.unk_id in kept else None,
        "vocab": [model.vocab[token] for token in kept],
        "byte_fallback": model.byte_fallback,
    }
    tokenizer = _frame(parts, msgspec.Raw(msgspec.json.encode(reduced)))
    _add_tokens(tokenizer, parts)
    beyond = [token.id for token in sorted(parts.added_tokens or [], key=lambda token: token.id)]
    return _Encoder(tokenizer, kept + [token for token in beyond if token >= len(model.vocab)])


def _frame(parts: _Json, model: msgspec.Raw = _NO_TOKENS) -> Tokenizer:
    """Return a tokenizer with another model and without the added tokens."""
    from tokenizers import Tokenizer

    frame = msgspec.structs.replace(parts, model=model, added_tokens=[])
    return Tokenizer.from_str(msgspec.json.encode(frame).decode("utf-8"))


def _add_tokens(tokenizer: Tokenizer, parts: _Json) -> None:
    from tokenizers import AddedToken

    flags = ("normalized", "lstrip", "rstrip", "single_word", "special")
    for token in sorted(parts.added_tokens or [], key=lambda token: token.id):
        named = {flag: getattr(token, flag) for flag in flags}
        tokenizer.add_tokens(  # pyright: ignore[reportUnknownMemberType]
            [AddedToken(token.content, **named)]
        )


@contextlib.contextmanager
def _translated(path: Path) -> Generator[None]:
    """Turn what the Rust library raises, which is `Exception` itself or a panic, into an error."""
    try:
        yield
    except LlmedgeError:
        raise
    except Exception as error:  # noqa: BLE001 - the library has no errors of its own
        raise _refused(path, str(error)) from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise _refused(path, str(error)) from None


def _refused(path: Path, why: str) -> IntegrityError:
    return IntegrityError(
        f"the tokenizers library refuses {path}: {why}",
        "download the checkpoint again, or save its tokenizer again with `save_pretrained`",
    )
