"""Short everyday questions with reference answers, to ask a model in its users' languages.

They were written for llmedge, each language's on its own; CC0. `prompts/<code>.jsonl` holds one a
line: the question, which asks for one sentence, and one or two answers that a person would give.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from llmedge.core.errors import UsageError
from llmedge.measure.corpus import LANGUAGES

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question and answers to compare with.

    Attributes:
        question: What the model is asked.
        references: One or two good answers.
    """

    question: str
    references: tuple[str, ...]


def read_prompts(language: str) -> tuple[Prompt, ...]:
    """Return the prompts of a language, by its code.

    Raises:
        UsageError: None are shipped for it.
    """
    if language not in LANGUAGES:
        raise UsageError(
            f"no prompts are shipped for language {language!r}",
            f"shipped: {', '.join(LANGUAGES)}",
        )
    return tuple(_read(language))


def _read(language: str) -> Iterator[Prompt]:
    file = resources.files("llmedge.evaluate") / "prompts" / f"{language}.jsonl"
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield Prompt(row["question"], tuple(row["references"]))
