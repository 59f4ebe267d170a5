"""The limits that a container or a systemd slice puts on this process, cgroup v2 and v1.

Source: Linux kernel documentation, admin-guide/cgroup-v2 and admin-guide/cgroup-v1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# cgroup v1 writes "no limit" as the largest multiple of the page size; anything near it is none.
_V1_UNLIMITED_BYTES = 1 << 60


@dataclass(frozen=True, slots=True)
class CgroupLimits:
    """What this process may use; `None` means no limit.

    Attributes:
        memory_bytes: The least memory limit on the way up to the root.
        memory_room_bytes: What may still be used under the tightest limit; file pages that the
            kernel can drop count as room.
        cpus: The least CPU quota, in cores; 1.5 is one and a half.
    """

    memory_bytes: int | None = None
    memory_room_bytes: int | None = None
    cpus: float | None = None


def read_limits(root: Path = Path("/")) -> CgroupLimits:
    """Read the limits in force, walking from this process's group to the root.

    Args:
        root: The file system's root; another one in tests.
    """
    limits: list[int] = []
    rooms: list[int] = []
    cpus: list[float] = []
    for folder in _groups(root):
        limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        if limit is not None and limit < _V1_UNLIMITED_BYTES:
            limits.append(limit)
            rooms.append(max(0, limit - _used(folder)))
        quota = _quota_v2(folder) or _quota_v1(folder)
        if quota is not None:
            cpus.append(quota)
    return CgroupLimits(
        min(limits, default=None), min(rooms, default=None), min(cpus, default=None)
    )


def read_memory_stall(root: Path = Path("/")) -> float | None:
    """Return the share of the last ten seconds in which some task waited for memory.

    Of this process's innermost group that tells it, else of the whole machine; `None` where the
    kernel does not count it.

    Source: Linux kernel documentation, accounting/psi.
    """
    places = [*(folder / "memory.pressure" for folder in _groups(root))]
    for path in [*places, root / "proc/pressure/memory"]:
        first = (_read(path) or "").partition("\n")[0].split()
        for word in first[1:] if first[:1] == ["some"] else ():
            key, _, value = word.partition("=")
            if key == "avg10" and value.replace(".", "", 1).isdigit():
                return float(value) / 100
    return None


def _used(folder: Path) -> int:
    """Return a group's memory in use, without the file pages that nobody has used lately."""
    used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes") or 0
    for line in (_read(folder / "memory.stat") or "").splitlines():
        key, _, value = line.partition(" ")
        # Version 1 has both a count of the group alone and one with the groups below it.
        if key == "total_inactive_file":
            return max(0, used - int(value))
        if key == "inactive_file":
            used_v2 = max(0, used - int(value))
            if (folder / "memory.current").exists():
                return used_v2
    return used


def _groups(root: Path) -> Iterator[Path]:
    """Yield every folder of this process's control groups, innermost first."""
    mounts = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        parts = line.split(":", 2)
        if len(parts) != 3:
            continue
        controllers, path = parts[1], parts[2].lstrip("/")
        if not controllers:
            bases = [mounts, mounts / "unified"]
        elif {"memory", "cpu"} & set(controllers.split(",")):
            bases = [mounts / controllers, *(mounts / name for name in controllers.split(","))]
        else:
            continue
        for base in bases:
            yield from _upwards(base, path)


def _upwards(base: Path, path: str) -> Iterator[Path]:
    # Inside a container the path may name the host's view, which is not mounted: the mount itself
    # is then this process's group.
    folder = base / path
    while folder != base and base in folder.parents:
        if folder.is_dir():
            yield folder
        folder = folder.parent
    if base.is_dir():
        yield base


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _number(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text and text.isdigit() else None


def _quota_v2(folder: Path) -> float | None:
    parts = (_read(folder / "cpu.max") or "").split()
    if len(parts) == 2 and parts[0].isdigit() and parts[1].isdigit() and int(parts[1]):
        return int(parts[0]) / int(parts[1])
    return None


def _quota_v1(folder: Path) -> float | None:
    quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return quota / period if quota and period else None
