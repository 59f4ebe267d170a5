"""Fewer requests at once while memory is short or the machine is hot, and more again afterwards.

The policy is pure; the watch asks the machine every few seconds and tells the engines.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from llmedge.core.units import format_mb
from llmedge.host.cgroup import read_memory_stall
from llmedge.host.memory import read_memory
from llmedge.host.sensors import read_heat_margin

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from llmedge.engine.engine import Engine

_log = logging.getLogger("llmedge.serve")

Cause: TypeAlias = Literal["memory", "heat"]
_AFTER_FAILURE_S = 60.0
CAUSES: tuple[Cause, ...] = ("memory", "heat")


@dataclass(frozen=True, slots=True)
class Condition:
    """The machine at one moment.

    Attributes:
        available_bytes: Memory that can be used now, within the cgroup's limits.
        total_bytes: Memory that could ever be.
        stall: Share of the last seconds in which some task waited for memory; `None`: not known.
        margin_celsius: Degrees left until a sensor reaches its limit; `None`: not known.
    """

    available_bytes: int
    total_bytes: int
    stall: float | None = None
    margin_celsius: float | None = None


@dataclass(frozen=True, slots=True)
class PressureOptions:
    """When the machine is in trouble, and when it is well again.

    Between the two nothing changes, so that it does not go to and fro.

    Attributes:
        low_share: Trouble below this share of the memory …
        low_bytes: … or below this, whichever is less.
        ease: Well again above this many times the bound.
        stall: Trouble above this share of time spent waiting for memory; well below a quarter.
        margin_celsius: Trouble below; well above twice as much.
        step_s: Least time between two steps down: what the first did must be seen.
        calm_s: How long the machine must be well for each step up.
    """

    low_share: float = 0.05
    low_bytes: int = 384 << 20
    ease: float = 1.5
    stall: float = 0.2
    margin_celsius: float = 4.0
    step_s: float = 5.0
    calm_s: float = 30.0


class PressurePolicy:
    """Decides how often the number of requests at once is halved.

    Args:
        options: When.

    Attributes:
        level: How often it is halved now.
        causes: Why, in the words of the last step down; none at level 0.
    """

    def __init__(self, options: PressureOptions | None = None) -> None:
        self._options = options or PressureOptions()
        self._lowered_s: float | None = None
        self._well_since: float | None = None
        self.level = 0
        self.causes: frozenset[Cause] = frozenset()

    def update(self, condition: Condition, n_most: int, now: float) -> bool:
        """Take a look at the machine into account.

        Args:
            condition: The machine now.
            n_most: The most slots that any engine has.
            now: Seconds from any beginning, not before those of the last call.

        Returns:
            Whether something should be given up now.
        """
        troubles = self._troubles(condition)
        if troubles:
            self._well_since = None
            self.causes |= troubles
            return self._step_down(n_most, now)
        if not self._is_well(condition):
            self._well_since = None
        elif self._well_since is None:
            self._well_since = now
        elif self.level and now - self._well_since >= self._options.calm_s:
            self.level -= 1
            self._well_since = now
        if not self.level:
            self.causes = frozenset()
        return False

    def n_slots(self, n_most: int) -> int:
        """Return how many requests may run at once, of an engine's own number; at least one."""
        return max(1, n_most >> self.level)

    def _step_down(self, n_most: int, now: float) -> bool:
        is_settled = self._lowered_s is None or now - self._lowered_s >= self._options.step_s
        if is_settled:
            # One more than it takes would only have to be taken back.
            self.level = min(self.level + 1, max(1, n_most.bit_length() - 1))
            self._lowered_s = now
        return is_settled

    def _low_bytes(self, condition: Condition) -> float:
        chosen = self._options
        return min(chosen.low_bytes, chosen.low_share * condition.total_bytes)

    def _troubles(self, condition: Condition) -> frozenset[Cause]:
        chosen, causes = self._options, set[Cause]()
        if condition.available_bytes < self._low_bytes(condition):
            causes.add("memory")
        if condition.stall is not None and condition.stall > chosen.stall:
            causes.add("memory")
        margin = condition.margin_celsius
        if margin is not None and margin < chosen.margin_celsius:
            causes.add("heat")
        return frozenset(causes)

    def _is_well(self, condition: Condition) -> bool:
        chosen, margin = self._options, condition.margin_celsius
        return (
            condition.available_bytes > chosen.ease * self._low_bytes(condition)
            and (condition.stall is None or condition.stall < chosen.stall / 4)
            and (margin is None or margin > 2 * chosen.margin_celsius)
        )


def read_condition() -> Condition:
    """Ask the machine, which may take some milliseconds."""
    memory = read_memory()
    return Condition(
        memory.available_bytes, memory.total_bytes, read_memory_stall(), read_heat_margin()
    )


class Relieved(Protocol):
    """Whoever has engines, and may unload some."""

    def loaded(self) -> Collection[Engine]:
        """Return the engines that are loaded."""
        ...

    async def relieve(self) -> None:
        """Unload what nobody uses and what comes back when it is asked for."""
        ...


class PressureWatch:
    """Lets a policy rule over engines.

    Args:
        engines: Which.
        policy: How.
        read: Asks the machine; called on a thread.
        every_s: How often.

    Attributes:
        policy: What was decided last.
        condition: What the machine said last; `None` before it was asked.
        n_lowered: How often parallelism was lowered.
    """

    def __init__(
        self,
        engines: Relieved,
        policy: PressurePolicy | None = None,
        read: Callable[[], Condition] = read_condition,
        every_s: float = 2.0,
    ) -> None:
        self._engines = engines
        self._read = read
        self._every_s = every_s
        self.policy = policy or PressurePolicy()
        self.condition: Condition | None = None
        self.n_lowered = 0

    @property
    def causes(self) -> Sequence[Cause]:
        """Why fewer requests are answered at once; nothing while that is not so."""
        return [cause for cause in CAUSES if cause in self.policy.causes]

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            pause_s = self._every_s
            try:
                await self.look()
            except Exception:  # noqa: BLE001 - a sensor's driver may say anything; the endpoint lives on
                _log.exception("the machine's condition cannot be read")
                pause_s = _AFTER_FAILURE_S
            await asyncio.sleep(pause_s)

    async def look(self) -> None:
        """Ask the machine once, and do what follows."""
        policy = self.policy
        self.condition = await asyncio.to_thread(self._read)
        engines = self._engines.loaded()
        before = policy.level
        n_most = max((engine.info.n_slots for engine in engines), default=1)
        gives_up = policy.update(self.condition, n_most, time.monotonic())
        if policy.level != before:
            self.n_lowered += policy.level > before
            self._say(self.condition, before)
        is_memory_short = "memory" in policy.causes
        if policy.level or before:
            forgets = is_memory_short and policy.level > before
            # Again at each look: engines may have been loaded, or started anew, since the last.
            for engine in engines:
                engine.limit(policy.n_slots(engine.info.n_slots), forgets=forgets)
        if gives_up and is_memory_short:
            await self._engines.relieve()

    def _say(self, condition: Condition, before: int) -> None:
        level, margin = self.policy.level, condition.margin_celsius
        _log.warning(
            "parallelism %s to 1/%d of the slots (%s): %s of memory available%s",
            "lowered" if level > before else "raised",
            1 << level,
            ", ".join(self.causes) or "all is well",
            format_mb(condition.available_bytes),
            "" if margin is None else f", {margin:.0f} degrees below the limit",
        )
