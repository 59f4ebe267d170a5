"""Tekken: Mistral's tekken.json, byte-level BPE by rank with the special tokens in front.

A rank is all there is: two neighbours merge when what they make has the lowest rank. As merges
that is every way to halve a token, sorted by the token's rank.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

import msgspec

from llmedge.convert.pre_tokenizer import SEARCH_ORDER, canonical_pattern, match_steps
from llmedge.convert.special_tokens import OwnTokens, find_special_tokens
from llmedge.convert.token_table import TokenKind, TokenTable
from llmedge.convert.tokenizer_bpe import (
    MERGES,
    byte_level_choice,
    compat_choice,
    encode_merges,
)
from llmedge.convert.tokenizer_draft import Checkpoint, Draft
from llmedge.convert.tokenizer_files import broken, decode, read_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


# What files of before November 2024 leave to the library.
# Source: mistral_common/tokens/tokenizers/tekken.py.
_FIRST_SPECIAL = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
]
_ROLES = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>"}


class _Config(msgspec.Struct, frozen=True):
    pattern: str
    default_vocab_size: int
    default_num_special_tokens: int


class _Token(msgspec.Struct, frozen=True, gc=False):
    rank: int
    token_bytes: str


class _Special(msgspec.Struct, frozen=True):
    rank: int
    token_str: str
    is_control: bool = True


class _TekkenJson(msgspec.Struct, frozen=True):
    config: _Config
    vocab: list[_Token]
    special_tokens: list[_Special] | None = None


class Tekken:
    """A tekken.json.

    Args:
        path: The file.

    Attributes:
        ranks: Bytes of a token to its rank, which is its id without the special tokens.
        special: The special tokens, by id.
        pattern: The regular expression that cuts a text into words.

    Raises:
        IntegrityError: It is malformed or contradicts itself.
    """

    def __init__(self, path: Path) -> None:
        file = decode(path, read_bytes(path), _TekkenJson)
        config = file.config
        n_special, n_all = config.default_num_special_tokens, config.default_vocab_size
        if not 0 <= n_special <= n_all <= n_special + len(file.vocab):
            raise broken(
                path,
                f"{n_special} special tokens and {len(file.vocab)} others are no {n_all} tokens",
            )
        self.path = path
        self.pattern = config.pattern
        self.ranks = _ranks(path, file.vocab, n_all - n_special)
        self.special = _special(path, file.special_tokens, n_special)

    @staticmethod
    def halves(ranks: Mapping[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
        """Yield every way to halve each token into two tokens, by the token's rank."""
        for token in ranks:
            ways = [
                (ranks[token[:at]], ranks[token[at:]], at)
                for at in range(1, len(token))
                if token[:at] in ranks and token[at:] in ranks
            ]
            for _, _, at in sorted(ways):
                yield token[:at], token[at:]

    def encode_word(self, word: bytes) -> list[int]:
        """Merge a word by rank, as its own library does."""
        parts = [word[at : at + 1] for at in range(len(word))]
        while len(parts) > 1:
            pairs = [
                self.ranks.get(parts[at] + parts[at + 1], len(self.ranks))
                for at in range(len(parts) - 1)
            ]
            best = min(range(len(pairs)), key=pairs.__getitem__)
            if pairs[best] == len(self.ranks):
                break
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        return [self.ranks[part] + len(self.special) for part in parts]


def draft_tekken(checkpoint: Checkpoint) -> Draft:
    """Draft a Tekken tokenizer.

    Raises:
        IntegrityError: The file is malformed or contradicts itself.
    """
    path, n_rows, configs = checkpoint.path, checkpoint.n_rows, checkpoint.configs
    tekken = Tekken(path)
    table = TokenTable(n_rows, path)
    for token, (text, is_control) in enumerate(tekken.special):
        kind = TokenKind.CONTROL if is_control else TokenKind.USER_DEFINED
        table.place(token, text, kind)
    spelling = letters()

    def spell(data: bytes) -> str:
        return "".join(map(spelling.__getitem__, data))

    for rank, data in enumerate(tekken.ranks):
        table.place(rank + len(tekken.special), spell(data), TokenKind.NORMAL)
    special = find_special_tokens(configs, table, None, OwnTokens(_ROLES))
    base, n_padding = table.finish()

    merges = ((spell(left), spell(right)) for left, right in Tekken.halves(tekken.ranks))
    pre_type = match_steps((f"split {canonical_pattern(tekken.pattern)}",))
    return Draft(
        "Tekken",
        n_rows,
        n_padding,
        base,
        {MERGES: encode_merges(merges)},
        (byte_level_choice(pre_type.name, "content"),) if pre_type else (),
        special,
        compat=compat_choice(pre_type),
        pre_types=tuple(byte_level_choice(name, "search") for name in SEARCH_ORDER),
        notes=tuple(table.notes),
    )


def _ranks(path: Path, vocab: list[_Token], n_tokens: int) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for rank, token in enumerate(vocab[:n_tokens]):
        try:
            data = base64.b64decode(token.token_bytes, validate=True)
        except (binascii.Error, ValueError):
            raise broken(path, f"token {rank} is no base64: {token.token_bytes!r}") from None
        if token.rank != rank or not data or data in ranks:
            raise broken(path, f"token {rank} is empty, doubled or out of order: {data!r}")
        ranks[data] = rank
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise broken(path, f"it has no token for the byte {missing[0]}")
    return ranks


def _special(path: Path, tokens: list[_Special] | None, n_special: int) -> list[tuple[str, bool]]:
    filled = [(f"<SPECIAL_{token}>", True) for token in range(n_special)]
    if tokens is None:
        tokens = [_Special(token, text) for token, text in enumerate(_FIRST_SPECIAL)]
        tokens = tokens[:n_special]
    for token in tokens:
        if not 0 <= token.rank < n_special:
            raise broken(path, f"the special token {token.token_str!r} has rank {token.rank}")
        filled[token.rank] = (token.token_str, token.is_control)
    return filled


def letters() -> Mapping[int, str]:
    """Return how byte-level BPE writes each byte as a printable character.

    Source: openai/gpt-2 `src/encoder.py`.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {
        byte: chr(256 + at) for at, byte in enumerate(others)
    }
