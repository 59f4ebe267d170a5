"""A checkpoint's tokenizer files, decoded into types: nothing else of them is kept in memory.

A vocabulary of 128 thousand tokens is 20 MB as JSON and 100 MB and more as plain Python objects;
decoded straight into these types it stays near the size of the file.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, TypeVar

import msgspec

from llmedge.core.errors import IntegrityError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DecodedT = TypeVar("DecodedT")

_MAX_TOKENIZER_BYTES = 128 << 20
_MAX_CONFIG_BYTES = 32 << 20
_HINT = "download the checkpoint again, or save its tokenizer again with `save_pretrained`"

# One merge: "a b", or since transformers 4.45 ["a", "b"]; what is between merges comes with it.
_TEXT = rb'"(?:[^"\\\x00-\x1f]|\\.)*"'
_MERGE = re.compile(rb"[\s,]*(?:(%b)|\[\s*(%b)\s*,\s*(%b)\s*\])" % (_TEXT, _TEXT, _TEXT))
_MERGES_END = re.compile(rb"\s*\]\s*")


class AddedToken(msgspec.Struct, frozen=True):
    """A token that is cut out of a text before everything else."""

    id: int
    content: str
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


class Pattern(msgspec.Struct, frozen=True):
    """What a step looks for: a text or a regular expression."""

    string: str | None = msgspec.field(default=None, name="String")
    regex: str | None = msgspec.field(default=None, name="Regex")


class Step(msgspec.Struct, frozen=True):
    """A step of a normalizer or of a pre-tokenizer, or a sequence of steps."""

    type: str
    normalizers: tuple[Step, ...] = ()
    pretokenizers: tuple[Step, ...] = ()
    pattern: Pattern | None = None
    behavior: str = ""
    invert: bool = False
    content: str = ""
    prepend: str = ""
    prepend_scheme: str | None = None
    add_prefix_space: bool | None = None
    individual_digits: bool = False
    use_regex: bool = True
    precompiled_charsmap: str | None = None
    lowercase: bool = True
    strip_accents: bool | None = None

    def flat(self) -> tuple[Step, ...]:
        """Return the steps in order, without the sequences around them."""
        if self.type != "Sequence":
            return (self,)
        return tuple(
            step for part in (*self.normalizers, *self.pretokenizers) for step in part.flat()
        )


class _Named(msgspec.Struct, frozen=True):
    id: str


class TemplatePiece(msgspec.Struct, frozen=True):
    """A piece of what a post-processor puts together: a special token, or the text."""

    special: _Named | None = msgspec.field(default=None, name="SpecialToken")
    sequence: _Named | None = msgspec.field(default=None, name="Sequence")


class PostProcessor(msgspec.Struct, frozen=True):
    """Puts special tokens around a text."""

    type: str
    processors: tuple[PostProcessor, ...] = ()
    single: tuple[TemplatePiece, ...] = ()
    cls: tuple[str, int] | None = None
    sep: tuple[str, int] | None = None


class TokenizerJson(msgspec.Struct, frozen=True):
    """tokenizer.json; the model stays JSON until its type is known."""

    model: msgspec.Raw
    added_tokens: tuple[AddedToken, ...] | None = None
    normalizer: Step | None = None
    pre_tokenizer: Step | None = None
    post_processor: PostProcessor | None = None

    def normalizers(self) -> tuple[Step, ...]:
        """Return the normalizer's steps."""
        return self.normalizer.flat() if self.normalizer else ()

    def pre_tokenizers(self) -> tuple[Step, ...]:
        """Return the pre-tokenizer's steps."""
        return self.pre_tokenizer.flat() if self.pre_tokenizer else ()


class ModelType(msgspec.Struct, frozen=True):
    """What kind of model; old files do not say."""

    type: str | None = None
    merges: msgspec.Raw = msgspec.Raw(b"")
    max_input_chars_per_word: int | None = None

    @property
    def name(self) -> str:
        """The type, where the file leaves it out by the fields that only one type has."""
        if self.type is not None:
            return self.type
        if memoryview(self.merges).nbytes:
            return "BPE"
        return "Unigram" if self.max_input_chars_per_word is None else "WordPiece"


class BpeModel(msgspec.Struct, frozen=True):
    """Byte pair encoding."""

    vocab: dict[str, int]
    merges: msgspec.Raw
    byte_fallback: bool = False
    ignore_merges: bool = False
    unk_token: str | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None


class UnigramModel(msgspec.Struct, frozen=True):
    """A unigram language model: pieces with scores."""

    vocab: list[tuple[str, float]]
    unk_id: int | None = None
    byte_fallback: bool = False


class WordPieceModel(msgspec.Struct, frozen=True):
    """Longest match first, with a mark on what does not begin a word."""

    vocab: dict[str, int]
    unk_token: str = "[UNK]"
    continuing_subword_prefix: str = "##"


