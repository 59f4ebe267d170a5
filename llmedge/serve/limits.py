"""How much is let in at once and how long it may take; and the end of letting in."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llmedge.core.errors import BusyError, ResourceError

_MAX_RETRY_AFTER_S = 60
_SMOOTHING = 0.2


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the endpoint.

    Attributes:
        max_queue: Requests of one model that may wait beside those that are answered.
        deadline_s: Seconds after which a generation is ended with an error, however far it is.
        drain_s: Seconds that answers have to end once the server is asked to stop.
        max_connections: Connections at once.
        head_s: Seconds in which a request's head must have come.
    """

    max_queue: int = 64
    deadline_s: float = 1800.0
    drain_s: float = 8.0
    max_connections: int = 512
    head_s: float = 10.0


class Drain:
    """Whether the server still takes requests; one for all models."""

    def __init__(self) -> None:
        self.is_draining = False

    def begin(self) -> None:
        """Take no more requests."""
        self.is_draining = True

    def check(self) -> None:
        """Refuse a request while the server stops.

        Raises:
            ResourceError: It stops.
        """
        if self.is_draining:
            raise ResourceError("the server is about to stop", "ask again in a few seconds")


class Door:
    """Lets requests to one model in, or tells them when to come again.

    Args:
        limits: How many wait.
        drain: Whether any are let in.
        n_slots: How many are answered at once.
    """

    def __init__(self, limits: Limits, drain: Drain, n_slots: int) -> None:
        self.n_active = 0
        self._limits = limits
        self._drain = drain
        self._n_slots = max(1, n_slots)
        self._seconds = 1.0

    def enter(self) -> None:
        """Let one in; `leave` belongs to it.

        Raises:
            BusyError: Too many wait.
            ResourceError: The server stops.
        """
        self._drain.check()
        if self.n_active >= self._n_slots + self._limits.max_queue:
            raise BusyError(
                f"{self.n_active} requests are being answered or wait, which is the limit",
                retry_after_s=self._retry_after_s(),
            )
        self.n_active += 1

    def leave(self, seconds: float) -> None:
        """Note that one has ended, and how long it took."""
        self.n_active -= 1
        self._seconds += _SMOOTHING * (seconds - self._seconds)

    def _retry_after_s(self) -> int:
        """Guess when the first that waits now has been answered."""
        return min(_MAX_RETRY_AFTER_S, max(1, math.ceil(self._seconds / self._n_slots)))
