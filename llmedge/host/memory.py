"""Memory of this machine and of a process, in bytes."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from llmedge.core.closable import Closable
from llmedge.core.errors import ResourceError
from llmedge.core.units import format_mb
from llmedge.host import cgroup

_PROPORTIONAL_S = 1.0


@dataclass(frozen=True, slots=True)
class SystemMemory:
    """What the machine has, within the cgroup's limits.

    Attributes:
        total_bytes: Memory this process could ever use.
        available_bytes: Memory it could use now without swapping.
        swap_total_bytes: Swap space; phones and small boards have none or compressed memory.
        limit_bytes: The cgroup's limit, `None` without one.
    """

    total_bytes: int
    available_bytes: int
    swap_total_bytes: int
    limit_bytes: int | None


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """One process's resident memory.

    Attributes:
        resident_bytes: All of it, mapped files included.
        anonymous_bytes: What has no file behind it and cannot be dropped; `None` where the system
            does not tell.
        proportional_bytes: All of it, with a page that several processes map divided among them;
            `None` where the system does not tell, or nobody asked: it takes milliseconds.
    """

    resident_bytes: int
    anonymous_bytes: int | None
    proportional_bytes: int | None = None


def read_memory(root: Path = Path("/")) -> SystemMemory:
    """Read the machine's memory, cut to the cgroup's limit."""
    virtual, swap = psutil.virtual_memory(), psutil.swap_memory()
    limits = cgroup.read_limits(root)
    total, available = virtual.total, virtual.available
    if limits.memory_bytes is not None and limits.memory_room_bytes is not None:
        total = min(total, limits.memory_bytes)
        available = min(available, limits.memory_room_bytes)
    return SystemMemory(total, available, swap.total, limits.memory_bytes)


def read_process_memory(pid: int) -> ProcessMemory | None:
    """Read a process's memory now, or `None` when it is gone."""
    try:
        info = psutil.Process(pid).memory_info()
    except psutil.Error:
        return None
    anonymous: int | None = getattr(info, "private", None) or getattr(info, "uss", None)
    if sys.platform == "linux":
        anonymous = _status_bytes(pid, "RssAnon")
    return ProcessMemory(info.rss, anonymous)


class PeakMemory(Closable):
    """Watches another process's memory on a thread until it is stopped.

    Resident memory comes from the kernel's own high-water mark where there is one; anonymous
    memory has none and is sampled.
    """

    def __init__(self, pid: int, interval_s: float = 0.02) -> None:
        self._pid = pid
        self._interval_s = interval_s
        self._resident = 0
        self._anonymous: int | None = None
        self._proportional: int | None = None
        self._proportional_due_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the watch."""
        self._stop.set()

    def stop(self) -> ProcessMemory:
        """End the watch and return the peaks."""
        self._stop.set()
        self._thread.join()
        self._proportional_due_s = 0.0
        self._sample()
        return ProcessMemory(self._resident, self._anonymous, self._proportional)

    def _watch(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._sample()

    def _sample(self) -> None:
        now = read_process_memory(self._pid)
        if now is None:
            return
        high_water = _status_bytes(self._pid, "VmHWM") if sys.platform == "linux" else None
        self._resident = max(self._resident, now.resident_bytes, high_water or 0)
        if now.anonymous_bytes is not None:
            self._anonymous = max(self._anonymous or 0, now.anonymous_bytes)
        # The kernel walks all its pages for this one.
        if time.perf_counter() >= self._proportional_due_s:
            self._proportional_due_s = time.perf_counter() + _PROPORTIONAL_S
            share = _proc_bytes(self._pid, "smaps_rollup", "Pss")
            if share is not None:
                self._proportional = max(self._proportional or 0, share)


def read_free_disk(folder: Path) -> int:
    """Return the bytes that may still be written under a folder that exists."""
    return psutil.disk_usage(str(folder)).free


def require_free_disk(folder: Path, n_bytes: int) -> None:
    """Make sure that a file of this size can be written.

    Raises:
        ResourceError: The disk has less room, with both numbers.
    """
    free = read_free_disk(folder)
    if free < n_bytes:
        raise ResourceError(
            f"{format_mb(n_bytes)} are needed in {folder}, {format_mb(free)} are free",
            "free some space or choose another folder with -o",
        )


def _status_bytes(pid: int, key: str) -> int | None:
    return _proc_bytes(pid, "status", key)


def _proc_bytes(pid: int, name: str, key: str) -> int | None:
    try:
        text = Path(f"/proc/{pid}/{name}").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return None
