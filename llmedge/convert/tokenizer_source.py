"""Finds a checkpoint's tokenizer; whatever is no tokenizer.json is written as one.

So every family has one reader, and the `tokenizers` library can encode with any of them.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from llmedge.convert.sentencepiece_model import Piece, PieceType, SentencePieceModel, read_model
from llmedge.convert.special_tokens import OwnTokens
from llmedge.convert.tokenizer_files import (
    TokenizerConfig,
    broken,
    decode,
    read_bytes,
    read_config,
)
from llmedge.core.errors import NotFoundError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

TEKKEN_FILE = "tekken.json"
_SPACE = "▁"
# Patterns of the classes whose vocab.json and merges.txt do not say how a text is cut.
# Source: transformers `models/*/tokenization_*.py`.
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT2_CLASSES = frozenset({None, "GPT2Tokenizer", "GPT2TokenizerFast"})
_QWEN2_CLASSES = frozenset({"Qwen2Tokenizer", "Qwen2TokenizerFast"})
# fairseq's order, in front of SentencePiece's own pieces from the fourth on.
# Source: transformers `models/xlm_roberta/tokenization_xlm_roberta.py`.
_FAIRSEQ = (
    Piece("<s>", 0.0, PieceType.CONTROL),
    Piece("<pad>", 0.0, PieceType.CONTROL),
    Piece("</s>", 0.0, PieceType.CONTROL),
    Piece("<unk>", 0.0, PieceType.UNKNOWN),
)


@dataclass(frozen=True, slots=True)
class Source:
    """A tokenizer as JSON.

    Attributes:
        path: The file it comes from.
        data: The text of a tokenizer.json; empty for a tekken.json.
        own: The special tokens that the file itself knows.
    """

    path: Path
    data: bytes
    own: OwnTokens | None = None

    @property
    def is_tekken(self) -> bool:
        """Whether it is a tekken.json."""
        return not self.data


def find_source(folder: Path) -> Source:
    """Find a checkpoint's tokenizer, the most complete description first.

    Raises:
        NotFoundError: There is none.
        IntegrityError: It is malformed.
        UnsupportedError: It is of a kind that cannot be told from its files.
    """
    readers: dict[str, Callable[[Path], Source]] = {
        "tokenizer.json": lambda path: Source(path, read_bytes(path)),
        TEKKEN_FILE: lambda path: Source(path, b""),
        "tokenizer.model": _from_sentencepiece,
        "sentencepiece.bpe.model": _from_sentencepiece,
        "vocab.json": _from_vocab_and_merges,
        "vocab.txt": _from_word_list,
    }
    for name, read in readers.items():
        if (folder / name).is_file():
            return read(folder / name)
    raise NotFoundError(
        f"{folder} has no tokenizer ({', '.join(readers)})",
        "download the checkpoint's tokenizer files, too",
    )


def _from_sentencepiece(path: Path) -> Source:
    model = read_model(path)
    is_fairseq = path.name == "sentencepiece.bpe.model"
    if is_fairseq:
        model.pieces = [*_FAIRSEQ, *model.pieces[3:], Piece("<mask>", 0.0, PieceType.CONTROL)]
        model.ids = {"bos": 0, "pad": 1, "eos": 2, "unk": 3}
    own = OwnTokens(model.names(), adds_bos="bos" in model.names(), adds_eos=is_fairseq)
    added = [
        _added(token, piece.text, special=piece.type != PieceType.USER_DEFINED)
        for token, piece in enumerate(model.pieces)
        if piece.type in (PieceType.CONTROL, PieceType.USER_DEFINED, PieceType.UNKNOWN)
    ]
    unigram = _unigram(model) if model.is_unigram else None
    value = {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": _normalizer(model),
        "pre_tokenizer": _metaspace(model) if model.is_unigram else None,
        "model": unigram or _bpe(path, model),
    }
    return Source(path, msgspec.json.encode(value), own)


def _normalizer(model: SentencePieceModel) -> dict[str, object]:
    steps: list[dict[str, object]] = []
    if model.charsmap:
        charsmap = base64.b64encode(model.charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if model.merges_spaces:
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if not model.is_unigram:
        if model.adds_prefix:
            steps.append({"type": "Prepend", "prepend": _SPACE})
        steps.append({"type": "Replace", "pattern": {"String": " "}, "content": _SPACE})
    return {"type": "Sequence", "normalizers": steps}


def _metaspace(model: SentencePieceModel) -> dict[str, object]:
    metaspace = {
        "type": "Metaspace",
        "replacement": _SPACE,
        "prepend_scheme": "always" if model.adds_prefix else "never",
        "split": True,
    }
    steps = [{"type": "WhitespaceSplit"}] if model.merges_spaces else []
    return {"type": "Sequence", "pretokenizers": [*steps, metaspace]}


def _unigram(model: SentencePieceModel) -> dict[str, object]:
    return {
        "type": "Unigram",
        "unk_id": model.ids.get("unk"),
        "vocab": [(piece.text, piece.score) for piece in model.pieces],
        "byte_fallback": model.has_byte_fallback,
    }


def _bpe(path: Path, model: SentencePieceModel) -> dict[str, object]:
    vocab = {piece.text: token for token, piece in enumerate(model.pieces)}
    if len(vocab) != len(model.pieces):
        raise broken(path, "two pieces have the same text")
    return {
        "type": "BPE",
        "unk_token": model.names().get("unk"),
        "fuse_unk": True,
        "byte_fallback": model.has_byte_fallback,
        "vocab": vocab,
        "merges": list(_merges(model, vocab)),
    }


def _merges(model: SentencePieceModel, vocab: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Yield every way to halve a piece into two pieces, by the piece's score."""
    pieces = [piece for piece in model.pieces if piece.type == PieceType.NORMAL]
    for piece in sorted(pieces, key=lambda piece: -piece.score):
        text = piece.text
        halves = [
            (vocab[text[:at]], vocab[text[at:]], at)
            for at in range(1, len(text))
            if text[:at] in vocab and text[at:] in vocab
        ]
        for _, _, at in sorted(halves):
            yield text[:at], text[at:]


