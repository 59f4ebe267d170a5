"""Byte-level BPE: GPT-2's kind, of Llama 3, Qwen, DeepSeek, GPT-OSS and most others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.convert.pre_tokenizer import SEARCH_ORDER, PreType, find_pre_type
from llmedge.convert.special_tokens import find_special_tokens
from llmedge.convert.token_table import TokenTable
from llmedge.convert.tokenizer_draft import Checkpoint, Choice, Difference, Draft
from llmedge.convert.tokenizer_files import BpeModel, TokenizerJson, iterate_merges
from llmedge.core.errors import UnsupportedError
from llmedge.gguf.writer import Metadata, StringList, encode_metadata

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from llmedge.convert.tokenizer_files import Step

MERGES = "merges"
# A space inside a merge would end its first half. No text is cut so that such a merge applies.
_SPACE, _NO_SPACE = " ", "Ġ"
# These split nothing that llama.cpp would have to normalize the same way.
_NEUTRAL_NORMALIZERS = frozenset({"NFC", "ByteLevel"})


def is_byte_level(tokenizer: TokenizerJson) -> bool:
    """Whether a BPE tokenizer turns every byte into a character before it merges."""
    steps = (*tokenizer.normalizers(), *tokenizer.pre_tokenizers())
    return any(step.type == "ByteLevel" for step in steps)


def draft_byte_level(checkpoint: Checkpoint, tokenizer: TokenizerJson, model: BpeModel) -> Draft:
    """Draft a byte-level BPE tokenizer.

    Raises:
        IntegrityError: Ids, tokens or merges contradict each other.
        UnsupportedError: It marks the ends of words, which llama.cpp does not know.
    """
    path, n_rows, configs = checkpoint.path, checkpoint.n_rows, checkpoint.configs
    require_plain_words(path, model)
    table = TokenTable(n_rows, path)
    table.place_all(model.vocab)
    table.add(configs.added_tokens(tokenizer.added_tokens))
    special = find_special_tokens(configs, table, tokenizer.post_processor, checkpoint.own)
    base, n_padding = table.finish()
    composes = any(step.type == "NFC" for step in tokenizer.normalizers())
    pre_type = find_pre_type(tokenizer, ignore_merges=model.ignore_merges)
    return Draft(
        "byte-level BPE",
        n_rows,
        n_padding,
        base,
        {MERGES: encode_merges(iterate_merges(path, model.merges))},
        (byte_level_choice(pre_type.name, "content"),) if pre_type else (),
        special,
        compat=compat_choice(pre_type),
        pre_types=tuple(byte_level_choice(name, "search") for name in SEARCH_ORDER),
        differences=frozenset({Difference.NFC} if composes else ()),
        notes=(*table.notes, *_notes(tokenizer.normalizers())),
    )


def byte_level_choice(pre: str, pre_from: str) -> Choice:
    """Return the choice for a pre-tokenizer."""
    return Choice("gpt2", pre, pre_from, (MERGES,))


def compat_choice(pre_type: PreType | None) -> Choice | None:
    """Return the choice for runtimes that do not know the right pre-tokenizer."""
    if pre_type is None or pre_type.compat is None:
        return None
    return byte_level_choice(pre_type.compat, "compat")


def encode_merges(pairs: Iterable[tuple[str, str]]) -> Metadata:
    """Encode merges as llama.cpp reads them: the two halves with a space between."""
    strings = StringList()
    for left, right in pairs:
        left, right = left.replace(_SPACE, _NO_SPACE), right.replace(_SPACE, _NO_SPACE)
        strings.append(f"{left} {right}")
    return encode_metadata({"tokenizer.ggml.merges": strings})


def require_plain_words(path: Path, model: BpeModel) -> None:
    """Refuse a BPE model that writes the parts of a word differently from whole words."""
    mark = model.continuing_subword_prefix or model.end_of_word_suffix
    if mark:
        raise UnsupportedError(
            f"{path} marks parts of words with {mark!r}, which no tokenizer of llama.cpp does"
        )


def _notes(normalizers: tuple[Step, ...]) -> tuple[str, ...]:
    others = [step.type for step in normalizers if step.type not in _NEUTRAL_NORMALIZERS]
    return tuple(f"llama.cpp does not normalize a text by {name}" for name in others)
