"""Tells a child that hangs from one that is slow.

A process that was stopped, or waits for itself, uses no processor time: that shows soon, however
slow the machine is. One that computes without an end looks like one with a long prompt, until it
takes longer than its own pace explains.
"""

from __future__ import annotations

from dataclasses import dataclass

# Reading a pipe takes microseconds; whoever computes, or waits for a disk, needs more than this.
_WORK_S = 0.05


@dataclass(frozen=True, slots=True)
class HangOptions:
    """How long a child with work to do may be silent.

    Attributes:
        still_s: While it uses no processor time.
        least_s: While it computes, at least.
        first_s: While it computes and its pace is not known: a first prompt, on a phone.
        n_paces: While it computes, so many times what a full batch takes by its pace so far.
    """

    still_s: float = 60.0
    least_s: float = 180.0
    first_s: float = 1800.0
    n_paces: float = 8.0


class Patience:
    """Watches one child; `heard` may be called from any thread, `look` from one.

    Time counts in looks, none for more than twice the time between them: a machine that slept is
    not a child that hangs.

    Args:
        options: How long it may be silent.
        n_batch: Most tokens of one step.
    """

    def __init__(self, options: HangOptions, n_batch: int) -> None:
        self._options, self._n_batch = options, n_batch
        self._was_heard = True
        self._silent_s = self._still_s = 0.0
        self._cpu_s = 0.0

    @property
    def interval_s(self) -> float:
        """Seconds between two looks."""
        return min(1.0, self._options.still_s / 4)

    def heard(self) -> None:
        """Note that it said something, or has nothing to say."""
        self._was_heard = True

    def look(self, elapsed_s: float, cpu_s: float | None, token_s: float | None) -> str:
        """Return why the child must be given up; "" while it need not be.

        Args:
            elapsed_s: Seconds since the last look.
            cpu_s: Processor time that it has used; `None` where that cannot be known.
            token_s: Seconds that it took for a token, on average; `None` before there is one.
        """
        used_s = _WORK_S if cpu_s is None else cpu_s - self._cpu_s
        if self._was_heard:
            self._was_heard, self._silent_s = False, 0.0
        else:
            self._silent_s += min(elapsed_s, 2 * self.interval_s)
        if self._silent_s == 0.0 or used_s >= _WORK_S:
            self._still_s, self._cpu_s = 0.0, cpu_s or 0.0
        else:
            self._still_s += min(elapsed_s, 2 * self.interval_s)
        if self._still_s > self._options.still_s:
            return f"it did nothing for {self._still_s:.0f} s"
        if self._silent_s > self.limit_s(token_s):
            return f"it was silent for {self._silent_s:.0f} s"
        return ""

    def limit_s(self, token_s: float | None) -> float:
        """Return how long it may compute without a word."""
        options = self._options
        if token_s is None:
            return options.first_s
        return max(options.least_s, options.n_paces * self._n_batch * token_s)
