"""Which tokens begin and end a text or a turn, from the four places where checkpoints say it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.convert.token_table import TokenKind, TokenTable
from llmedge.convert.tokenizer_files import (
    AddedToken,
    ModelConfig,
    PostProcessor,
    TokenizerConfig,
    read_config,
)
from llmedge.core.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from llmedge.gguf.writer import Value

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
# Source: src/llama-arch.cpp, with its spelling of "seperator".
_KEYS = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "eot": "eot_token_id",
    "eom": "eom_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",
    "pad": "padding_token_id",
    "cls": "cls_token_id",
    "mask": "mask_token_id",
}
# Texts that llama.cpp takes for an end without being told. Source: src/llama-vocab.cpp.
_KNOWN_ENDS = frozenset(
    [
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<|flush|>",
        "<|calls|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "</s>",
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<|end_of_text|>",
        "<end_of_utterance>",
        "<eos>",
        "<turn|>",
        "<|tool_response>",
        "<｜end▁of▁sentence｜>",
        "[e~[",
    ]
)


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The special tokens of a vocabulary.

    Attributes:
        ids: Role to id.
        adds_bos: Whether a text begins with `bos`.
        adds_eos: Whether a text ends with `eos`.
        bos: Text of `bos`, "" without one.
        eos: Text of `eos`, "" without one.
        notes: What could not be carried over.
    """

    ids: Mapping[str, int]
    adds_bos: bool
    adds_eos: bool
    bos: str = ""
    eos: str = ""
    notes: tuple[str, ...] = ()

    def values(self) -> dict[str, Value]:
        """Return the keys to write."""
        keys: dict[str, Value] = {
            f"tokenizer.ggml.{_KEYS[role]}": token for role, token in self.ids.items()
        }
        keys["tokenizer.ggml.add_bos_token"] = self.adds_bos
        keys["tokenizer.ggml.add_eos_token"] = self.adds_eos
        return keys


@dataclass(frozen=True, slots=True)
class OwnTokens:
    """The special tokens that a tokenizer file itself knows, unless a configuration says others.

    Attributes:
        names: Role to text.
        adds_bos: Whether a text begins with `bos`.
        adds_eos: Whether a text ends with `eos`.
    """

    names: Mapping[str, str]
    adds_bos: bool = True
    adds_eos: bool = False


@dataclass(frozen=True, slots=True)
class Configs:
    """What the small files of a checkpoint say about tokens."""

    folder: Path
    tokenizer: TokenizerConfig
    names: TokenizerConfig
    generation: ModelConfig
    model: ModelConfig

    @classmethod
    def read(cls, folder: Path) -> Configs:
        """Read them; a missing one says nothing.

        Raises:
            IntegrityError: One is malformed.
        """
        return cls(
            folder,
            read_config(folder / "tokenizer_config.json", TokenizerConfig) or TokenizerConfig(),
            read_config(folder / "special_tokens_map.json", TokenizerConfig) or TokenizerConfig(),
            read_config(folder / "generation_config.json", ModelConfig) or ModelConfig(),
            read_config(folder / "config.json", ModelConfig) or ModelConfig(),
        )

    def name(self, role: str) -> str | None:
        """Return the text of the token with a role."""
        return self.tokenizer.name(role) or self.names.name(role)

    def ids(self, role: str) -> tuple[int, ...]:
        """Return the ids with a role that the model's configuration names."""
        return self.generation.ids(role) or self.model.ids(role)

    def added_tokens(self, own: Sequence[AddedToken] | None) -> list[AddedToken]:
        """Return the added tokens: the tokenizer file's own, then what other files add to them.

        Raises:
            IntegrityError: added_tokens.json is malformed.
        """
        tokens = list(own or ())
        known = {token.id for token in tokens} | {token.content for token in tokens}
        entries = (self.tokenizer.added_tokens_decoder or {}).items()
        others = [
            AddedToken(int(token), entry.content, entry.special)
            for token, entry in entries
            if token.isdecimal()
        ]
        if own is None and not others:
            listed = read_config(self.folder / "added_tokens.json", dict[str, int]) or {}
            others = [AddedToken(token, text) for text, token in listed.items()]
        return tokens + [
            token for token in others if token.id not in known and token.content not in known
        ]


