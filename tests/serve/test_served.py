"""Door, deadline and meters around a fake engine."""

import asyncio
import contextlib

import pytest

from llmedge.core.errors import (
    BusyError,
    DeadlineError,
    EngineError,
    ResourceError,
    UnsupportedError,
)
from llmedge.engine.engine import Embedding, ModelInfo
from llmedge.engine.generation import Delta, Event, Finished, Generation, Started, TextPrompt
from llmedge.runtime.sampler import SamplingOptions
from llmedge.serve import request_log
from llmedge.serve.limits import Drain, Limits
from llmedge.serve.metrics import Meters
from llmedge.serve.request_log import RequestRecord
from llmedge.serve.served import Defaults, ServedEngine
from tests.fakes import FakeEngine

ASKED = Generation(TextPrompt("Once"))
MODEL = "fake:Q4_0"


class Served:
    """A served fake, with all that it was given."""

    def __init__(self, engine: FakeEngine | None = None, **limits) -> None:
        self.fake, self.meters, self.drain = engine or FakeEngine(), Meters(), Drain()
        self.engine = ServedEngine(self.fake, Limits(**limits), self.drain, self.meters)

    async def ask(self, request: Generation = ASKED) -> list[Event]:
        return [event async for event in self.engine.generate(request)]

    @property
    def outcomes(self) -> dict[tuple[str, ...], float]:
        return dict(self.meters.requests.values)


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> RequestRecord:
    record = RequestRecord(cache_key="mine")
    token = request_log._current.set(record)
    yield record
    request_log._current.reset(token)


def test_events_come_through_and_are_counted(record: RequestRecord):
    served = Served(FakeEngine(["a", "b", "c"]))
    events = asyncio.run(served.ask())
    assert [type(event) for event in events] == [Started, *[Delta] * 3, Finished]
    assert served.outcomes == {(MODEL, "stop"): 1}
    assert dict(served.meters.prompt_tokens.values) == {(MODEL,): 4}
    assert dict(served.meters.generated_tokens.values) == {(MODEL,): 3}
    assert sum(served.meters.first_token_s.buckets[MODEL]) == 1
    assert sum(served.meters.token_gap_s.buckets[MODEL]) == 2
    assert served.meters.queue_s.sums[MODEL] == 0.25


def test_the_record_of_the_request_adds_its_generations_up(record: RequestRecord):
    served = Served()

    async def twice() -> None:
        await asyncio.gather(served.ask(), served.ask())

    asyncio.run(twice())
    assert (record.model, record.n_prompt, record.n_cached, record.n_generated) == (MODEL, 8, 2, 22)
    assert record.queue_s == 0.25
    assert record.first_token_s is not None


def test_the_cache_key_is_the_requests_own_whatever_was_asked(record: RequestRecord):
    served = Served()
    asyncio.run(served.ask(Generation(TextPrompt("Once"), cache_key="another's")))
    assert served.fake.requests[0].cache_key == "mine"


def test_a_model_that_generates_no_text_is_refused_and_not_asked():
    served = Served(FakeEngine(info=ModelInfo(MODEL, can_generate=False)))
    with pytest.raises(UnsupportedError, match="not a model that generates text"):
        asyncio.run(served.ask())
    assert (served.fake.requests, served.engine.is_idle) == ([], True)


def test_an_error_is_the_outcome_and_frees_the_place(record: RequestRecord):
    served = Served(FakeEngine(error=EngineError("it broke")), max_queue=0)
    for _ in range(2):
        with pytest.raises(EngineError):
            asyncio.run(served.ask())
    assert served.outcomes == {(MODEL, "EngineError"): 2}
    assert record.error == "EngineError"
    assert served.engine.is_idle


def test_what_takes_too_long_is_cancelled_and_counted():
    served = Served(FakeEngine(forever=True), deadline_s=0.1)
    with pytest.raises(DeadlineError, match=r"more than 0\.1 s"):
        asyncio.run(served.ask())
    assert served.fake.n_cancelled == 1
    assert served.outcomes == {(MODEL, "DeadlineError"): 1}


