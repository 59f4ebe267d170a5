"""Queues, deadlines and the end, over a fake engine and real HTTP."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from llmedge.core.errors import BusyError, ResourceError
from llmedge.serve.limits import Door, Drain, Limits
from llmedge.serve.server import ServeOptions, _Endpoint, bind
from tests.fakes import FakeEngine
from tests.serve.endpoint import CHAT, HELLO, Client, serving, wait_until


def test_who_comes_when_the_queue_is_full_is_told_to_come_again():
    engine = FakeEngine(["slow"], pause_s=0.5)
    with serving(engine, limits=Limits(max_queue=1)) as client, ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(client.post, CHAT, HELLO) for _ in range(2)]
        wait_until(lambda: len(engine.requests) == 2)
        for stream in (False, True):
            status, text, headers = client.request("POST", CHAT, {**HELLO, "stream": stream})
            assert status == 429
            assert json.loads(text)["error"]["code"] == "queue_full"
            assert int(headers["retry-after"]) >= 1
        assert [future.result()[0] for future in waiting] == [200, 200]
        assert client.post(CHAT, HELLO)[0] == 200
    assert len(engine.requests) == 3


def test_answers_that_do_not_all_fit_in_the_queue_leave_nothing_running():
    engine = FakeEngine(forever=True)
    with serving(engine, limits=Limits(max_queue=2)) as client:
        for stream in (False, True):
            assert client.post(CHAT, {**HELLO, "n": 9, "stream": stream})[0] == 429
            wait_until(lambda: engine.n_running == 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_past_its_deadline_is_ended_with_an_error(stream: bool):
    engine = FakeEngine(forever=True)
    with serving(engine, limits=Limits(deadline_s=0.3)) as client:
        status, text, _ = client.request("POST", CHAT, {**HELLO, "stream": stream})
        assert status == (200 if stream else 504)
        assert "took more than 0.3 s" in text
        assert "[DONE]" not in text
        wait_until(lambda: engine.n_cancelled == 1)


@pytest.mark.parametrize("can_end", [True, False])
def test_a_server_that_stops_lets_answers_end_for_a_while_and_takes_no_more(can_end: bool):
    engine = FakeEngine(["late"], pause_s=0.8, forever=not can_end)
    options = ServeOptions(port=0, limits=Limits(drain_s=1.5))
    with bind(options) as listener, ThreadPoolExecutor(1) as pool:
        endpoint = _Endpoint(engine, options)
        threads = [
            threading.Thread(target=endpoint.server.run, kwargs={"sockets": [listener]}),
            threading.Thread(target=endpoint.drain_when_stopped),
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: endpoint.server.started)
        client = Client(f"http://127.0.0.1:{listener.getsockname()[1]}")
        answer = pool.submit(client.request, "POST", CHAT, {**HELLO, "stream": True})
        wait_until(lambda: engine.n_running)
        endpoint.server.should_exit = True
        _, text, _ = answer.result(20)
        assert ("[DONE]" in text) == can_end
        assert ("the engine was closed" in text) != can_end
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
    with pytest.raises(ResourceError, match="about to stop"):
        endpoint.pool._drain.check()


def test_a_door_counts_who_is_inside():
    door = Door(Limits(max_queue=1), Drain(), n_slots=2)
    for _ in range(3):
        door.enter()
    with pytest.raises(BusyError, match="3 requests"):
        door.enter()
    door.leave(0.1)
    door.enter()


def test_the_time_to_come_again_follows_how_long_requests_take():
    door = Door(Limits(max_queue=0), Drain(), n_slots=1)
    times: list[int] = []
    for seconds in (0.1, 100.0, 1e9):
        door.enter()
        with pytest.raises(BusyError) as caught:
            door.enter()
        times.append(caught.value.retry_after_s)
        door.leave(seconds)
    door.enter()
    with pytest.raises(BusyError) as caught:
        door.enter()
    assert [*times, caught.value.retry_after_s] == [1, 1, 21, 60]


def test_health_and_metrics_answer_at_once_while_many_wait():
    engine = FakeEngine(["x"] * 30, pause_s=0.05)
    engine.stats_delay_s = 5.0
    with serving(engine) as client, ThreadPoolExecutor(32) as pool:
        answers = [pool.submit(client.post, CHAT, HELLO) for _ in range(32)]
        wait_until(lambda: engine.n_running == 32)
        start = time.monotonic()
        for path in ("/health", "/metrics"):
            assert client.request("GET", path)[0] == 200
        assert time.monotonic() - start < 1.0  # and not the five seconds of the engine's stats
        assert {answer.result()[0] for answer in answers} == {200}
