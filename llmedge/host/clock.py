"""How fast the cores run now, and whether heat holds them back; `None` where nobody tells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Throttling:
    """How heat holds the processor back.

    Attributes:
        n_events: How often since the start of the system (x86), all cores together.
        is_capped: Whether a cooling device holds the clock down now (ARM boards and phones).
    """

    n_events: int | None
    is_capped: bool | None


def read_clock_hz(root: Path = Path("/")) -> float | None:
    """Return the fastest core's clock now.

    Source: Linux kernel documentation, admin-guide/pm/cpufreq (`scaling_cur_freq`, in kHz).
    """
    cores = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    clocks = [value for value in map(_number, cores) if value is not None]
    return max(clocks) * 1e3 if clocks else None


def read_throttling(root: Path = Path("/")) -> Throttling:
    """Read what the processor and the kernel's cooling devices tell.

    Source: Linux kernel documentation, ABI/testing/sysfs-devices-system-cpu (`thermal_throttle`)
    and driver-api/thermal/sysfs-api (cooling devices).
    """
    folders = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle")
    counts = [
        value
        for folder in folders
        for value in (_number(folder / "core_throttle_count"),)
        if value is not None
    ]
    states = [
        state
        for device in (root / "sys/class/thermal").glob("cooling_device*")
        if _is_of_cpu(device)
        for state in (_number(device / "cur_state"),)
        if state is not None
    ]
    return Throttling(sum(counts) if counts else None, any(states) if states else None)


def _is_of_cpu(device: Path) -> bool:
    # `Processor` is ACPI's name; the cpufreq driver's begin with its own.
    kind = _text(device / "type")
    return kind == "Processor" or kind.startswith(("cpufreq", "thermal-cpufreq", "cpu-"))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdigit() else None
