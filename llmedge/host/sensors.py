"""Temperature and energy, where the system offers them; `None` where it does not."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable

_POWER_S = 5.0  # seconds for which a battery's power is taken to last
_DRIVES = ("nvme", "drivetemp")
# Degrees Celsius: chips without a limit report 0, or more than anything bears.
_LEAST_LIMIT, _MOST_LIMIT = 50.0, 130.0


PowerSource = Literal["mains", "battery", "charging"]


@dataclass(frozen=True, slots=True)
class Power:
    """Where the energy comes from.

    Attributes:
        battery_percent: Charge, `None` without a battery.
        is_plugged: Whether it charges, `None` when unknown.
    """

    battery_percent: float | None
    is_plugged: bool | None


def read_temperature() -> float | None:
    """Return the hottest sensor's temperature in degrees Celsius."""
    read = getattr(psutil, "sensors_temperatures", None)  # not on Windows and macOS
    if read is None:
        return None
    values = [reading.current for readings in read().values() for reading in readings]
    return max(values, default=None)


def read_heat_margin() -> float | None:
    """Return how many degrees Celsius are left until the first sensor reaches its limit.

    `None` where no sensor has one. Drives have limits of their own, which computing does not meet.
    """
    read = getattr(psutil, "sensors_temperatures", None)
    if read is None:
        return None
    margins = [
        limit - reading.current
        for chip, readings in read().items()
        if not chip.startswith(_DRIVES)
        for reading in readings
        for limit in (reading.high or reading.critical,)
        if limit is not None and _LEAST_LIMIT <= limit <= _MOST_LIMIT
    ]
    return min(margins, default=None)


def read_power() -> Power:
    """Return the battery's state."""
    read = getattr(psutil, "sensors_battery", None)
    battery = read() if read is not None else None
    if battery is None:
        return Power(None, None)
    return Power(battery.percent, battery.power_plugged)


def read_power_source(root: Path = Path("/")) -> PowerSource:
    """Return where the machine's power comes from; one without a battery is on the mains."""
    states = {_read_text(path / "status") for path in _batteries(root)}
    if "Charging" in states:
        return "charging"
    if states:
        return "battery" if "Discharging" in states else "mains"
    return "battery" if read_power().is_plugged is False else "mains"


def energy_between(before_j: float | None, after_j: float | None) -> float | None:
    """Return the energy between two readings; `None` where it is not known or has wrapped."""
    if before_j is None or after_j is None or after_j < before_j:
        return None
    return after_j - before_j


def read_energy_j(root: Path = Path("/")) -> float | None:
    """Return the processor packages' energy counter in joules, from an arbitrary start.

    Only differences mean anything, and only over less time than the counter's range: about half an
    hour at full power. Most systems let only root read it.

    Source: Linux kernel documentation, power/powercap (`energy_uj`).
    """
    total_uj = 0
    for zone in _packages(root):
        value = _read_number(zone / "energy_uj")
        if value is None:
            return None
        total_uj += value
    return total_uj / 1e6 if total_uj else None


class EnergyMeter:
    """Tells the joules between two moments: the processor packages' or else the whole machine's.

    The latter while a battery feeds it, from the power that the battery tells every few seconds.

    Args:
        root: The file system's root; another one in tests.
        clock: Seconds from any beginning.
    """

    def __init__(
        self, root: Path = Path("/"), clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._root = root
        self._clock = clock
        zones = _packages(root)
        is_readable = all(_read_number(zone / "energy_uj") is not None for zone in zones)
        self._zones = zones if is_readable else []
        self._ranges = [_read_number(zone / "max_energy_range_uj") or 0 for zone in self._zones]
        self._batteries = [] if self._zones else _batteries(root)
        self._before_uj: list[int | None] = []
        self._before_s = 0.0
        self._power_w: float | None = None
        self._power_due_s = 0.0
        self.take()

    @property
    def is_there(self) -> bool:
        """Whether there is anything to read."""
        return bool(self._zones or self._batteries)

    def take(self) -> float | None:
        """Return the joules since the last call, or `None` where that is not known."""
        if self._zones:
            before, self._before_uj = (
                self._before_uj,
                [_read_number(zone / "energy_uj") for zone in self._zones],
            )
            return self._counted(before)
        now = self._clock()
        if now >= self._power_due_s:  # asking a battery can take milliseconds
            self._power_w = _battery_w(self._batteries)
            self._power_due_s = now + _POWER_S
        seconds, self._before_s = now - self._before_s, now
        return None if self._power_w is None else self._power_w * seconds

    def _counted(self, before: list[int | None]) -> float | None:
        total_uj = 0
        for first, last, range_uj in zip(before, self._before_uj, self._ranges, strict=False):
            if first is None or last is None or (last < first and not range_uj):
                return None
            total_uj += last - first if last >= first else last - first + range_uj
        return total_uj / 1e6 if before else None


def _packages(root: Path) -> list[Path]:
    """Return the packages' zones; `psys` is the whole platform, and has them in it."""
    zones = sorted((root / "sys/class/powercap").glob("intel-rapl:?"))
    return [zone for zone in zones if _read_text(zone / "name") != "psys"]


def _batteries(root: Path) -> list[Path]:
    # Mice and pens have batteries, too: those say `Device`.
    return [
        path
        for path in sorted((root / "sys/class/power_supply").glob("*"))
        if _read_text(path / "type") == "Battery" and _read_text(path / "scope") != "Device"
    ]


def _battery_w(batteries: list[Path]) -> float | None:
    """Return what the batteries give now; `None` while they give nothing.

    Source: Linux kernel documentation, ABI/testing/sysfs-class-power (micro-units).
    """
    total_w = 0.0
    for path in batteries:
        if _read_text(path / "status") != "Discharging":
            continue
        power_uw = _read_number(path / "power_now")
        if power_uw is not None:
            total_w += abs(power_uw) / 1e6
            continue
        current_ua, voltage_uv = (
            _read_number(path / "current_now"),
            _read_number(path / "voltage_now"),
        )
        if current_ua is None or voltage_uv is None:
            return None
        total_w += abs(current_ua) * voltage_uv / 1e12
    return total_w or None


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _read_number(path: Path) -> int | None:
    try:
        return int(_read_text(path) or "")
    except ValueError:
        return None
