"""This machine's cores: how many, of which kind, and how many this process should compute with."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from llmedge.host import cgroup

# Cores that reach less than this share of the fastest core's capacity are efficiency cores: a
# barrier waits for the slowest thread, so they slow the fast ones down.
_PERFORMANCE_SHARE = 0.75


@dataclass(frozen=True, slots=True)
class Cpu:
    """The processor as this process may use it.

    Attributes:
        model: The processor's name as the system gives it.
        machine: The architecture, `x86_64`, `arm64` …
        n_logical: Hardware threads that this process may run on.
        n_physical: Physical cores among them.
        n_performance: Physical cores of the fastest kind among them.
        cpu_quota: The cgroup's quota in cores, `None` without one.
    """

    model: str
    machine: str
    n_logical: int
    n_physical: int
    n_performance: int
    cpu_quota: float | None

    @property
    def default_threads(self) -> int:
        """Threads to compute with: the performance cores, within the cgroup's quota."""
        n_threads = self.n_performance
        if self.cpu_quota is not None:
            n_threads = min(n_threads, int(self.cpu_quota))
        return max(1, n_threads)


def read_cpu(root: Path = Path("/")) -> Cpu:
    """Read the processor's facts.

    Args:
        root: The file system's root; another one in tests.
    """
    allowed = allowed_cpus()
    cores: list[float] = _linux_cores(root, allowed) if sys.platform == "linux" else []
    fast = _intel_performance_cpus(root) & allowed
    if cores and fast:
        return _describe(root, allowed, len(cores), len(_linux_cores(root, fast)))
    n_physical = len(cores) or min(psutil.cpu_count(logical=False) or 1, len(allowed))
    if cores:
        fastest = max(capacity for capacity in cores)
        n_performance = sum(capacity >= _PERFORMANCE_SHARE * fastest for capacity in cores)
    else:
        n_performance = min(_mac_performance_cores() or n_physical, n_physical)
    return _describe(root, allowed, n_physical, n_performance)


def read_cpu_flags(root: Path = Path("/")) -> frozenset[str]:
    """Return the kernel's names of the processor's instruction sets; empty where it lists none."""
    for line in (_read(root / "proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def _describe(root: Path, allowed: set[int], n_physical: int, n_performance: int) -> Cpu:
    return Cpu(
        model=_model_name(root),
        machine=platform.machine(),
        n_logical=len(allowed),
        n_physical=n_physical,
        n_performance=n_performance,
        cpu_quota=cgroup.read_limits(root).cpus,
    )


def _intel_performance_cpus(root: Path) -> set[int]:
    """Return the hardware threads of a hybrid Intel processor's fast cores, `0-11,16`.

    The kernel names them itself; their top clocks are too near to those of the slow ones.
    """
    cpus: set[int] = set()
    for part in (_read(root / "sys/devices/cpu_core/cpus") or "").split(","):
        first, _, last = part.partition("-")
        if first.isdigit() and (last.isdigit() or not last):
            cpus.update(range(int(first), int(last or first) + 1))
    return cpus


def allowed_cpus() -> set[int]:
    """Return the hardware threads that this process may run on."""
    if sys.platform == "linux":
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _linux_cores(root: Path, allowed: set[int]) -> list[float]:
    """Return one capacity a physical core: the kernel's own scale, or the top clock in kHz."""
    capacities: dict[tuple[str, str], float] = {}
    for cpu in sorted(allowed):
        folder = root / f"sys/devices/system/cpu/cpu{cpu}"
        package = _read(folder / "topology/physical_package_id")
        core = _read(folder / "topology/core_id")
        if package is None or core is None:
            return []
        text = _read(folder / "cpu_capacity") or _read(folder / "cpufreq/cpuinfo_max_freq")
        capacity = float(text) if text and text.isdigit() else 1.0
        # Every core of an ARM cluster may carry the same core_id 0; the cluster tells them apart.
        cluster = _read(folder / "topology/cluster_id") or ""
        key = (f"{package}/{cluster}", core)
        capacities[key] = max(capacity, capacities.get(key, 0.0))
    return list(capacities.values())


def _mac_performance_cores() -> int | None:
    if sys.platform != "darwin":
        return None
    command = ["/usr/sbin/sysctl", "-n", "hw.perflevel0.physicalcpu"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(result.stdout) if result.stdout.strip().isdigit() else None


def _model_name(root: Path) -> str:
    if sys.platform == "linux":
        for line in (_read(root / "proc/cpuinfo") or "").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Hardware", "Model") and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def choose_threads(*wishes: int | None) -> int:
    """Return the first wish that was made, else the performance cores within the limits."""
    return next((wish for wish in wishes if wish), None) or read_cpu().default_threads
