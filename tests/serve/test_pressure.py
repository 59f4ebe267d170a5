"""Fewer requests at once while the machine is in trouble, and more again afterwards."""

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette

from llmedge.engine.engine import ModelInfo
from llmedge.engine.generation import Finished, Generation, TextPrompt
from llmedge.engine.process import EngineOptions, EngineProcess
from llmedge.engine.scheduler import SchedulerOptions
from llmedge.runtime.context import ContextOptions
from llmedge.serve.limits import Drain, Limits
from llmedge.serve.metrics import Meters
from llmedge.serve.pool import ModelPool, ModelSource, pool_of
from llmedge.serve.pressure import (
    Condition,
    PressureOptions,
    PressurePolicy,
    PressureWatch,
    read_condition,
)
from llmedge.serve.status import routes
from tests.fakes import FakeEngine
from tests.serve.asgi import ask

GIB = 1 << 30
WELL = Condition(4 * GIB, 8 * GIB, 0.0, 40.0)
SHORT = replace(WELL, available_bytes=100 << 20)
STALLED = replace(WELL, stall=0.5)
HOT = replace(WELL, margin_celsius=2.0)
NOW = PressureOptions(step_s=0.0, calm_s=0.0)


def levels(policy: PressurePolicy, *looks: tuple[float, Condition], n_most: int = 8) -> list[int]:
    found: list[int] = []
    for now, condition in looks:
        policy.update(condition, n_most, now)
        found.append(policy.level)
    return found


@pytest.mark.parametrize(
    ("trouble", "cause"), [(SHORT, "memory"), (STALLED, "memory"), (HOT, "heat")]
)
def test_each_trouble_halves_the_slots_at_once_and_says_why(trouble: Condition, cause: str):
    policy = PressurePolicy()
    assert levels(policy, (0, WELL), (1, trouble)) == [0, 1]
    assert policy.causes == {cause}
    assert [policy.n_slots(n) for n in (1, 2, 3, 8)] == [1, 1, 1, 4]


def test_a_step_down_waits_for_what_the_last_one_did_and_stops_at_one_slot():
    looks = [(float(second), SHORT) for second in range(16)]
    assert levels(PressurePolicy(), *looks) == [1] * 5 + [2] * 5 + [3] * 6
    assert levels(PressurePolicy(), *looks, n_most=1)[-1] == 1


def test_a_step_up_wants_calm_and_not_only_the_end_of_trouble():
    policy, between = PressurePolicy(), replace(WELL, available_bytes=450 << 20)
    assert levels(policy, (0, SHORT), (5, SHORT), (40, between), (90, between)) == [1, 2, 2, 2]
    assert levels(policy, (100, WELL), (129, WELL), (130, WELL)) == [2, 2, 1]
    assert levels(policy, (150, between), (161, WELL), (190, WELL), (191, WELL)) == [1, 1, 1, 0]
    assert policy.causes == frozenset()


def test_a_small_machine_is_measured_by_its_own_size():
    small = Condition(80 << 20, GIB)
    assert levels(PressurePolicy(), (0, small)) == [0]
    assert levels(PressurePolicy(), (0, replace(small, available_bytes=40 << 20))) == [1]


def test_what_the_machine_does_not_tell_is_no_trouble():
    assert levels(PressurePolicy(), (0, Condition(4 * GIB, 8 * GIB))) == [0]


@given(st.lists(st.sampled_from([WELL, SHORT, STALLED, HOT]), max_size=60), st.integers(1, 64))
def test_the_level_moves_by_one_within_its_bounds(conditions: list[Condition], n_most: int):
    policy, before = PressurePolicy(NOW), 0
    for now, condition in enumerate(conditions):
        policy.update(condition, n_most, now)
        assert abs(policy.level - before) <= 1
        assert 1 <= policy.n_slots(n_most) <= n_most
        assert bool(policy.causes) == bool(policy.level)
        before = policy.level
    for now in range(20):
        policy.update(WELL, n_most, len(conditions) + now)
    assert policy.level == 0


class Machine:
    """A machine whose condition is set, and a pool of fakes on it."""

    def __init__(self) -> None:
        self.condition = WELL
        self.engine = FakeEngine(info=ModelInfo("m", n_slots=4))
        self.meters = Meters()
        self.pool = pool_of(self.engine, Limits(), Drain(), self.meters)
        self.watch = PressureWatch(self.pool, PressurePolicy(NOW), lambda: self.condition)

    async def get(self, path: str) -> str:
        app = Starlette(routes=routes(self.pool, self.meters, self.watch))
        return (await ask(app, "GET", path)).body.decode()


