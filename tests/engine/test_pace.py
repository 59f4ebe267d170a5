from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmedge.engine.pace import Pace


def test_without_streams_a_step_takes_all_it_can():
    assert Pace(512).limit(0) == 512


def test_what_is_not_known_is_measured_by_one_step_without_prompt_tokens():
    pace = Pace(512)
    assert pace.limit(2) == 0
    pace.learn(2, 0, 0.2)
    assert pace.limit(3) > 0  # as many bits as 2
    assert pace.limit(4) == 0


def test_the_first_share_costs_no_more_than_the_streams_do():
    pace = Pace(512)
    pace.learn(8, 0, 0.2)
    assert pace.limit(8) == 4  # 7 would be bearable, 4 fill the kernels' rows


@given(plain_s=st.floats(0.001, 1), share=st.floats(0.01, 1), n_streams=st.integers(1, 16))
def test_no_step_takes_longer_than_is_bearable_from_the_first_on(
    plain_s: float, share: float, n_streams: int
):
    pace, token_s = Pace(512), share * plain_s / n_streams
    bearable_s = max(1.6 * plain_s, 0.04)
    for _ in range(60):
        n = pace.limit(n_streams)
        assert n <= 4 or plain_s + n * token_s <= bearable_s * 1.01
        pace.learn(n_streams, n, plain_s + n * token_s)
    fitting = min(int((bearable_s - plain_s) / token_s), 512 - n_streams)
    n = pace.limit(n_streams)
    assert n == 0 or n >= min(0.9 * fitting, fitting - 4)


def test_one_slow_step_does_not_change_much():
    pace = Pace(512)
    pace.learn(1, 0, 0.1)
    pace.learn(1, 8, 0.18)
    before = pace.limit(1)
    pace.learn(1, before, 60.0)
    assert 0 < pace.limit(1) <= before
    for _ in range(40):
        pace.learn(1, 9, 0.19)
    assert pace.limit(1) >= 3


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


def paced(token_s: float) -> Pace:
    pace = Pace(512)
    pace.learn(0, 100, 100 * token_s)
    pace.learn(4, 0, 0.03)
    return pace


def test_every_other_step_is_the_prompts_alone_where_many_wait_beside_few_streams():
    pace = paced(0.0025)
    assert pace.alone(4, 3, 600) == 100  # a quarter of a second
    pace.learn(0, 100, 0.25)
    assert pace.alone(4, 3, 500) == 0
    pace.learn(4, 8, 0.05)
    assert pace.alone(4, 3, 492) == 100


def test_streams_are_not_left_out_for_one_long_prompt_for_few_or_for_short_ones():
    pace = paced(0.0025)
    assert pace.alone(4, 1, 190) == 100
    assert pace.alone(4, 1, 2000) == 0
    assert pace.alone(9, 2, 600) == 0
    assert pace.alone(4, 3, 40) == 0
    assert Pace(512).alone(4, 3, 600) == 0  # nobody knows how long that takes
    assert pace.alone(0, 3, 600) == 0  # there is nobody to leave out


def test_streams_are_not_left_out_where_a_quarter_of_a_second_is_a_few_tokens():
    assert paced(0.05).alone(4, 3, 600) == 0
