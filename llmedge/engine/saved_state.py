"""What a sequence holds, kept outside of the kv cache: in memory, or in a file."""

from __future__ import annotations

from typing import Protocol


class SavedState(Protocol):
    """The state of a sequence.

    Attributes:
        n_tokens: Tokens that it was computed from.
        n_bytes: Memory that it takes.
    """

    @property
    def n_tokens(self) -> int: ...  # noqa: D102
    @property
    def n_bytes(self) -> int: ...  # noqa: D102

    def read(self) -> bytes:
        """Return what the backend saved.

        Raises:
            IntegrityError: It is there no longer, or not as it was written.
        """
        ...


class StateInMemory:
    """The state of a sequence, in memory."""

    __slots__ = ("_state", "n_bytes", "n_tokens")

    def __init__(self, n_tokens: int, state: bytes) -> None:
        self.n_tokens = n_tokens
        self.n_bytes = len(state)
        self._state = state

    def read(self) -> bytes:
        """Return what the backend saved."""
        return self._state
