"""This machine as a device to judge for: its memory is known, its speed is for `bench`."""

from __future__ import annotations

from llmedge.device.profile import Budget, Profile
from llmedge.host.cpu import read_cpu, read_cpu_flags
from llmedge.host.memory import read_memory


def this_machine() -> Profile:
    """Return a profile of what runs this."""
    cpu, memory, flags = read_cpu(), read_memory(), read_cpu_flags()
    is_x86 = "86" in cpu.machine or "amd64" in cpu.machine.lower()
    isa = "avx2" if is_x86 else "i8mm" if "i8mm" in flags else "dotprod"
    if not is_x86 and flags and not flags & {"asimddp", "dotprod"}:
        isa = "baseline"
    now, most = memory.available_bytes, memory.total_bytes
    budget = Budget(min(now, most), most, most, "memory that is available now, and all there is")
    return Profile(
        "host",
        cpu.model,
        "host",
        isa,
        cpu.default_threads,
        budget,
        None,
        is_calibrated=False,
        facts={},
    )
