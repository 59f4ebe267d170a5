"""What an onlooker sees of a measuring process: its peak memory, the hottest sensor, the clock."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.core.closable import Closable
from llmedge.host.clock import read_clock_hz
from llmedge.host.memory import PeakMemory, ProcessMemory
from llmedge.host.sensors import read_temperature

if TYPE_CHECKING:
    from collections.abc import Callable

_INTERVAL_S = 0.5


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen.

    Attributes:
        memory: Peaks.
        before_celsius: The hottest sensor when the watch began.
        peak_celsius: The most of it.
        after_celsius: When the watch ended.
        clock_least_hz: The least clock from `mark` on.
    """

    memory: ProcessMemory
    before_celsius: float | None
    peak_celsius: float | None
    after_celsius: float | None
    clock_least_hz: float | None


class CellWatch(Closable):
    """Watches a measuring process until it is stopped.

    Args:
        pid: The process.
        temperature: Reads the hottest sensor.
        clock: Reads the fastest core's clock.
    """

    def __init__(
        self,
        pid: int,
        temperature: Callable[[], float | None] = read_temperature,
        clock: Callable[[], float | None] = read_clock_hz,
    ) -> None:
        self._memory = PeakMemory(pid, interval_s=0.05)
        self._temperature, self._clock = temperature, clock
        self._before = temperature()
        self._peak = self._before
        self._least: float | None = None
        self._has_begun = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="cell-watch", daemon=True)
        self._thread.start()

    def mark(self) -> None:
        """The measuring begins: from now on the clock counts."""
        self._has_begun.set()

    def stop(self) -> Seen:
        """End the watch and return what was seen."""
        self._stop.set()
        self._thread.join()
        after = self._temperature()
        self._note(after, self._clock())
        return Seen(self._memory.stop(), self._before, self._peak, after, self._least)

    def close(self) -> None:
        """End the watch; twice is harmless."""
        self._stop.set()
        self._memory.close()

    def _watch(self) -> None:
        while not self._stop.wait(_INTERVAL_S):
            self._note(self._temperature(), self._clock())

    def _note(self, celsius: float | None, clock_hz: float | None) -> None:
        if celsius is not None:
            self._peak = max(celsius, self._peak or celsius)
        if clock_hz is not None and self._has_begun.is_set():
            self._least = min(clock_hz, self._least or clock_hz)
