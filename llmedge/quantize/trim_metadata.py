"""The metadata of a trimmed model: lists cut, ids moved, nothing left that is not known."""

from __future__ import annotations

import re
from array import array
from typing import TYPE_CHECKING

from llmedge.core.errors import UnsupportedError
from llmedge.gguf.reader import Array
from llmedge.gguf.writer import Metadata, StringList, encode_metadata
from llmedge.quantize.trim_vocabulary import KINDS, MERGES, SCORES, TOKENS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmedge.gguf.entries import Entries
    from llmedge.gguf.reader import Header
    from llmedge.gguf.writer import Value
    from llmedge.quantize.trim_keep import Selection
    from llmedge.quantize.trim_vocabulary import Vocabulary

_LISTS = (TOKENS, KINDS, SCORES, MERGES)
_ID = re.compile(r"tokenizer\.ggml\.\w+_token_id")
_IDS = re.compile(r"tokenizer\.ggml\.(\w+_token_ids|suppress_tokens)")
_PLAIN = ("tokenizer.ggml.token_type_count", "tokenizer.chat_templates")
# The whole tokenizer.json, with the old ids; llama.cpp does not read it. And the alignment, which
# is the writer's own.
_LEFT_OUT = ("tokenizer.huggingface.json", "general.alignment")


def require_known_metadata(header: Header, n_vocab: int) -> None:
    """Make sure that everything in the metadata that depends on the vocabulary is known.

    Raises:
        UnsupportedError: A key may hold ids, or one item a token, and is not known.
    """
    for key, value in header.metadata.items():
        if key in _LISTS or key in _PLAIN or key in _LEFT_OUT or key == _size_key(header):
            continue
        if isinstance(value, Array):
            is_known = bool(_IDS.fullmatch(key)) and value.type_name == "i32"
            is_suspect = value.length == n_vocab or key.startswith("tokenizer.ggml.")
        else:
            is_known = bool(_ID.fullmatch(key))
            is_number = isinstance(value, int) and not isinstance(value, bool)
            is_suspect = is_number and key.startswith("tokenizer.")
        if not is_known and (is_suspect or "token_id" in key or "vocab" in key):
            raise UnsupportedError(
                f"{header.path.name} has the metadata {key}, which may depend on the vocabulary "
                "and is not known",
                "leave this model's vocabulary whole",
            )


def trimmed_metadata(
    header: Header,
    entries: Entries,
    vocabulary: Vocabulary,
    selection: Selection,
    added: Mapping[str, Value],
) -> Metadata:
    """Return the metadata of the trimmed model; keys keep their order, new ones follow.

    Args:
        header: The original's, with metadata that is known.
        entries: The original's metadata.
        vocabulary: The original's.
        selection: What stays of it.
        added: Keys that are new, or have new values; ids among them are new ids.
    """
    new_ids = selection.new_ids()
    changed: dict[str, Value | None] = dict.fromkeys(_LEFT_OUT)
    for key, value in header.metadata.items():
        if _ID.fullmatch(key) and isinstance(value, int):
            # llama.cpp takes an id out of range for no id at all.
            changed[key] = new_ids[value] if 0 <= value < len(new_ids) else None
        elif _IDS.fullmatch(key):
            ids = entries.numbers(key) or ()
            moved = (new_ids[int(old)] for old in ids if 0 <= old < len(new_ids))
            changed[key] = array("i", (new for new in moved if new >= 0))
    changed |= _cut_lists(vocabulary, selection)
    if _size_key(header) in entries:
        changed[_size_key(header)] = len(selection.kept)
    changed |= added
    parts: list[Metadata] = []
    for key in (*entries, *(key for key in changed if key not in entries)):
        value = changed.get(key)
        if value is not None:
            parts.append(encode_metadata({key: value}))
        elif key not in changed:
            parts.append(entries.raw(key))
    return Metadata(sum(part.n_keys for part in parts), b"".join(part.data for part in parts))


def named_ids(header: Header, entries: Entries) -> set[int]:
    """Return the ids that the metadata names, but for those of a list of suppressed tokens."""
    found: set[int] = set()
    for key, value in header.metadata.items():
        if _ID.fullmatch(key) and isinstance(value, int):
            found.add(value)
        elif _IDS.fullmatch(key) and not key.endswith("suppress_tokens"):
            found.update(int(item) for item in entries.numbers(key) or ())
    return found


def _cut_lists(vocabulary: Vocabulary, selection: Selection) -> dict[str, Value | None]:
    tokens, kept = StringList(), selection.kept
    for token in kept:
        tokens.append(vocabulary.tokens[token])
    lists: dict[str, Value | None] = {
        TOKENS: tokens,
        KINDS: array("i", (vocabulary.kinds[token] for token in kept)),
    }
    if vocabulary.scores is not None:
        scores = vocabulary.scores
        lists[SCORES] = array(scores.typecode, (scores[token] for token in kept))
    if vocabulary.merges is not None:
        merges = StringList()
        for line in vocabulary.merges.among(selection.is_kept):
            merges.append(line)
        lists[MERGES] = merges
    return lists


def _size_key(header: Header) -> str:
    return f"{header.architecture}.vocab_size"
