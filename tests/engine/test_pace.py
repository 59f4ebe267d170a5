from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmedge.engine.pace import Pace


def test_without_streams_a_step_takes_all_it_can():
    assert Pace(512).limit(0) == 512


def test_what_is_not_known_is_measured_by_one_step_without_prompt_tokens():
    pace = Pace(512)
    assert pace.limit(2) == 0
    pace.learn(2, 0, 0.02)
    assert pace.limit(3) == 8  # as many bits as 2
    assert pace.limit(4) == 0


@given(plain_s=st.floats(0.001, 1), token_s=st.floats(0.00001, 0.1), n_streams=st.integers(1, 16))
def test_a_step_takes_at_most_twice_a_plain_one_or_the_least_share(
    plain_s: float, token_s: float, n_streams: int
):
    pace = Pace(512)
    for _ in range(60):
        n = pace.limit(n_streams)
        pace.learn(n_streams, n, plain_s + n * token_s)
    n = pace.limit(n_streams)
    assert n <= 8 or plain_s + n * token_s <= 2 * plain_s * 1.05
    fitting = int(0.9 * plain_s / token_s)
    assert n in (0, 512 - n_streams) or n >= min(fitting * 0.9, 8)


def test_one_slow_step_does_not_change_much():
    pace = Pace(512)
    pace.learn(1, 0, 0.01)
    pace.learn(0, 100, 0.1)
    before = pace.limit(1)
    pace.learn(1, before, 60.0)
    assert 0 < pace.limit(1) <= before
    for _ in range(40):
        pace.learn(1, 9, 0.019)
    assert pace.limit(1) >= 8


def test_the_measure_is_taken_again_when_it_is_old():
    pace = Pace(512)
    pace.learn(1, 0, 0.01)
    limits = []
    for _ in range(100):
        limits.append(pace.limit(1))
        pace.learn(1, limits[-1], 0.01 + limits[-1] * 0.001)
    assert limits.count(0) == 1


def test_a_nearly_full_batch_leaves_prompts_what_is_left():
    pace = Pace(8)
    pace.learn(6, 0, 0.01)
    assert pace.limit(6) == 2
