"""Reads a checkpoint's tokenizer of any family into a draft, in a process of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.convert.in_child import run_in_child
from llmedge.convert.special_tokens import Configs
from llmedge.convert.tokenizer_bpe import draft_byte_level, is_byte_level
from llmedge.convert.tokenizer_draft import Checkpoint, Draft
from llmedge.convert.tokenizer_files import (
    BpeModel,
    ModelType,
    TokenizerJson,
    UnigramModel,
    WordPieceModel,
    decode,
)
from llmedge.convert.tokenizer_source import find_source
from llmedge.convert.tokenizer_spm import draft_spm
from llmedge.convert.tokenizer_tekken import draft_tekken
from llmedge.convert.tokenizer_unigram import draft_unigram
from llmedge.convert.tokenizer_wordpiece import draft_wordpiece
from llmedge.core.errors import UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

    from llmedge.host.child import Talk

_HINT = "use a model of another family"


def read_draft(folder: Path, n_rows: int, architecture: str) -> Draft:
    """Read a checkpoint's tokenizer.

    Args:
        folder: The checkpoint.
        n_rows: Rows of the embedding.
        architecture: llama.cpp's name of the architecture.

    Raises:
        NotFoundError: There is no tokenizer.
        IntegrityError: A file is malformed or contradicts itself.
        UnsupportedError: It is of a kind that llama.cpp does not know, or has more tokens than the
            embedding has rows.
    """
    return run_in_child(f"reading the tokenizer of {folder}", _read, folder, n_rows, architecture)


def draft_tokenizer(folder: Path, n_rows: int, architecture: str) -> Draft:
    """Do what `read_draft` does, in this process."""
    source = find_source(folder)
    checkpoint = Checkpoint(source.path, n_rows, architecture, Configs.read(folder), source.own)
    if source.is_tekken:
        return draft_tekken(checkpoint)
    tokenizer = decode(source.path, source.data, TokenizerJson)
    kind = decode(source.path, tokenizer.model, ModelType).name
    if kind == "BPE":
        return _draft_bpe(checkpoint, tokenizer)
    if kind == "Unigram":
        return draft_unigram(
            checkpoint, tokenizer, decode(source.path, tokenizer.model, UnigramModel)
        )
    if kind == "WordPiece":
        return draft_wordpiece(
            checkpoint, tokenizer, decode(source.path, tokenizer.model, WordPieceModel)
        )
    raise UnsupportedError(
        f"{source.path} holds a {kind} tokenizer, which llama.cpp does not know", _HINT
    )


def _read(talk: Talk, folder: Path, n_rows: int, architecture: str) -> Draft:
    del talk
    return draft_tokenizer(folder, n_rows, architecture)


def _draft_bpe(checkpoint: Checkpoint, tokenizer: TokenizerJson) -> Draft:
    model = decode(checkpoint.path, tokenizer.model, BpeModel)
    if is_byte_level(tokenizer):
        return draft_byte_level(checkpoint, tokenizer, model)
    if model.byte_fallback:
        return draft_spm(checkpoint, tokenizer, model)
    raise UnsupportedError(
        f"{checkpoint.path} holds a BPE tokenizer that is neither byte-level nor falls back to "
        "bytes, which llama.cpp does not know",
        _HINT,
    )
