"""What a family of tokenizers hands over: its tokens, and how llama.cpp could be told of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from llmedge.gguf.writer import Metadata, Value, encode_metadata

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from llmedge.convert.special_tokens import Configs, OwnTokens, SpecialTokens


class Difference(Enum):
    """What a tokenizer does to a text that llama.cpp does not, and that rarely matters.

    The values say it to a person.
    """

    NFC = "the original composes characters first (NFC), llama.cpp takes them as they are"
    ONE_SPACE = (
        "the original puts no space before a text that begins with one; llama.cpp does, as "
        "SentencePiece itself"
    )
    CLUSTERS = (
        "the tokenizers library loses marks of characters that are not composed; llama.cpp keeps "
        "them, as SentencePiece itself"
    )


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a draft is made for.

    Attributes:
        path: The tokenizer's file.
        n_rows: Rows of the embedding.
        architecture: llama.cpp's name of the architecture.
        configs: What the small files say about tokens.
        own: The special tokens that the tokenizer's file itself knows.
    """

    path: Path
    n_rows: int
    architecture: str
    configs: Configs
    own: OwnTokens | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to tell llama.cpp of a vocabulary.

    Attributes:
        model: `tokenizer.ggml.model`.
        pre: `tokenizer.ggml.pre`, where the model has one.
        pre_from: Where `pre` comes from: `content`, `family` (it has only one) or `search`.
        parts: Names of the draft's parts that it needs.
        values: Further keys.
    """

    model: str
    pre: str | None
    pre_from: str
    parts: tuple[str, ...] = ()
    values: Mapping[str, Value] = field(default_factory=dict[str, "Value"])


@dataclass(frozen=True, slots=True)
class Draft:
    """A vocabulary, ready to be written.

    Attributes:
        family: What it is, in words.
        n_tokens: Rows, padding included.
        n_padding: Rows that no token has.
        base: Tokens and their kinds.
        parts: Scores and merges, which not every choice needs.
        choices: Best first. Empty where the pre-tokenizer is not known.
        compat: What runtimes of before May 2026 know, where it differs from the first choice.
        pre_types: What else may be tried when no choice is right.
        special: The special tokens.
        differences: How the original is known to differ from what llama.cpp can do.
        notes: What a person should know.
    """

    family: str
    n_tokens: int
    n_padding: int
    base: Metadata
    parts: Mapping[str, Metadata]
    choices: tuple[Choice, ...]
    special: SpecialTokens
    compat: Choice | None = None
    pre_types: tuple[Choice, ...] = ()
    differences: frozenset[Difference] = frozenset()
    notes: tuple[str, ...] = ()

    def pieces(self, choice: Choice) -> tuple[Metadata, ...]:
        """Return all metadata of the tokenizer but the chat template, in order."""
        head: dict[str, Value] = {"tokenizer.ggml.model": choice.model}
        if choice.pre is not None:
            head["tokenizer.ggml.pre"] = choice.pre
        return (
            encode_metadata(head),
            self.base,
            *(self.parts[part] for part in choice.parts),
            encode_metadata({**choice.values, **self.special.values()}),
        )
