import json
import math
import time

import msgspec
import pytest

from llmedge.engine.generation import GenerationReport
from llmedge.serve.completion import finite, new_common, timings_of, usage_of


def report(n_prompt: int = 10, n_generated: int = 5, **more) -> GenerationReport:
    given = {"n_cached": 4, "queue_s": 9.0, "prompt_s": 0.5, "generation_s": 2.0, **more}
    return GenerationReport(n_prompt, n_generated=n_generated, finish_reason="stop", **given)


def test_the_objects_of_an_answer_get_an_id_of_their_own_and_the_time():
    first, second = (new_common("cmpl", "m:Q4_0", "llmedge-1") for _ in range(2))
    assert first["id"].startswith("cmpl-")
    assert first["id"] != second["id"]
    assert abs(first["created"] - time.time()) < 5
    assert isinstance(first["created"], int)
    assert (first["model"], first["system_fingerprint"]) == ("m:Q4_0", "llmedge-1")


def test_a_prompt_with_several_answers_is_counted_once():
    reports = [report(10, 1), report(10, 2, n_cached=10), report(20, 3), report(20, 4, n_cached=20)]
    usage = usage_of(reports, 2)
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (30, 10, 40)
    assert usage.prompt_tokens_details.cached_tokens == 8
    assert usage_of(reports, 1).prompt_tokens == 60


def test_the_rates_leave_out_what_was_cached_and_the_first_token():
    timings = timings_of(report())
    assert (timings.cache_n, timings.prompt_n, timings.predicted_n) == (4, 6, 5)
    assert (timings.prompt_ms, timings.predicted_ms) == (500.0, 2000.0)
    assert (timings.prompt_per_second, timings.predicted_per_second) == (12.0, 2.0)


@pytest.mark.parametrize(
    "given",
    [
        {"n_generated": 0, "generation_s": 0.0},
        {"n_generated": 1},
        {"n_cached": 10, "prompt_s": 0.0},
    ],
)
def test_nothing_in_no_time_has_no_rate(given: dict[str, float]):
    timings = timings_of(report(**given))
    assert 0.0 in (timings.prompt_per_second, timings.predicted_per_second)


def test_guesses_are_told_only_where_there_were_some():
    assert "draft_n" not in json.loads(msgspec.json.encode(timings_of(report())))
    told = json.loads(msgspec.json.encode(timings_of(report(n_drafted=8, n_accepted=0))))
    assert (told["draft_n"], told["draft_n_accepted"]) == (8, 0)


def test_a_log_probability_is_a_number_that_json_has():
    assert finite(-math.inf) == -9999.0
    assert finite(-0.25) == -0.25


def test_energy_is_the_sum_of_all_answers_and_absent_where_one_is_not_known():
    known = [report(energy_j=1.5), report(energy_j=2.0)]
    assert usage_of(known, 1).energy_j == 3.5
    for reports in ([report()], [*known, report()]):
        assert "energy_j" not in json.loads(msgspec.json.encode(usage_of(reports, 1)))
