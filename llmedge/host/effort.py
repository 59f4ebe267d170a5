"""What this process's threads got of the machine between two moments, and what they waited for."""

from __future__ import annotations

import mmap
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil

NumberT = TypeVar("NumberT", int, float)


@dataclass(frozen=True, slots=True)
class Effort:
    """One stretch of work; `None` stands for what the system does not tell.

    Attributes:
        wall_s: How long it took.
        cpu_s: Processor time of all threads together.
        waiting_s: Time that threads could have run and had no core, all together (Linux).
        involuntary_switches: How often the system took the core from a thread that wanted it.
        major_faults: Page faults that had to read.
        swapped_in_bytes: What the whole machine read back from swap meanwhile (Linux).
    """

    wall_s: float
    cpu_s: float
    waiting_s: float | None
    involuntary_switches: int | None
    major_faults: int | None
    swapped_in_bytes: int | None

    def efficiency(self, n_threads: int) -> float:
        """Return the share of their time that so many threads computed."""
        return self.cpu_s / max(self.wall_s * n_threads, 1e-9)

    @property
    def waiting_share(self) -> float | None:
        """Of the time that threads ran or could have run, what they waited for a core."""
        if self.waiting_s is None:
            return None
        return self.waiting_s / max(self.waiting_s + self.cpu_s, 1e-9)


class EffortWatch:
    """Compares two moments of this process.

    Args:
        root: The file system's root; another one in tests.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._start = self._read()

    def stop(self) -> Effort:
        """Return what happened since the start; may be asked again."""
        first, last = self._start, self._read()
        return Effort(
            wall_s=last.wall_s - first.wall_s,
            cpu_s=last.cpu_s - first.cpu_s,
            waiting_s=_less(last.waiting_s, first.waiting_s),
            involuntary_switches=_less(last.involuntary_switches, first.involuntary_switches),
            major_faults=_less(last.major_faults, first.major_faults),
            swapped_in_bytes=_less(last.swapped_in_bytes, first.swapped_in_bytes),
        )

    def _read(self) -> Effort:
        times = psutil.Process().cpu_times()
        switches = faults = None
        if sys.platform != "win32":
            import resource  # not on Windows

            usage = resource.getrusage(resource.RUSAGE_SELF)
            switches, faults = usage.ru_nivcsw, usage.ru_majflt
        return Effort(
            wall_s=time.perf_counter(),
            cpu_s=times.user + times.system,
            waiting_s=_waiting_s(self._root),
            involuntary_switches=switches,
            major_faults=faults,
            swapped_in_bytes=_swapped_in_bytes(self._root),
        )


def read_mapped_pages(pid: int, path: Path, root: Path = Path("/")) -> int | None:
    """Return the bytes of a mapped file that a process has touched since `forget_touched`.

    0 where it maps none of it, `None` where the system does not tell.

    Source: Linux kernel documentation, filesystems/proc (`smaps`, `Referenced`).
    """
    try:
        lines = (root / f"proc/{pid}/smaps").read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    total, is_of_file = 0, False
    name = str(path.resolve())
    for line in lines:
        key, _, rest = line.partition(" ")
        if not key.endswith(":"):
            is_of_file = line.endswith(name)
        elif is_of_file and key == "Referenced:":
            total += int(rest.split()[0]) * 1024
    return total


def forget_touched() -> None:
    """Let the system count anew which pages this process touches; no-op where it does not."""
    _write_text(Path("/proc/self/clear_refs"), "1")


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="ascii")
    except OSError:
        return


def _less(last: NumberT | None, first: NumberT | None) -> NumberT | None:
    return None if last is None or first is None else last - first


def _waiting_s(root: Path) -> float | None:
    """Sum what all threads have waited for a core. Source: scheduler/sched-stats (nanoseconds)."""
    total = 0
    try:
        for task in os.scandir(root / "proc/self/task"):
            fields = (Path(task.path) / "schedstat").read_text(encoding="ascii").split()
            total += int(fields[1])
    except (OSError, IndexError, ValueError):
        return None
    return total / 1e9


def _swapped_in_bytes(root: Path) -> int | None:
    try:
        text = (root / "proc/vmstat").read_text(encoding="ascii")
    except OSError:
        return None
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == "pswpin" and value.isdigit():
            return int(value) * mmap.PAGESIZE
    return None
