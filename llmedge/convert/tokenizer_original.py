"""A checkpoint's own tokenizer, run by the `tokenizers` library in a process of its own."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from array import array
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from llmedge.convert.tokenizer_files import ModelType, decode, iterate_merges
from llmedge.convert.tokenizer_source import Source, find_source
from llmedge.convert.tokenizer_tekken import Tekken
from llmedge.core.errors import IntegrityError, LlmedgeError
from llmedge.host.child import Child, ChildDied

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tokenizers import Tokenizer

    from llmedge.host.child import Talk


# What would end a line of merges.txt, or a half of it.
_UNWRITABLE = re.compile(r"[ \n]")


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


def encode_original(folder: Path, texts: Sequence[str]) -> list[array[int]]:
    """Encode texts with a checkpoint's own tokenizer, without special tokens around them.

    Raises:
        IntegrityError: The `tokenizers` library refuses the file, or crashes on it.
    """
    with Child(_encode, folder, list(texts)) as child:
        try:
            return child.wait()
        except ChildDied as death:
            raise _refused(folder, f"it ends a process by {death.cause}") from None


def _encode(talk: Talk, folder: Path, texts: list[str]) -> list[array[int]]:
    """Run in the child."""
    del talk
    source = find_source(folder)
    if source.is_tekken:
        return _encode_tekken(source.path, texts)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with _translated(source.path):
        tokenizer = _load(source)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return [array("i", tokenizer.encode(text, add_special_tokens=False).ids) for text in texts]


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


def _load(source: Source) -> Tokenizer:
    from tokenizers import Tokenizer

    parts = decode(source.path, source.data, _Json)
    if decode(source.path, parts.model, ModelType).name == "BPE":
        with tempfile.TemporaryDirectory(prefix="llmedge-") as folder:
            bpe = _write_bpe(source.path, parts.model, Path(folder))
            if bpe is not None:
                return _assemble(parts, bpe, Path(folder))
    return Tokenizer.from_str(source.data.decode("utf-8"))


def _write_bpe(path: Path, model: msgspec.Raw, folder: Path) -> _Bpe | None:
    """Write a BPE model's two files; `None` where a merge does not fit on a line.

    Loaded from these, a large vocabulary takes a third of the memory.
    """
    bpe = decode(path, model, _Bpe)
    (folder / "vocab.json").write_bytes(memoryview(bpe.vocab))
    with (folder / "merges.txt").open("w", encoding="utf-8", newline="\r\n") as file:
        for left, right in iterate_merges(path, bpe.merges):
            if _UNWRITABLE.search(left + right) or left == "#version":
                return None
            file.write(f"{left} {right}\n")
    return msgspec.structs.replace(bpe, vocab=msgspec.Raw(b""), merges=msgspec.Raw(b""))


def _assemble(parts: _Json, bpe: _Bpe, folder: Path) -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import BPE

    frame = _Json(
        msgspec.Raw(b'{"type":"BPE","vocab":{},"merges":[]}'),
        [],
        msgspec.Raw(bytes(parts.normalizer)),
        msgspec.Raw(bytes(parts.pre_tokenizer)),
    )
    tokenizer = Tokenizer.from_str(msgspec.json.encode(frame).decode("utf-8"))
    added = parts.added_tokens or []
    tokenizer.model = BPE.from_file(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        unk_token=bpe.unk_token,
        fuse_unk=bpe.fuse_unk,
        byte_fallback=bpe.byte_fallback,
        ignore_merges=bpe.ignore_merges,
    )
    for token in sorted(added, key=lambda token: token.id):
        flags = {
            name: getattr(token, name) for name in ("normalized", "lstrip", "rstrip", "single_word")
        }
        tokenizer.add_tokens([AddedToken(token.content, special=token.special, **flags)])
    return tokenizer


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
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
