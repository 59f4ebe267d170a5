"""Temperature and energy, where the system offers them; `None` where it does not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil


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


def read_power() -> Power:
    """Return the battery's state."""
    read = getattr(psutil, "sensors_battery", None)
    battery = read() if read is not None else None
    if battery is None:
        return Power(None, None)
    return Power(battery.percent, battery.power_plugged)


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
    for zone in sorted((root / "sys/class/powercap").glob("intel-rapl:?")):
        try:
            total_uj += int((zone / "energy_uj").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None
    return total_uj / 1e6 if total_uj else None