def test_who_stops_reading_ends_the_generation():
    served = Served(FakeEngine(forever=True))

    async def leave() -> None:
        async with contextlib.aclosing(served.engine.generate(ASKED)) as events:
            async for event in events:
                assert not served.engine.is_idle
                if isinstance(event, Delta):
                    break

    asyncio.run(leave())
    assert (served.fake.n_cancelled, served.fake.n_running) == (1, 0)
    assert served.outcomes == {(MODEL, "cancelled"): 1}
    assert served.engine.is_idle


def test_one_more_than_are_answered_and_wait_is_told_to_come_again():
    served = Served(FakeEngine(pause_s=0.05), max_queue=1)

    async def three() -> list[object]:
        asked = [served.ask() for _ in range(3)]
        return await asyncio.gather(*asked, return_exceptions=True)

    kinds = [type(result) for result in asyncio.run(three())]
    assert kinds == [list, list, BusyError]
    assert served.outcomes == {(MODEL, "stop"): 2, (MODEL, "BusyError"): 1}


def test_a_server_that_stops_takes_no_work():
    served = Served()
    served.drain.begin()
    for work in (
        served.ask,
        lambda: served.engine.embed(["a"]),
        lambda: served.engine.rerank("a", []),
    ):
        with pytest.raises(ResourceError, match="about to stop"):
            asyncio.run(work())
    assert served.fake.requests == []


class SlowEngine(FakeEngine):
    async def embed(self, texts):
        await asyncio.sleep(60)

    async def rerank(self, query, documents):
        await asyncio.sleep(60)


def test_vectors_and_scores_go_through_the_same_door_and_deadline():
    served = Served(SlowEngine(), deadline_s=0.05)
    for work in (lambda: served.engine.embed(["a"]), lambda: served.engine.rerank("a", ["b"])):
        with pytest.raises(DeadlineError):
            asyncio.run(work())
    assert served.engine.is_idle
    assert asyncio.run(Served().engine.embed(["abc"])) == [Embedding([3.0, 1.0], 3)]
    assert asyncio.run(Served().engine.rerank("a", ["ba"]))[0].value == 1.0


def test_short_questions_need_no_place_and_keep_the_model_loaded():
    served = Served(max_queue=0)
    seen: list[bool] = []

    class Watching(FakeEngine):
        async def pieces(self, tokens):
            seen.append(served.engine.is_idle)
            return await super().pieces(tokens)

    served.engine._engine = Watching()

    async def run() -> None:
        served.engine._door.enter()  # nobody else is let in now
        before = served.engine.last_used
        assert await served.engine.tokenize("a", add_special=False, parse_special=False) == [97]
        served.engine._door.leave(1.0)
        assert await served.engine.pieces([97]) == [b"a"]
        assert served.engine.last_used > before

    asyncio.run(run())
    assert (seen, served.engine.is_idle) == ([False], True)


def test_it_shows_the_engines_state_and_ends_it():
    served = Served()
    served.fake.n_restarts = 3
    assert (served.engine.info, served.engine.state) == (served.fake.info, "ready")
    assert served.engine.n_restarts == 3
    assert asyncio.run(served.engine.stats()).n_cells_used == 42
    served.engine.close()
    assert served.fake.state == served.engine.state == "closed"


def test_what_a_request_leaves_open_is_the_servers_default(record: RequestRecord):
    defaults = Defaults(max_tokens=3, seed=42)
    open_ended = defaults.fill(Generation(TextPrompt("Once")))
    assert (open_ended.max_tokens, open_ended.sampling.seed) == (3, 42)
    asked = Generation(TextPrompt("Once"), max_tokens=9, sampling=SamplingOptions(seed=0))
    assert defaults.fill(asked) == asked
    assert Defaults().fill(asked) == asked
