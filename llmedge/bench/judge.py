"""Whether a measurement may be believed: rules over what was read beside it, nothing measured here.

The limits: threads that wait for a core stall all others at every barrier, so that a busy loop
beside two threads on two cores costs a factor of five to thirteen. They tell a busy machine from an
idle one; what a virtual machine's neighbours do to caches and memory, no figure here shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Not for type checking alone: records are decoded by these.
from llmedge.host.load import LoadReport  # noqa: TC001

Flag = Literal["contended", "throttled", "swapping", "charging", "unchecked"]

_MAX_PRESSURE = 0.05
_MAX_WAITING = 0.05
_MIN_EFFICIENCY = 0.90
_MAX_SWITCHES_PER_S = 100.0  # of one thread
_MIN_CLOCK_SHARE = 0.85  # of the clock before; boost clocks fall by less in the first seconds
_MAX_SWAPPED_BYTES = 1 << 20
# Waiting for these to pass is of use.
PASSING = frozenset({"contended", "throttled", "swapping"})


@dataclass(frozen=True, slots=True)
class Readings:
    """What was read of the machine during one cell; `None` is what the system does not tell.

    Attributes:
        load: Other processes, the hypervisor, the time that tasks waited.
        cpu_efficiency: Share of their time that the threads computed.
        waiting: Of the time that threads could run, what they waited for a core.
        switches_per_s: How often a second each thread lost its core against its will.
        swapped_in_bytes: Read back from swap, by the whole machine.
        n_throttle_events: Times that heat throttled a core.
        is_capped: Whether a cooling device held the clock down.
        clock_share: The clock at the end over the clock at the start.
        power_source: `mains`, `battery` or `charging`.
        is_offloaded: Whether a GPU does the work, and the processor's threads wait for it.
    """

    load: LoadReport
    cpu_efficiency: float
    waiting: float | None = None
    switches_per_s: float | None = None
    swapped_in_bytes: int | None = None
    n_throttle_events: int | None = None
    is_capped: bool | None = None
    clock_share: float | None = None
    power_source: str = "mains"
    is_offloaded: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason not to believe a measurement.

    Attributes:
        flag: What is wrong, in a word.
        reason: The figure that says so.
    """

    flag: Flag
    reason: str


def judge(readings: Readings) -> tuple[Finding, ...]:
    """Return every reason not to believe a measurement, none for a good one."""
    checks = (*_contention(readings), *_heat(readings), *_others(readings))
    return tuple(Finding(flag, reason) for is_wrong, flag, reason in checks if is_wrong)


def flags_of(findings: tuple[Finding, ...]) -> tuple[str, ...]:
    """Return the flags, each once."""
    return tuple(dict.fromkeys(finding.flag for finding in findings))


def _contention(r: Readings) -> list[tuple[bool, Flag, str]]:
    load, waiting, switches = r.load, r.waiting, r.switches_per_s
    # Threads that sleep at a barrier are idle and have lost nothing: how long they waited for a
    # core is the better figure, and where it is known, it decides.
    is_slow = waiting is None and not r.is_offloaded and r.cpu_efficiency < _MIN_EFFICIENCY
    return [
        (
            load.is_contended,
            "contended",
            f"other processes took {load.other_cpu:.0%} of a core, "
            f"the hypervisor {load.steal:.0%} of all",
        ),
        (
            load.pressure is not None and load.pressure > _MAX_PRESSURE,
            "contended",
            f"some task waited for a core in {load.pressure or 0:.0%} of the time",
        ),
        (
            waiting is not None and waiting > _MAX_WAITING,
            "contended",
            f"the threads waited for a core in {waiting or 0:.0%} of their time",
        ),
        (is_slow, "contended", f"the threads computed in {r.cpu_efficiency:.0%} of their time"),
        (
            switches is not None and switches > _MAX_SWITCHES_PER_S,
            "contended",
            f"each thread lost its core {switches or 0:.0f} times a second",
        ),
    ]


def _heat(r: Readings) -> list[tuple[bool, Flag, str]]:
    share = r.clock_share
    return [
        (bool(r.n_throttle_events), "throttled", f"heat throttled {r.n_throttle_events} times"),
        (bool(r.is_capped), "throttled", "a cooling device holds the clock down"),
        (
            share is not None and share < _MIN_CLOCK_SHARE,
            "throttled",
            f"the clock fell to {share or 0:.0%} of what it was",
        ),
    ]


def _others(r: Readings) -> list[tuple[bool, Flag, str]]:
    swapped = r.swapped_in_bytes or 0
    return [
        (swapped > _MAX_SWAPPED_BYTES, "swapping", f"{swapped >> 20} MiB came back from swap"),
        (r.power_source == "charging", "charging", "the battery is being charged"),
    ]
