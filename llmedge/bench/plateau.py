"""Where a long run's speed settles once the machine is warm: pure arithmetic over its windows."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

_BAND = 0.05  # of the plateau, within which a window belongs to it
_TAIL = 1 / 3  # of the run, over which the plateau is taken
_MIN_TRUSTED = 0.8  # of the windows


@dataclass(frozen=True, slots=True)
class Window:
    """A few seconds of a long run.

    Attributes:
        start_s: Since its beginning.
        tg_tokens_per_s: The speed in it.
        temperature_celsius: The hottest sensor at its end, `None` without one.
        clock_hz: The fastest core's clock at its end, `None` where nobody tells.
        is_disturbed: Whether another program or swapping held it up: it counts for nothing.
    """

    start_s: float
    tg_tokens_per_s: float
    temperature_celsius: float | None = None
    clock_hz: float | None = None
    is_disturbed: bool = False


@dataclass(frozen=True, slots=True)
class Sustained:
    """A long run.

    Attributes:
        seconds: How long it was.
        burst_tokens_per_s: What it began with: the best of its first three windows.
        plateau_tokens_per_s: The median of its last third.
        factor: The plateau over the burst.
        begins_s: From when on the speed stays within 5 % of the plateau; `None` where it never
            does: then the run was too short.
        n_disturbed: Windows left out.
        windows: All of them.
    """

    seconds: float
    burst_tokens_per_s: float
    plateau_tokens_per_s: float
    factor: float
    begins_s: float | None
    n_disturbed: int
    windows: tuple[Window, ...]

    @property
    def is_trusted(self) -> bool:
        """Whether enough of it was undisturbed."""
        return self.n_disturbed <= (1 - _MIN_TRUSTED) * len(self.windows)


def find_plateau(windows: tuple[Window, ...], seconds: float) -> Sustained:
    """Return a long run's burst and plateau; disturbed windows count only where all are."""
    good = [window for window in windows if not window.is_disturbed] or list(windows)
    rates = [window.tg_tokens_per_s for window in good]
    burst = max(rates[:3])
    plateau = statistics.median(rates[-max(1, round(len(rates) * _TAIL)) :])
    smooth = [statistics.median(rates[max(0, at - 1) : at + 2]) for at in range(len(rates))]
    is_near = [abs(rate - plateau) <= _BAND * plateau for rate in smooth]
    first = len(is_near)
    while first and is_near[first - 1]:
        first -= 1
    has_settled = first <= len(rates) * (1 - _TAIL)
    return Sustained(
        seconds=seconds,
        burst_tokens_per_s=burst,
        plateau_tokens_per_s=plateau,
        factor=plateau / burst if burst else 0.0,
        begins_s=good[first].start_s if has_settled and first < len(good) else None,
        n_disturbed=sum(window.is_disturbed for window in windows),
        windows=windows,
    )
