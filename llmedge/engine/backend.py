"""What the scheduler wants from whatever computes: sequences of tokens in one kv cache."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence as Tokens

Cuts: TypeAlias = Literal["anywhere", "window", "never"]
Adapters: TypeAlias = "tuple[tuple[str, float], ...]"


class DecodeStatus(enum.Enum):
    """What became of a decode call."""

    OK = "ok"
    NO_KV_SLOT = "no kv slot"
    """The kv cache has no room; nothing was changed."""
    ABORTED = "aborted"
    """It was told to stop; some of the tokens may be in the kv cache, and there are no logits."""


class BatchItem(NamedTuple):
    """Consecutive tokens of one sequence.

    The tokens of all items are numbered through, from 0: a token's number is its batch index, by
    which a sampler finds its logits.
    """

    seq_id: int
    tokens: Tokens[int]
    position: int
    """Of the first token; the sequence holds all positions before it."""
    n_outputs: int
    """So many of the last tokens want logits."""


class Sampler(Protocol):
    """Chooses a sequence's tokens: its sampler chain, its constraint, its log probabilities."""

    def sample(self, index: int) -> int:
        """Choose from the logits at a batch index of the last decode, and remember the choice.

        Raises:
            LlmedgeError: There is no choice; only this sequence ends. An `EngineError` ends all.
        """
        ...


class Backend(Protocol):
    """A model with one kv cache for all sequences; for one thread.

    Attributes:
        n_cells: Tokens that all sequences together may hold; shared ones count once.
        n_batch: Tokens of one decode call.
        n_seq_max: Sequence ids, from 0.
        cuts: Where a sequence may end and be continued with other tokens: `anywhere` (attention),
            only where the `window` before is still there, or `never` (recurrent state).
        window: Tokens before it that a token needs; 0 unless `cuts` is `window`.
    """

    @property
    def n_cells(self) -> int: ...  # noqa: D102
    @property
    def n_batch(self) -> int: ...  # noqa: D102
    @property
    def n_seq_max(self) -> int: ...  # noqa: D102
    @property
    def cuts(self) -> Cuts: ...  # noqa: D102
    @property
    def window(self) -> int: ...  # noqa: D102

    def decode(self, items: Tokens[BatchItem]) -> DecodeStatus:
        """Compute a batch; at most one item of each sequence, at most `n_batch` tokens.

        Raises:
            EngineError: Nothing can be computed any more.
        """
        ...

    def use_adapters(self, adapters: Adapters) -> None:
        """Compute the next batches with these LoRA adapters and scales; at first there are none."""
        ...

    def share(self, source: int, target: int, n_tokens: int) -> None:
        """Let an empty sequence hold the first tokens of another; takes no cells.

        Asked for only where the source may be cut.
        """
        ...

    def remove(self, seq_id: int, first: int) -> bool:
        """Forget a sequence from a position on; 0 always works.

        Returns:
            Whether that was possible; nothing was changed otherwise.
        """
        ...

    def first_position(self, seq_id: int) -> int:
        """Return the first position that every layer still holds; asked only of windows."""
        ...

    def save_state(self, seq_id: int) -> bytes:
        """Return all that a sequence holds."""
        ...

    def restore_state(self, seq_id: int, state: bytes) -> None:
        """Put a saved sequence into an empty one; takes cells for all its tokens.

        Raises:
            IntegrityError: It could not be restored; the sequence may hold anything.
        """
        ...
