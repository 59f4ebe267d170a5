"""Several models behind one address."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from llmedge.core.errors import IntegrityError, NotFoundError, ResourceError, UsageError
from llmedge.engine.engine import ModelInfo
from llmedge.serve.limits import Drain, Limits
from llmedge.serve.metrics import Meters
from llmedge.serve.pool import ModelPool, ModelSource
from tests.fakes import FakeEngine
from tests.serve.endpoint import CHAT, HELLO, serving, wait_until


class Shelf:
    """Models that can be loaded, and what became of them."""

    def __init__(self, *names: str, needs_bytes: int = 100, free: int = 250) -> None:
        self.opened: list[FakeEngine] = []
        self.needs_bytes = needs_bytes
        self.total = free
        self.error: Exception | None = None
        self.slow_s = 0.0
        self.sources = [self.source(name) for name in names]

    def source(self, name: str) -> ModelSource:
        info = ModelInfo(name, n_ctx=4096)

        def open_engine() -> FakeEngine:
            time.sleep(self.slow_s)
            if self.error:
                raise self.error
            self.opened.append(FakeEngine([f"I am {name}"], info=info))
            return self.opened[-1]

        return ModelSource(info, open_engine, self.needs_bytes)

    def free_bytes(self) -> int:
        return self.total - sum(self.needs_bytes for e in self.opened if e.state != "closed")

    def pool(self, **options) -> ModelPool:
        options.setdefault("free_bytes", self.free_bytes)
        return ModelPool(self.sources, Limits(), Drain(), Meters(), **options)


def test_each_name_is_answered_by_its_model_loaded_once():
    shelf = Shelf("a", "b")
    shelf.slow_s = 0.2
    with serving(shelf.sources) as client, ThreadPoolExecutor(8) as threads:
        _, body = client.get("/v1/models")
        assert [(c["id"], c["meta"]["state"]) for c in body["data"]] == [
            ("a", "unloaded"),
            ("b", "unloaded"),
        ]
        names = ["a", "b"] * 4
        answers = threads.map(lambda name: client.post(CHAT, {**HELLO, "model": name}), names)
        for name, (status, body) in zip(names, answers, strict=True):
            assert (status, body["model"]) == (200, name)
            assert body["choices"][0]["message"]["content"] == f"I am {name}"
        assert len(shelf.opened) == 2
        for name in ("c", "a/../b", "./a", "A", "/etc/passwd"):
            assert client.post(CHAT, {**HELLO, "model": name})[0] == 404
        for nameless in ({}, {"model": ""}, {"model": None}):
            status, body = client.post(CHAT, {**HELLO, **nameless})
            assert (status, body["error"]["message"]) == (400, "say which model: 'a', 'b' are")
        assert client.get("/v1/models/a")[1]["meta"]["state"] == "ready"


def test_a_model_that_cannot_be_loaded_is_an_error_each_time_and_others_work():
    shelf = Shelf("a")
    shelf.error = IntegrityError("a.gguf is damaged")

    async def run() -> None:
        pool = shelf.pool()
        for _ in range(2):
            with pytest.raises(IntegrityError):
                await pool.engine("a")
        assert pool.states == {"a": "unloaded"}
        shelf.error = None
        assert (await pool.engine("a")).info.id == "a"

    asyncio.run(run())


def test_who_leaves_while_a_model_loads_does_not_stop_it_for_others():
    shelf = Shelf("a")
    shelf.slow_s = 0.2

    async def run() -> None:
        pool = shelf.pool()
        first = asyncio.create_task(pool.engine("a"))
        second = asyncio.create_task(pool.engine("a"))
        await asyncio.sleep(0.05)
        assert pool.states == {"a": "loading"}
        first.cancel()
        assert (await second).info.id == "a"
        assert len(shelf.opened) == 1

    asyncio.run(run())


def test_the_longest_unused_model_goes_when_memory_is_short(monkeypatch):
    monkeypatch.setattr("llmedge.serve.pool._FRESH_S", 0.0)
    shelf = Shelf("a", "b", "c")

    async def run() -> None:
        pool = shelf.pool()
        for name in ("a", "b", "a", "c"):
            await pool.engine(name)
            await asyncio.sleep(0.02)
        assert pool.states == {"a": "ready", "b": "unloaded", "c": "ready"}
        assert [engine.state for engine in shelf.opened] == ["ready", "closed", "ready"]

    asyncio.run(run())


def test_a_model_in_use_stays_and_who_wants_its_memory_is_told_to_wait(monkeypatch):
    monkeypatch.setattr("llmedge.serve.pool._FRESH_S", 0.0)
    shelf = Shelf("a", "b", free=150)

    async def run() -> None:
        from llmedge.engine.generation import Generation, TextPrompt

        pool = shelf.pool()
        stream = (await pool.engine("a")).generate(Generation(TextPrompt("x")))
        await anext(stream)
        with pytest.raises(ResourceError, match="b needs about"):
            await pool.engine("b")
        await stream.aclose()
        await asyncio.sleep(0.01)
        assert (await pool.engine("b")).info.id == "b"
        assert shelf.opened[0].state == "closed"

    asyncio.run(run())


def test_a_model_that_nobody_uses_is_unloaded_and_comes_back():
    shelf = Shelf("a", "b")
    with serving(shelf.sources, ttl_s=0.3) as client:
        assert client.post(CHAT, {**HELLO, "model": "a"})[0] == 200
        wait_until(lambda: shelf.opened[0].state == "closed")
        assert client.get("/v1/models/a")[1]["meta"]["state"] == "unloaded"
        assert client.post(CHAT, {**HELLO, "model": "a"})[0] == 200
    assert len(shelf.opened) == 2


def test_names_must_differ_and_one_model_needs_none():
    with pytest.raises(UsageError, match="same name"):
        Shelf("a", "a").pool()

    async def run() -> None:
        pool = Shelf("a").pool()
        assert (await pool.engine(None)).info.id == "a"
        with pytest.raises(NotFoundError, match="'b' is not served here; 'a' is"):
            await pool.engine("b")

    asyncio.run(run())


def test_a_model_is_asked_for_by_its_further_names_and_by_no_other():
    with serving(FakeEngine(), aliases=("gpt-4.1", "test")) as client:
        for name in ("fake:Q4_0", "gpt-4.1", "test"):
            status, body = client.post(CHAT, {**HELLO, "model": name})
            assert (status, body["model"]) == (200, "fake:Q4_0")
        assert client.post(CHAT, {**HELLO, "model": "gpt-4"})[0] == 404
        (card,) = client.get("/v1/models")[1]["data"]
        assert (card["id"], card["aliases"]) == ("fake:Q4_0", ["gpt-4.1", "test"])


def test_a_further_name_of_several_models_is_refused():
    with (
        pytest.raises(UsageError, match="which model"),
        serving(Shelf("a", "b").sources, aliases=("c",)),
    ):
        pass
