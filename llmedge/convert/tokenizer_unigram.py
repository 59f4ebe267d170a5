"""Unigram with a compiled normalizer: of XLM-RoBERTa, BGE-M3, multilingual E5, T5."""

from __future__ import annotations

import base64
import binascii
from array import array
from typing import TYPE_CHECKING

from llmedge.convert.special_tokens import find_special_tokens
from llmedge.convert.token_table import TokenKind, TokenTable
from llmedge.convert.tokenizer_draft import Checkpoint, Choice, Difference, Draft
from llmedge.convert.tokenizer_files import Step, TokenizerJson, UnigramModel, broken
from llmedge.convert.tokenizer_spm import SCORES, SPACE, byte_value, has_prefix
from llmedge.gguf.writer import Metadata, Value, encode_metadata

if TYPE_CHECKING:
    from pathlib import Path


CHARSMAP = "charsmap"


def draft_unigram(checkpoint: Checkpoint, tokenizer: TokenizerJson, model: UnigramModel) -> Draft:
    """Draft a unigram tokenizer.

    Raises:
        IntegrityError: Ids or tokens contradict each other, or its normalizer is no base64.
    """
    path, n_rows, configs = checkpoint.path, checkpoint.n_rows, checkpoint.configs
    table = TokenTable(n_rows, path)
    scores = array("f", [0.0]) * n_rows
    for token, (text, score) in enumerate(model.vocab):
        is_byte = model.byte_fallback and byte_value(text) is not None
        table.place(token, text, TokenKind.BYTE if is_byte else TokenKind.NORMAL)
        scores[token] = score
    if model.unk_id is not None:
        if not 0 <= model.unk_id < len(model.vocab):
            raise broken(path, f"its unknown token has the id {model.unk_id}")
        table.kinds[model.unk_id] = TokenKind.UNKNOWN
    table.add(configs.added_tokens(tokenizer.added_tokens))
    special = find_special_tokens(configs, table, tokenizer.post_processor, checkpoint.own)
    base, n_padding = table.finish(space=SPACE)
    charsmap, notes = _charsmap(path, tokenizer.normalizers())
    return Draft(
        "Unigram",
        n_rows,
        n_padding,
        base,
        _parts(scores, charsmap),
        _choices(
            prefix=has_prefix(tokenizer),
            merges_spaces=_merges_spaces(tokenizer),
            has_bytes=model.byte_fallback,
        ),
        special,
        differences=frozenset({Difference.CLUSTERS} if charsmap else ()),
        notes=(*table.notes, *notes),
    )


def _merges_spaces(tokenizer: TokenizerJson) -> bool:
    if any(step.type == "WhitespaceSplit" for step in tokenizer.pre_tokenizers()):
        return True
    return any(
        step.type == "Replace" and step.pattern is not None and step.pattern.regex == " {2,}"
        for step in tokenizer.normalizers()
    )


def _choices(*, prefix: bool, merges_spaces: bool, has_bytes: bool) -> tuple[Choice, ...]:
    values: dict[str, Value] = {
        "tokenizer.ggml.add_space_prefix": prefix,
        "tokenizer.ggml.remove_extra_whitespaces": merges_spaces,
    }
    best_path = Choice("t5", "default", "family", (SCORES, CHARSMAP), values)
    # llama.cpp's unigram tokenizer knows no bytes, its tokenizer with bytes no best path.
    with_bytes = Choice("llama", "default", "family", (SCORES,), values)
    return (best_path, with_bytes) if has_bytes else (best_path,)


def _charsmap(path: Path, steps: tuple[Step, ...]) -> tuple[bytes, tuple[str, ...]]:
    encoded = next((step.precompiled_charsmap for step in steps if step.precompiled_charsmap), "")
    known = ("Precompiled", "Replace", "Strip")
    notes = tuple(
        f"llama.cpp does not normalize a text by {step.type}"
        for step in steps
        if step.type not in known
    )
    try:
        return base64.b64decode(encoded, validate=True), notes
    except (binascii.Error, ValueError):
        raise broken(path, "its precompiled_charsmap is no base64") from None


def _parts(scores: array[float], charsmap: bytes) -> dict[str, Metadata]:
    values: dict[str, Value] = {}
    if charsmap:
        values["tokenizer.ggml.precompiled_charsmap"] = array("B", charsmap)
    return {
        SCORES: encode_metadata({"tokenizer.ggml.scores": scores}),
        CHARSMAP: encode_metadata(values),
    }