def find_special_tokens(
    configs: Configs,
    table: TokenTable,
    processor: PostProcessor | None,
    own: OwnTokens | None = None,
) -> SpecialTokens:
    """Decide on the special tokens, and mark in the table those that frame a text.

    Args:
        configs: The checkpoint's small files.
        table: The tokens, all placed.
        processor: tokenizer.json's post-processor.
        own: What the tokenizer file itself knows.

    Raises:
        IntegrityError: No token ends a text.
    """
    leading, trailing = _frame(processor)
    names = {role: configs.name(role) or (own.names.get(role) if own else None) for role in ROLES}
    found = table.find(
        name for name in (*names.values(), *leading, *trailing, *_KNOWN_ENDS) if name
    )
    ids = {role: found[name] for role, name in names.items() if name in found}
    notes = [
        f"the {role} token {name!r} is not in the vocabulary"
        for role, name in names.items()
        if name and name not in found
    ]
    n_rows = len(table.texts)
    ends = tuple(token for token in configs.ids("eos") if 0 <= token < n_rows)
    if ends and ids.get("eos") not in ends:
        ids["eos"] = ends[0]
    _fill(ids, found, (leading, trailing), configs, table)
    if "eos" not in ids:
        raise IntegrityError(
            f"{configs.folder} does not say which token ends a text",
            "add `eos_token` to its tokenizer_config.json",
        )
    further = [token for token in ends if token != ids["eos"]]
    notes += _place_ends(ids, further, table)
    table.mark_control(ids[role] for role in ("bos", "eos", "sep", "cls", "mask") if role in ids)
    adds_bos, adds_eos = _adds(configs.tokenizer, own, leading, trailing)
    if len(leading) > 1 or len(trailing) > 1:
        notes.append(
            f"its post-processor adds {' '.join((*leading, '…', *trailing))}; llama.cpp adds one "
            "token at each end"
        )
    return SpecialTokens(
        ids,
        adds_bos,
        adds_eos,
        table.texts[ids["bos"]] or "",
        table.texts[ids["eos"]] or "",
        tuple(notes),
    )


def _fill(
    ids: dict[str, int],
    found: Mapping[str, int],
    frame: tuple[tuple[str, ...], tuple[str, ...]],
    configs: Configs,
    table: TokenTable,
) -> None:
    """Find `bos`, `eos`, `unk` and `pad` where no name says them."""
    leading, trailing = frame
    n_rows = len(table.texts)
    for role, names, stand_in in (("bos", leading[:1], "cls"), ("eos", trailing[-1:], "sep")):
        candidates = [found[name] for name in names if name in found]
        candidates += [ids[stand_in]] if stand_in in ids else []
        candidates += configs.ids(role)
        if role not in ids:
            ids.update((role, token) for token in candidates[:1] if 0 <= token < n_rows)
    if "unk" not in ids and TokenKind.UNKNOWN in table.kinds:
        ids["unk"] = table.kinds.index(TokenKind.UNKNOWN)
    for token in configs.ids("pad")[:1]:
        if "pad" not in ids and 0 <= token < n_rows:
            ids["pad"] = token
    if "bos" not in ids and "eos" in ids:
        # llama.cpp takes token 11 for a `bos` that is not written; it is never added.
        ids["bos"] = ids["eos"]


def _place_ends(ids: dict[str, int], further: list[int], table: TokenTable) -> list[str]:
    """Give the further ends of generation a place: GGUF has two, llama.cpp knows some by text."""
    unknown = [token for token in further if table.texts[token] not in _KNOWN_ENDS]
    known = [token for token in further if table.texts[token] in _KNOWN_ENDS]
    for role, token in zip(("eot", "eom"), (*unknown, *known), strict=False):
        ids[role] = token
    return [
        f"{table.texts[token]!r} ends a generation, too, but GGUF has no place for it"
        for token in unknown[2:]
    ]


def _adds(
    config: TokenizerConfig,
    own: OwnTokens | None,
    leading: tuple[str, ...],
    trailing: tuple[str, ...],
) -> tuple[bool, bool]:
    """Decide what is added: an explicit flag rebuilds the post-processor in transformers, too."""
    if config.add_bos_token is None and config.add_eos_token is None:
        if own is not None:
            return own.adds_bos, own.adds_eos
        return bool(leading), bool(trailing)
    return bool(config.add_bos_token), bool(config.add_eos_token)


def _frame(processor: PostProcessor | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the special tokens that a post-processor puts before and after a text."""
    if processor is None:
        return (), ()
    for part in processor.processors:
        leading, trailing = _frame(part)
        if leading or trailing:
            return leading, trailing
    if processor.cls and processor.sep:
        return (processor.cls[0],), (processor.sep[0],)
    pieces = processor.single
    texts = [at for at, piece in enumerate(pieces) if piece.sequence is not None]
    if not texts:
        return (), ()
    return (
        tuple(piece.special.id for piece in pieces[: texts[0]] if piece.special),
        tuple(piece.special.id for piece in pieces[texts[-1] + 1 :] if piece.special),
    )
