import pytest

from llmedge.bench.plateau import Window, find_plateau


def windows(*rates: float) -> tuple[Window, ...]:
    return tuple(Window(10.0 * at, rate) for at, rate in enumerate(rates))


def test_a_run_that_falls_and_stays_has_a_plateau():
    found = find_plateau(windows(9.0, 8.9, 7.0, 5.0, 4.8, 4.7, 4.8, 4.7, 4.75), 90)
    assert found.burst_tokens_per_s == 9.0
    assert found.plateau_tokens_per_s == pytest.approx(4.75)
    assert found.factor == pytest.approx(0.528, abs=0.001)
    assert found.begins_s == 40.0
    assert found.is_trusted


def test_a_run_that_still_falls_has_not_settled():
    assert find_plateau(windows(*(9.0 - 0.5 * n for n in range(12))), 120).begins_s is None


def test_a_steady_run_is_a_plateau_from_its_beginning():
    found = find_plateau(windows(5.0, 5.1, 5.0, 4.9, 5.0, 5.0), 60)
    assert found.begins_s == 0.0
    assert found.factor > 0.97


def test_disturbed_windows_count_for_nothing_and_too_many_spoil_the_run():
    good = windows(*[8.0] * 9)
    one = (*good, Window(90.0, 0.5, is_disturbed=True))
    assert find_plateau(one, 100).plateau_tokens_per_s == 8.0
    assert find_plateau(one, 100).is_trusted
    many = (*good, *(Window(90.0 + n, 0.5, is_disturbed=True) for n in range(4)))
    assert not find_plateau(many, 130).is_trusted


def test_a_single_window_is_its_own_plateau():
    assert find_plateau(windows(3.0), 1).factor == 1.0
