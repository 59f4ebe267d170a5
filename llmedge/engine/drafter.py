"""What the scheduler wants from whatever guesses tokens ahead, for the model to check together."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence as Tokens

    from llmedge.engine.sequence import Sequence


class Wish(NamedTuple):
    """How many tokens a sequence wants to have guessed; its tokens only grow between calls."""

    sequence: Sequence
    n_max: int


class Drafter(Protocol):
    """Guesses for all sequences of a step at once; a wrong guess costs time, and nothing else.

    Attributes:
        n_max: Most tokens to guess at once.
    """

    @property
    def n_max(self) -> int: ...  # noqa: D102

    def draft(self, wishes: Tokens[Wish]) -> list[list[int]]:
        """Return up to `n_max` tokens that may follow, for each wish; often fewer, or none.

        Raises:
            EngineError: Nothing can be computed any more.
        """
        ...

    def end(self, sequence_id: int) -> None:
        """Hear that a sequence has ended; one that is not known is ignored."""
        ...

    def clear(self) -> None:
        """Give up what is kept for later sequences."""
        ...