def _from_vocab_and_merges(path: Path) -> Source:
    merges_file = path.with_name("merges.txt")
    if not merges_file.is_file():
        raise NotFoundError(
            f"{merges_file} is missing", "download the checkpoint's merges.txt, too"
        )
    name = _class_name(path.parent)
    if name not in _GPT2_CLASSES | _QWEN2_CLASSES:
        raise UnsupportedError(
            f"{path.parent} has no tokenizer.json, and how a {name} cuts a text is not known",
            "save the tokenizer as tokenizer.json with `save_pretrained`",
        )
    byte_level: dict[str, object] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": name in _GPT2_CLASSES,
    }
    split = {
        "type": "Split",
        "pattern": {"Regex": _QWEN2},
        "behavior": "Isolated",
        "invert": False,
    }
    steps = [byte_level] if name in _GPT2_CLASSES else [split, byte_level]
    lines = _lines(merges_file)
    value = {
        "version": "1.0",
        "normalizer": {"type": "NFC"} if name in _QWEN2_CLASSES else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "model": {
            "type": "BPE",
            "vocab": decode(path, read_bytes(path), dict[str, int]),
            "merges": [line for line in lines if line and not line.startswith("#version")],
        },
    }
    return Source(path, msgspec.json.encode(value))


def _from_word_list(path: Path) -> Source:
    config = read_config(path.with_name("tokenizer_config.json"), TokenizerConfig)
    config = config or TokenizerConfig()
    vocab = {text: token for token, text in enumerate(_lines(path))}
    names = {"cls": "[CLS]", "sep": "[SEP]", "unk": "[UNK]", "pad": "[PAD]", "mask": "[MASK]"}
    names = {role: text for role, text in names.items() if text in vocab}
    lowercase = config.do_lower_case is not False
    value = {
        "version": "1.0",
        "added_tokens": [_added(vocab[text], text) for text in names.values()],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": config.strip_accents,
            "lowercase": lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {
            "type": "WordPiece",
            "unk_token": names.get("unk", "[UNK]"),
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    }
    return Source(
        path,
        msgspec.json.encode(value),
        OwnTokens(names, adds_bos="cls" in names, adds_eos="sep" in names),
    )


def _added(token: int, text: str, *, special: bool = True) -> dict[str, object]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": text, "special": special, **flags}


def _lines(path: Path) -> list[str]:
    try:
        lines = read_bytes(path).decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise broken(path, f"it is not UTF-8: {error.reason}") from None
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


class _ClassName(msgspec.Struct, frozen=True):
    tokenizer_class: str | None = None


def _class_name(folder: Path) -> str | None:
    config = read_config(folder / "tokenizer_config.json", _ClassName)
    return config.tokenizer_class if config else None