def test_engines_are_told_and_health_metrics_and_log_say_so(caplog: pytest.LogCaptureFixture):
    machine = Machine()

    async def run() -> None:
        await machine.watch.look()
        assert machine.engine.limits == []
        assert await machine.get("/health") == '{"status":"ok"}'
        machine.condition = SHORT
        await machine.watch.look()
        await machine.watch.look()
        await machine.watch.look()  # one slot is the least; what is kept again stays
        assert machine.engine.limits.pop() == (1, False)
        assert await machine.get("/health") == '{"status":"ok","lowered_for":["memory"]}'
        metrics = await machine.get("/metrics")
        assert "llmedge_parallelism_halvings 2\n" in metrics
        assert "llmedge_parallelism_lowered_total 2\n" in metrics
        assert 'llmedge_pressure{cause="memory"} 1\n' in metrics
        assert 'llmedge_pressure{cause="heat"} 0\n' in metrics
        assert f"llmedge_available_memory_bytes {100 << 20}\n" in metrics
        assert "llmedge_heat_margin_celsius 40\n" in metrics
        machine.condition = WELL
        for _ in range(4):
            await machine.watch.look()
        assert machine.engine.limits == [(2, True), (1, True), (1, False), (2, False), (4, False)]
        assert await machine.get("/health") == '{"status":"ok"}'

    with caplog.at_level(logging.WARNING, "llmedge.serve"):
        asyncio.run(run())
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "parallelism lowered to 1/2 of the slots (memory)",
        "parallelism lowered to 1/4 of the slots (memory)",
        "parallelism raised to 1/2 of the slots (memory)",
        "parallelism raised to 1/1 of the slots (all is well)",
    ]


def test_heat_gives_up_no_prefixes():
    machine = Machine()
    machine.condition = HOT
    asyncio.run(machine.watch.look())
    assert machine.engine.limits == [(2, False)]


def test_an_unused_model_is_unloaded_and_the_only_one_stays(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("llmedge.serve.pool._FRESH_S", 0.0)
    opened: list[FakeEngine] = []

    def source(name: str) -> ModelSource:
        info = ModelInfo(name, n_ctx=4096, n_slots=4)
        return ModelSource(info, lambda: opened.append(FakeEngine(info=info)) or opened[-1])

    async def run() -> None:
        pool = ModelPool([source("a"), source("b")], Limits(), Drain(), Meters())
        events = (await pool.engine("a")).generate(Generation(TextPrompt("x")))
        await anext(events)
        await pool.engine("b")
        await asyncio.sleep(0.01)
        await PressureWatch(pool, PressurePolicy(NOW), lambda: SHORT).look()
        assert pool.states == {"a": "ready", "b": "unloaded"}
        assert [engine.limits for engine in opened] == [[(2, True)], [(2, True)]]
        await events.aclose()
        machine = Machine()
        machine.condition = SHORT
        await machine.watch.look()
        assert machine.pool.states == {"m": "ready"}

    asyncio.run(run())


def test_a_machine_that_cannot_be_read_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("llmedge.serve.pressure._AFTER_FAILURE_S", 0.01)
    machine, failures = Machine(), [OSError("sensor"), ValueError("driver")]

    def read() -> Condition:
        if failures:
            raise failures.pop()
        return SHORT

    async def run() -> None:
        watch = PressureWatch(machine.pool, PressurePolicy(NOW), read, every_s=60)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(watch.run(), 0.5)
        assert watch.policy.level == 1

    asyncio.run(run())
    assert caplog.text.count("cannot be read") == 2


def test_this_machine_can_be_asked():
    condition = read_condition()
    assert 0 < condition.available_bytes <= condition.total_bytes


def test_a_real_engine_runs_fewer_at_once_gives_up_prefixes_and_recovers(tiny_model: Path):
    options = EngineOptions(
        context=ContextOptions(n_ctx=512, n_batch=64), scheduler=SchedulerOptions(n_slots=4)
    )

    async def most_running(engine: EngineProcess) -> int:
        """Ask four at once; return the most that ran beside each other."""
        spans: list[tuple[float, float]] = []

        async def one(text: str) -> None:
            request = Generation(TextPrompt(text * 40), max_tokens=60, ignore_end=True)
            async for event in engine.generate(request):
                if isinstance(event, Finished):
                    report = event.report
                    end = report.queue_s + report.prompt_s + report.generation_s
                    spans.append((report.queue_s, end))

        await asyncio.gather(*(one(text) for text in "abcd"))
        assert len(spans) == 4
        middles = [(start + end) / 2 for start, end in spans]
        return max(sum(start < middle < end for start, end in spans) for middle in middles)

    async def until(engine: EngineProcess, n_slots: int) -> None:
        async with asyncio.timeout(10):
            while (await engine.stats()).n_slots != n_slots:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def run(engine: EngineProcess) -> None:
        condition = WELL
        pool = pool_of(engine, Limits(), Drain(), Meters())
        watch = PressureWatch(pool, PressurePolicy(NOW), lambda: condition)
        assert await most_running(engine) > 1
        assert (await engine.stats()).n_slots == 4
        assert (await engine.stats()).n_cells_cached > 100
        condition = SHORT
        await watch.look()
        await watch.look()
        await until(engine, 1)
        assert (await engine.stats()).n_cells_cached == 0
        assert await most_running(engine) == 1
        condition = WELL
        for _ in range(3):
            await watch.look()
        await until(engine, 4)
        engine.limit(99, forgets=False)
        await most_running(engine)
        await until(engine, 4)

    with EngineProcess.open(tiny_model, "tiny", options) as engine:
        asyncio.run(asyncio.wait_for(run(engine), 60))
