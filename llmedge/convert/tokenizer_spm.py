"""SentencePiece BPE with byte fallback: of Llama 2, Mistral, Gemma, Phi-3, Sarvam.

llama.cpp merges by the score of what a merge makes. tokenizer.model has these scores; where only
tokenizer.json is left they are rebuilt from the merges, which are sorted by them.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from llmedge.convert.sentencepiece_model import PieceType, SentencePieceModel, read_model
from llmedge.convert.special_tokens import find_special_tokens
from llmedge.convert.token_table import TokenKind, TokenTable
from llmedge.convert.tokenizer_bpe import (
    MERGES,
    encode_merges,
    require_plain_words,
)
from llmedge.convert.tokenizer_draft import Checkpoint, Choice, Difference, Draft
from llmedge.convert.tokenizer_files import (
    BpeModel,
    TokenizerJson,
    broken,
    iterate_merges,
)
from llmedge.gguf.writer import encode_metadata

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


SCORES = "scores"
RANKS = "ranks"
_KEY = "tokenizer.ggml.scores"
SPACE = "▁"
MODEL_FILE = "tokenizer.model"
_REBUILT = "tokenizer.model is missing: scores are rebuilt from the order of the merges"
# Below every score: a token that no merge makes.
_UNREACHABLE = -1e6
# Gemma 4's chat format reads these from the output, so they must be written out.
# Source: conversion/gemma.py of llama.cpp.
_VISIBLE = frozenset(
    [
        "<|channel>",
        "<channel|>",
        "<|tool_call>",
        "<tool_call|>",
        "<|tool_response>",
        "<tool_response|>",
        '<|"|>',
    ]
)


def draft_spm(checkpoint: Checkpoint, tokenizer: TokenizerJson, model: BpeModel) -> Draft:
    """Draft a BPE tokenizer with byte fallback.

    Raises:
        IntegrityError: Ids, tokens or merges contradict each other.
    """
    path, n_rows, configs = checkpoint.path, checkpoint.n_rows, checkpoint.configs
    require_plain_words(path, model)
    table = TokenTable(n_rows, path)
    table.place_all(model.vocab)
    _mark_kinds(table, model)
    model_file = configs.folder / MODEL_FILE
    pieces = read_model(model_file) if model_file.is_file() else None
    table.add(configs.added_tokens(tokenizer.added_tokens))
    if checkpoint.architecture == "gemma4":
        for token in table.find(_VISIBLE).values():
            table.kinds[token] = TokenKind.USER_DEFINED
    special = find_special_tokens(configs, table, tokenizer.post_processor, checkpoint.own)
    has_metaspace = any(step.type == "Metaspace" for step in tokenizer.pre_tokenizers())
    base, n_padding = table.finish(space=SPACE)
    parts = {
        RANKS: encode_metadata({_KEY: _ranks(path, model, n_rows)}),
        MERGES: encode_merges(iterate_merges(path, model.merges)),
    }
    if pieces:
        parts[SCORES] = encode_metadata({_KEY: _scores(pieces, model.vocab, n_rows)})
    choices = spm_choices(
        checkpoint.architecture, prefix=has_prefix(tokenizer), has_scores=SCORES in parts
    )
    by_score = next((choice for choice in choices if choice.model == "llama"), None)
    return Draft(
        "SentencePiece BPE with byte fallback",
        n_rows,
        n_padding,
        base,
        parts,
        choices,
        special,
        compat=by_score if choices[0] is by_score else None,
        differences=frozenset({Difference.ONE_SPACE} if has_metaspace else ()),
        notes=(*table.notes, *(() if pieces else (_REBUILT,))),
    )


def spm_choices(architecture: str, *, prefix: bool, has_scores: bool) -> tuple[Choice, ...]:
    """Return how llama.cpp may be told, best first.

    Its `llama` tokenizer is what every runtime knows. `sarvam-moe` merges by rank as tokenizer.json
    says, but knows no space before a text; `gemma4` is the same, for one architecture.
    """
    key = "tokenizer.ggml.add_space_prefix"
    if architecture == "gemma4":
        return (Choice("gemma4", "gemma4", "family", (RANKS, MERGES), {key: False}),)
    by_score = tuple(
        Choice("llama", "default", "family", (part,), {key: prefix})
        for part in ((SCORES, RANKS) if has_scores else (RANKS,))
    )
    by_merge = Choice("gpt2", "sarvam-moe", "family", (MERGES,), {key: False})
    if architecture == "bailingmoe2":
        return by_merge, *by_score
    return by_score if prefix else (*by_score, by_merge)


def byte_value(text: str) -> int | None:
    """Return the byte that a token like `<0x0A>` stands for."""
    if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
        try:
            return int(text[3:5], 16)
        except ValueError:
            return None
    return None


def _mark_kinds(table: TokenTable, model: BpeModel) -> None:
    for token, text in enumerate(table.texts):
        if text is not None and byte_value(text) is not None:
            table.kinds[token] = TokenKind.BYTE
    if model.unk_token in model.vocab:
        table.kinds[model.vocab[model.unk_token]] = TokenKind.UNKNOWN


def _ranks(path: Path, model: BpeModel, n_rows: int) -> array[float]:
    """Score each token by the first merge that makes it: the earlier, the higher."""
    scores = array("f", [_UNREACHABLE]) * n_rows
    for rank, (left, right) in enumerate(iterate_merges(path, model.merges)):
        token = model.vocab.get(left + right)
        if token is None:
            raise broken(path, f"the merge of {left!r} and {right!r} makes no token")
        if scores[token] == _UNREACHABLE:
            scores[token] = -rank
    return scores


def _scores(model: SentencePieceModel, vocab: Mapping[str, int], n_rows: int) -> array[float]:
    scores = array("f", [_UNREACHABLE]) * n_rows
    for piece in model.pieces:
        token = vocab.get(piece.text)
        if token is not None and piece.type != PieceType.UNUSED:
            scores[token] = piece.score
    return scores


def has_prefix(tokenizer: TokenizerJson) -> bool:
    """Whether a text is encoded as if a space were before it."""
    for step in tokenizer.normalizers():
        if step.type == "Prepend" and step.prepend == SPACE:
            return True
    for step in tokenizer.pre_tokenizers():
        if step.type == "Metaspace":
            if step.prepend_scheme is None:
                return step.add_prefix_space is not False
            return step.prepend_scheme != "never"
    return False
