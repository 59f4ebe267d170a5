"""What a mix did not get: tensors whose rows do not fit the blocks of the type it wanted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Fallbacks:
    """Tensors that got another type than the mix wanted.

    Attributes:
        wanted: The type that the mix wanted.
        got: The type they have.
        n_tensors: How many.
        example: One of them.
    """

    wanted: str
    got: str
    n_tensors: int
    example: str


def group_fallbacks(tensors: Iterable[tuple[str, str | None, str]]) -> tuple[Fallbacks, ...]:
    """Group tensors by what was wanted and what they got, the most frequent first.

    Args:
        tensors: Name, type that was wanted or `None` where it was got, and type.
    """
    fallen = [(name, wanted, got) for name, wanted, got in tensors if wanted is not None]
    examples = {(wanted, got): name for name, wanted, got in reversed(fallen)}
    counts = Counter((wanted, got) for _, wanted, got in fallen)
    return tuple(
        Fallbacks(wanted, got, n, examples[wanted, got])
        for (wanted, got), n in counts.most_common()
    )