class _Content(msgspec.Struct, frozen=True):
    content: str


class _NamedTemplate(msgspec.Struct, frozen=True):
    name: str
    template: str


class _DecoderEntry(msgspec.Struct, frozen=True):
    content: str
    special: bool = False


TokenName = str | _Content | None
Ids = int | list[int] | None


class TokenizerConfig(msgspec.Struct, frozen=True):
    """tokenizer_config.json and special_tokens_map.json."""

    bos_token: TokenName = None
    eos_token: TokenName = None
    unk_token: TokenName = None
    sep_token: TokenName = None
    pad_token: TokenName = None
    cls_token: TokenName = None
    mask_token: TokenName = None
    add_bos_token: bool | None = None
    add_eos_token: bool | None = None
    do_lower_case: bool | None = None
    strip_accents: bool | None = None
    chat_template: str | list[_NamedTemplate] | None = None
    added_tokens_decoder: dict[str, _DecoderEntry] | None = None

    def name(self, role: str) -> str | None:
        """Return the text of the token with a role, such as `bos`."""
        value: TokenName = getattr(self, f"{role}_token")
        return value.content if isinstance(value, _Content) else value


class _TextConfig(msgspec.Struct, frozen=True):
    bos_token_id: Ids = None
    eos_token_id: Ids = None
    pad_token_id: Ids = None


class ModelConfig(_TextConfig, frozen=True):
    """What generation_config.json and config.json say about tokens."""

    text_config: _TextConfig | None = None

    def ids(self, role: str) -> tuple[int, ...]:
        """Return the ids with a role, first the one that counts."""
        for config in (self, self.text_config):
            value: Ids = getattr(config, f"{role}_token_id", None)
            if isinstance(value, int):
                return (value,)
            if value:
                return tuple(value)
        return ()


def read_tokenizer_json(path: Path) -> TokenizerJson:
    """Read a tokenizer.json.

    Raises:
        IntegrityError: It is not one.
    """
    return decode(path, read_bytes(path, _MAX_TOKENIZER_BYTES), TokenizerJson)


def read_config(path: Path, kind: type[DecodedT]) -> DecodedT | None:
    """Read one of the small configuration files; `None` where it is missing.

    Raises:
        IntegrityError: It is no JSON, or a field has a type that it cannot have.
    """
    if not path.is_file():
        return None
    data = read_bytes(path, _MAX_CONFIG_BYTES)
    try:
        # Python's own decoder: some configurations hold `Infinity`, which JSON does not know.
        return msgspec.convert(json.loads(data), kind)
    except (ValueError, RecursionError) as error:
        raise _broken(path, error) from None


def decode(path: Path, data: bytes | msgspec.Raw, kind: type[DecodedT]) -> DecodedT:
    """Decode JSON.

    Raises:
        IntegrityError: It is no JSON, or a field has a type that it cannot have.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (ValueError, RecursionError) as error:
        raise _broken(path, error) from None


def read_bytes(path: Path, max_bytes: int = _MAX_TOKENIZER_BYTES) -> bytes:
    """Read a file that is not unreasonably large.

    Raises:
        NotFoundError: It is missing or cannot be read.
        IntegrityError: It is larger than any such file.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise IntegrityError(f"{path} has {size} bytes, more than any such file", _HINT)
        return path.read_bytes()
    except OSError as error:
        raise NotFoundError(f"{path} cannot be read: {error.strerror}", _HINT) from None


def iterate_merges(path: Path, merges: msgspec.Raw) -> Iterator[tuple[str, str]]:
    """Yield the pairs of a BPE model's merges without holding them all.

    Raises:
        IntegrityError: They are not a list of pairs.
    """
    data = memoryview(merges)
    at = 1
    if bytes(data[:1]) != b"[":
        raise _broken(path, "the merges are no list")
    while match := _MERGE.match(data, at):
        at = match.end()
        joined, left, right = match.groups()
        if joined is None:
            yield _text(path, left), _text(path, right)
            continue
        first, _, second = _text(path, joined).partition(" ")
        if not first or not second or " " in second:
            raise _broken(path, f"the merge {joined.decode('utf-8', 'replace')} is no pair")
        yield first, second
    if not _MERGES_END.fullmatch(data, at):
        raise _broken(path, f"merge {bytes(data[at : at + 40])!r} is no pair")


def broken(path: Path, what: str) -> IntegrityError:
    """Build the error for a tokenizer file that contradicts itself."""
    return _broken(path, what)


def _text(path: Path, quoted: bytes) -> str:
    if b"\\" not in quoted:
        return quoted[1:-1].decode()
    return decode(path, quoted, str)


def _broken(path: Path, what: object) -> IntegrityError:
    return IntegrityError(f"{path} is not what it should be: {what}", _HINT)
