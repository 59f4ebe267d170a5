import asyncio
import json
import logging
import re

import pytest

from llmedge.core.errors import EngineError
from llmedge.engine.engine import EngineStats
from llmedge.serve.metrics import Histogram, Meters, _histogram, _labels
from tests.fakes import FakeEngine
from tests.serve.endpoint import CHAT, HELLO, TEXT, serving

LINE = re.compile(r'[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? -?[0-9.e+-]+(inf)?')


def values(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_every_request_is_measured():
    engine = FakeEngine(["one", "two", "three"])
    with serving(engine) as client:
        client.post(CHAT, HELLO)
        client.events(CHAT, HELLO)
        engine.error = EngineError("it broke")
        client.post(CHAT, HELLO)
        engine.n_restarts, engine.state = 2, "restarting"
        _, text, headers = client.request("GET", "/metrics")
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    assert all(LINE.fullmatch(line) or line.startswith("# ") for line in text.splitlines())
    found, model = values(text), '{model="fake:Q4_0"}'
    assert found['llmedge_requests_total{model="fake:Q4_0",outcome="stop"}'] == 2
    assert found['llmedge_requests_total{model="fake:Q4_0",outcome="EngineError"}'] == 1
    assert found[f"llmedge_prompt_tokens_total{model}"] == 22
    assert found[f"llmedge_cached_prompt_tokens_total{model}"] == 2
    assert found[f"llmedge_generation_tokens_total{model}"] == 22
    assert found[f"llmedge_time_to_first_token_seconds_count{model}"] == 2
    assert found[f"llmedge_inter_token_latency_seconds_count{model}"] == 4
    assert found[f"llmedge_queue_seconds_sum{model}"] == 0.5
    assert found[f"llmedge_kv_cache_used_tokens{model}"] == 42
    assert found[f"llmedge_engine_restarts_total{model}"] == 2
    assert found[f"llmedge_engine_up{model}"] == 0
    assert found["process_resident_memory_bytes"] > 1e6


def test_a_family_is_described_once_and_before_its_values():
    text = asyncio.run(Meters().render({"a": FakeEngine(), "b": FakeEngine()}, 1))
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))
    assert text.endswith("\n")


def test_buckets_count_all_that_is_not_larger():
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value, "m")
    lines = list(_histogram("x", "Help.", histogram))[2:]
    assert lines == [
        'x_bucket{model="m",le="1"} 2',
        'x_bucket{model="m",le="2"} 3',
        'x_bucket{model="m",le="+Inf"} 4',
        'x_sum{model="m"} 12',
        'x_count{model="m"} 4',
    ]


def test_models_after_the_first_many_share_one_name():
    meters = Meters()
    names = [meters.label(f"m{n}") for n in range(200)]
    assert names[:64] == [f"m{n}" for n in range(64)]
    assert set(names[64:]) == {"other"}
    assert meters.label("m3") == "m3"


def test_energy_is_shown_only_where_it_is_measured():
    class Metered(FakeEngine):
        async def stats(self) -> EngineStats:
            return EngineStats(energy_j=12.5)

    text = asyncio.run(Meters().render({"a": Metered(), "b": FakeEngine()}, 1))
    found = {name: value for name, value in values(text).items() if "joules" in name}
    assert found == {'llmedge_engine_energy_joules_total{model="a"}': 12.5}


def test_labels_are_escaped():
    assert _labels(model='a"b\\c\nd') == r'{model="a\"b\\c\nd"}'


def test_an_engine_that_does_not_answer_is_shown_as_it_was():
    engine, meters = FakeEngine(), Meters()

    async def run() -> tuple[str, str]:
        before = await meters.render({"m": engine}, 1)
        engine.stats_delay_s = 60.0
        after = await asyncio.wait_for(meters.render({"m": engine}, 1), 5)
        return before, after

    before, after = asyncio.run(run())
    assert 'llmedge_kv_cache_used_tokens{model="m"} 42' in before
    assert before == after


def test_the_log_has_one_line_a_request_and_never_a_prompt(caplog: pytest.LogCaptureFixture):
    secret = "my secret question"
    caplog.set_level(logging.INFO)
    with serving(FakeEngine(["my secret answer"]), api_keys=("secret-key-1234",)) as client:
        body = {"messages": [{"role": "user", "content": secret}], secret: 1}
        key = {"X_Api_Key": "secret-key-1234"}
        _, _, headers = client.request("POST", CHAT, body, **key)
        client.request("POST", TEXT, {"prompt": secret, "stream": True}, **key)
        client.request("POST", CHAT, body)
        client.request("GET", "/" + "x" * 1000)
    lines = [json.loads(r.message) for r in caplog.records if r.name == "llmedge.serve.access"]
    assert [line["status"] for line in lines] == [200, 200, 401, 401]
    first = lines[0]
    assert first["id"] == headers["x-request-id"]
    assert (first["method"], first["path"], first["model"]) == ("POST", CHAT, "fake:Q4_0")
    assert (first["prompt_tokens"], first["completion_tokens"]) == (24, 16)
    assert first["first_token_seconds"] >= 0
    assert lines[2]["error"] == "invalid_api_key"
    assert len(lines[3]["path"]) == 200
    assert "secret" not in caplog.text
