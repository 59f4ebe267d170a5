"""What all transfers of one pull share: the rate, the hours, patience, and the wish to stop."""

from __future__ import annotations

import datetime
import random
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.core.errors import InterruptedByUser, NetworkError

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmedge.core.errors import ConnectionLostError
    from llmedge.pull.window import Window

_MAX_RETRY_AFTER_S = 3600.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How often to try again.

    Attributes:
        n_idle: Attempts in a row that may bring nothing new.
        base_s: The pause after the first of them; each further one doubles it.
        cap_s: The longest pause.
    """

    n_idle: int = 8
    base_s: float = 0.5
    cap_s: float = 60.0

    def pause_s(self, idle: int) -> float:
        """Return how long to wait after some idle attempts; jittered, so that clients spread."""
        longest_s = self.base_s * 2 ** (idle - 1) if idle else self.base_s / 5
        return min(self.cap_s, longest_s) * random.uniform(0.5, 1.5)


class Line:
    """The line to the Hub, as all threads of one pull use it.

    Args:
        patience: How often to try again.
        rate: Bytes per second over all files; `None` is as fast as it goes.
        window: The hours in which bytes may move.
        tell: Takes what a person should know: pauses and their reasons.
    """

    def __init__(
        self,
        patience: Patience | None = None,
        rate: int | None = None,
        window: Window | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.patience = patience or Patience()
        self.tell = tell
        self._rate, self._window = rate, window
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._free_at = 0.0
        self.network_bytes = 0
        self.n_retries = 0

    def stop(self) -> None:
        """Let all threads end at their next byte or pause."""
        self._stop.set()

    def sleep(self, seconds: float) -> None:
        """Wait, unless it is time to stop.

        Raises:
            InterruptedByUser: It is.
        """
        if self._stop.wait(seconds):
            raise InterruptedByUser("stopped", "run the same again: it goes on where it was")

    def take(self, n_bytes: int) -> None:
        """Count bytes that came over the line, and wait as long as the rate wants.

        Raises:
            InterruptedByUser: It is time to stop.
        """
        with self._lock:
            self.network_bytes += n_bytes
            now = time.monotonic()
            if self._rate is not None:
                # A pause gives no right to a burst.
                self._free_at = max(self._free_at, now) + n_bytes / self._rate
            wait_s = self._free_at - now
        self.sleep(max(0.0, wait_s))

    def is_open(self) -> bool:
        """Whether bytes may move at this hour."""
        return self._opens_in_s() == 0

    def wait_until_open(self) -> None:
        """Wait for the hours in which bytes may move.

        Raises:
            InterruptedByUser: It is time to stop.
        """
        wait_s = self._opens_in_s()
        if wait_s:
            self.tell(f"waiting {wait_s // 3600} h {wait_s % 3600 // 60:02d} min for the hours")
        while wait_s:
            self.sleep(min(wait_s, 30))  # the clock may be set meanwhile
            wait_s = self._opens_in_s()

    def recover(self, lost: ConnectionLostError, idle: int) -> None:
        """Wait before the next attempt.

        Args:
            lost: What ended the last one.
            idle: Attempts in a row that brought nothing new, the last one included.

        Raises:
            NetworkError: There were too many of them, or the server wants more than an hour.
            InterruptedByUser: It is time to stop.
        """
        if idle >= self.patience.n_idle:
            raise NetworkError(
                f"{lost.message}; given up after {idle} attempts that brought nothing",
                "run the same again later: what came is kept",
            )
        pause_s = self.patience.pause_s(idle)
        if lost.retry_after_s is not None:
            if lost.retry_after_s > _MAX_RETRY_AFTER_S:
                hint = "set HF_TOKEN, which has higher limits, or run the same again then"
                raise NetworkError(f"{lost.message}: again in {lost.retry_after_s:.0f} s", hint)
            pause_s = max(pause_s, lost.retry_after_s)
        if idle:
            self.tell(f"{lost.message}; again in {pause_s:.1f} s")
        with self._lock:
            self.n_retries += 1
        self.sleep(pause_s)

    def _opens_in_s(self) -> int:
        if self._window is None:
            return 0
        return self._window.opens_in_s(datetime.datetime.now().astimezone())
