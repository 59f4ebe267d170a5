from dataclasses import replace

import pytest

from llmedge.bench.compare import compare, noise_of, parse_gate
from llmedge.bench.record import Rate
from llmedge.core.errors import JudgementError, NotFoundError, UntrustworthyError, UsageError
from tests.bench.results import CONDITIONS, make_result

BASE = make_result()
SLOWER = make_result(generation=Rate(128, (17.0, 17.1, 16.9)))


def test_a_change_beyond_the_noise_is_real_and_one_within_it_is_not():
    prompt, generation = compare([BASE], [SLOWER]).changes
    assert (prompt.test, prompt.is_real) == ("pp512", False)
    assert (generation.test, generation.is_real) == ("tg128", True)
    assert generation.share == pytest.approx(-0.15)


def test_the_gate_fails_only_what_is_slower_by_more_than_it():
    comparison = compare([BASE], [SLOWER])
    comparison.require_gate(0.2)
    with pytest.raises(JudgementError, match=r"m:Q4_0 tg128: -15.0% \(allowed: -5.0%\)"):
        comparison.require_gate(0.05)
    compare([SLOWER], [BASE]).require_gate(0.0)


def test_a_scattered_rate_makes_much_noise():
    assert noise_of(Rate(1, (20.0, 20.0)), Rate(1, (20.0, 20.0))) == 0.03
    assert noise_of(Rate(1, (20.0, 10.0, 30.0)), Rate(1, (20.0, 12.0, 28.0))) > 0.5
    assert noise_of(Rate(1, (20.0,)), Rate(1, (10.0,))) == 0.03


def test_other_conditions_are_refused_and_named():
    other = make_result(fingerprint=replace(CONDITIONS, n_threads=4, power_source="battery"))
    with pytest.raises(UntrustworthyError, match=r"power_source: mains and battery; n_threads"):
        compare([BASE], [other])
    with pytest.raises(UntrustworthyError, match="n_threads"):
        compare([BASE], [other], ["power_source"])
    told = compare([BASE], [other], ["power_source", "n_threads"])
    assert told.differing == {"power_source": ("mains", "battery"), "n_threads": ("2", "4")}


def test_a_flagged_result_is_refused_unless_anything_goes():
    flagged = make_result(flags=("contended",))
    with pytest.raises(UntrustworthyError, match="m:Q4_0: contended"):
        compare([BASE], [flagged])
    assert compare([BASE], [flagged], ["all"]).changes


def test_two_variants_are_paired_where_each_side_has_one():
    (first, _) = compare([BASE], [make_result(model="m:Q8_0")]).changes
    assert first.model == "m:Q4_0 → m:Q8_0"
    with pytest.raises(NotFoundError):
        compare([BASE], [make_result(n_depth=1024)])


def test_the_settings_of_a_sweep_are_cells_of_their_own():
    four = replace(CONDITIONS, n_threads=4)
    sweep = [BASE, make_result(fingerprint=four)]
    comparison = compare(sweep, sweep)
    assert [change.test for change in comparison.changes if change.test.startswith("tg")] == [
        "tg128 threads=2",
        "tg128 threads=4",
    ]
    assert comparison.differing == {}
    assert compare([*sweep, make_result(n_depth=9)], sweep).n_unmatched == 1


def test_a_gate_is_a_share():
    assert parse_gate("5%") == parse_gate("0.05") == 0.05
    for text in ("much", "-1%", "100%", "nan"):
        with pytest.raises(UsageError, match="no share"):
            parse_gate(text)
