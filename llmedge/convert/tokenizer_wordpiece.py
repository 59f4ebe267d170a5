"""WordPiece: of BERT and its descendants, longest match first.

llama.cpp marks what begins a word (with `▁`), WordPiece what does not (with `##`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.convert.special_tokens import find_special_tokens
from llmedge.convert.token_table import TokenKind, TokenTable
from llmedge.convert.tokenizer_draft import Checkpoint, Choice, Draft

if TYPE_CHECKING:
    from llmedge.convert.tokenizer_files import TokenizerJson, WordPieceModel
    from llmedge.gguf.writer import Value

_WORD_START = "▁"


def draft_wordpiece(
    checkpoint: Checkpoint, tokenizer: TokenizerJson, model: WordPieceModel
) -> Draft:
    """Draft a WordPiece tokenizer from its tokenizer.json.

    Raises:
        IntegrityError: Ids or tokens contradict each other.
    """
    path, n_rows, configs = checkpoint.path, checkpoint.n_rows, checkpoint.configs
    table = TokenTable(n_rows, path)
    table.place_all(model.vocab)
    if model.unk_token in model.vocab:
        table.kinds[model.vocab[model.unk_token]] = TokenKind.UNKNOWN
    table.add(configs.added_tokens(tokenizer.added_tokens))
    lowercase, strip_accents, notes = _normalizer(tokenizer)
    special = find_special_tokens(configs, table, tokenizer.post_processor, checkpoint.own)
    _mark_words(table, model.continuing_subword_prefix)
    base, n_padding = table.finish()
    values: dict[str, Value] = {
        "tokenizer.ggml.normalizer.lowercase": lowercase,
        "tokenizer.ggml.normalizer.strip_accents": strip_accents,
    }
    return Draft(
        "WordPiece",
        n_rows,
        n_padding,
        base,
        {},
        (Choice("bert", None, "family", (), values),),
        special,
        notes=(*table.notes, *notes),
    )


def _mark_words(table: TokenTable, prefix: str) -> None:
    for token, text in enumerate(table.texts):
        if text is None or table.kinds[token] not in (TokenKind.NORMAL, TokenKind.USER_DEFINED):
            continue
        is_part = bool(prefix) and text.startswith(prefix) and len(text) > len(prefix)
        table.texts[token] = text[len(prefix) :] if is_part else _WORD_START + text


def _normalizer(tokenizer: TokenizerJson) -> tuple[bool, bool, tuple[str, ...]]:
    lowercase = strip_accents = False
    notes: list[str] = []
    for step in tokenizer.normalizers():
        if step.type == "BertNormalizer":
            lowercase = step.lowercase
            strip_accents = step.lowercase if step.strip_accents is None else step.strip_accents
        elif step.type == "Lowercase":
            lowercase = True
        elif step.type == "StripAccents":
            strip_accents = True
        elif step.type != "NFD":
            notes.append(f"llama.cpp does not normalize a text by {step.type}")
    return lowercase, strip_accents, tuple(notes)
