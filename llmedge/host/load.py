"""Was this machine busy with something else while we measured?"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import psutil

# Above these a tokens-per-second figure is not the machine's own. Source: measurements with one
# busy loop beside two threads on two cores, which cost a factor of five and more.
_MAX_OTHER_CPU = 0.10
_MAX_STEAL = 0.02


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What ran beside a measurement.

    Attributes:
        other_cpu: CPU time of all other processes, as a share of one core's wall time.
        steal: CPU time that the hypervisor took, as a share of all cores' time.
        pressure: Share of the time in which some task waited for a CPU (Linux PSI), `None` where
            the kernel does not tell.
    """

    other_cpu: float
    steal: float
    pressure: float | None

    @property
    def is_contended(self) -> bool:
        """Whether another's work makes the measurement unfit to be compared."""
        return self.other_cpu > _MAX_OTHER_CPU or self.steal > _MAX_STEAL


@dataclass(frozen=True, slots=True)
class _Sample:
    wall_s: float
    busy_s: float
    steal_s: float
    own_s: float
    pressure_us: int | None


class LoadWatch:
    """Compares two moments: what the machine did, less what our own processes did.

    Args:
        pid: A process beside this one whose CPU time is ours too, such as a measuring child.
        root: The file system's root; another one in tests.
    """

    def __init__(self, pid: int | None = None, root: Path = Path("/")) -> None:
        self._pids = [None] if pid is None else [None, pid]
        self._root = root
        self._start = self._read()

    def stop(self) -> LoadReport:
        """Report on the time since the start; may be called while the other process still runs."""
        first, last = self._start, self._read()
        wall = max(last.wall_s - first.wall_s, 1e-6)
        busy, own = last.busy_s - first.busy_s, last.own_s - first.own_s
        steal = (last.steal_s - first.steal_s) / (wall * (psutil.cpu_count() or 1))
        pressure = None
        if first.pressure_us is not None and last.pressure_us is not None:
            pressure = (last.pressure_us - first.pressure_us) / (wall * 1e6)
        return LoadReport(max(0.0, busy - own) / wall, max(0.0, steal), pressure)

    def _read(self) -> _Sample:
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        steal = float(getattr(times, "steal", 0.0))
        guest = float(getattr(times, "guest", 0.0)) + float(getattr(times, "guest_nice", 0.0))
        # `guest` is counted inside `user` as well.
        busy = float(sum(times)) - idle - steal - guest
        own = sum(_cpu_seconds(pid) for pid in self._pids)
        pressure = _pressure_us(self._root)
        return _Sample(time.perf_counter(), busy, steal, own, pressure)


def _cpu_seconds(pid: int | None) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return times.user + times.system


def _pressure_us(root: Path) -> int | None:
    try:
        line = (root / "proc/pressure/cpu").read_text(encoding="ascii").splitlines()[0]
    except (OSError, IndexError):
        return None
    _, _, total = line.rpartition("total=")
    return int(total) if total.isdigit() else None
