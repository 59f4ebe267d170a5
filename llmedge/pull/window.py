"""Hours of the day in which bytes may move: `23:00-06:00`, for night data packs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.core.errors import UsageError

if TYPE_CHECKING:
    import datetime

_HOURS = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)-([01]?\d|2[0-3]):([0-5]\d)", re.ASCII)
_DAY_S = 24 * 60 * 60


@dataclass(frozen=True, slots=True)
class Window:
    """Hours of the day, by the local clock; they may pass midnight.

    Attributes:
        start_s: The first second of the day that belongs to it.
        stop_s: The first that does not.
    """

    start_s: int
    stop_s: int

    def opens_in_s(self, now: datetime.datetime) -> int:
        """Return how long to wait, 0 when it is open."""
        clock_s = (now.hour * 60 + now.minute) * 60 + now.second
        since_start_s = (clock_s - self.start_s) % _DAY_S
        if since_start_s < (self.stop_s - self.start_s) % _DAY_S:
            return 0
        return _DAY_S - since_start_s


def parse_window(text: str) -> Window:
    """Read `23:00-06:00`.

    Raises:
        UsageError: It is no span of hours.
    """
    match = _HOURS.fullmatch(text.strip())
    if match is None or match.group(1, 2) == match.group(3, 4):
        raise UsageError(f"{text!r} is no span of hours", "write it like 23:00-06:00")
    hours = [int(number) for number in match.groups()]
    return Window((hours[0] * 60 + hours[1]) * 60, (hours[2] * 60 + hours[3]) * 60)
