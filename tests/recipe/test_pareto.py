import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.recipe.pareto import Judged, Point, Rule, front_line, judge

# Few values of each kind, so that ties are common.
POINTS = st.builds(
    Point,
    name=st.sampled_from(["a", "b", "c"]),
    file_bytes=st.integers(1, 5),
    kld=st.sampled_from([0.0, 0.01, 0.1, 0.11, 3.0]),
    top1=st.sampled_from([0.5, 0.8, 0.99]),
    tg_tokens_per_s=st.sampled_from([1.0, 2.0, 30.0]),
)
SETS = st.lists(POINTS, min_size=1, max_size=12)
RULES = st.builds(
    Rule,
    max_kld=st.sampled_from([0.0, 0.1, 5.0]),
    min_top1=st.sampled_from([0.0, 0.8, 1.0]),
    prefer=st.sampled_from(["size", "speed"]),
)


def point(name: str, n_bytes: int, kld: float, top1: float = 0.95, tg: float = 10.0) -> Point:
    return Point(name, n_bytes, kld, top1, tg)


def chosen(*points: Point, rule: Rule | None = None) -> str:
    (found,) = [row for row in judge(points, rule or Rule()) if row.is_recommended]
    return found.point.name


@given(SETS, RULES)
def test_the_front_holds_no_point_that_another_dominates(points: list[Point], rule: Rule):
    for row in judge(points, rule):
        dominators = [other for other in points if other.dominates(row.point)]
        assert row.is_on_front == (not dominators)


@given(SETS, RULES)
def test_whoever_is_behind_the_front_is_dominated_by_someone_on_it(points: list[Point], rule: Rule):
    rows = judge(points, rule)
    front = [row.point for row in rows if row.is_on_front]
    assert front
    for row in rows:
        assert row.is_on_front or any(other.dominates(row.point) for other in front)


@given(SETS, RULES, st.randoms())
def test_the_order_of_the_points_does_not_matter(
    points: list[Point], rule: Rule, shuffler: random.Random
):
    def verdicts(rows: tuple[Judged, ...]) -> tuple[Point, set[tuple[Point, bool]]]:
        (recommended,) = [row.point for row in rows if row.is_recommended]
        return recommended, {(row.point, row.is_on_front) for row in rows}

    shuffled = list(points)
    shuffler.shuffle(shuffled)
    assert verdicts(judge(points, rule)) == verdicts(judge(shuffled, rule))
    line, other = front_line(points), front_line(shuffled)
    assert [(p.file_bytes, p.kld) for p in line] == [(p.file_bytes, p.kld) for p in other]


@given(SETS, RULES)
def test_the_recommended_point_is_beaten_only_by_one_that_misses_the_limits(
    points: list[Point], rule: Rule
):
    (recommended,) = [row.point for row in judge(points, rule) if row.is_recommended]
    for other in points:
        if other.dominates(recommended):
            assert rule.admits(recommended)
            assert not rule.admits(other)


@given(SETS, RULES)
def test_the_recommended_point_keeps_the_limits_if_any_does(points: list[Point], rule: Rule):
    (recommended,) = [row.point for row in judge(points, rule) if row.is_recommended]
    admitted = [point for point in points if rule.admits(point)]
    if not admitted:
        assert recommended.kld == min(point.kld for point in points)
    elif rule.prefer == "size":
        assert recommended.file_bytes == min(point.file_bytes for point in admitted)
    else:
        assert recommended.tg_tokens_per_s == max(point.tg_tokens_per_s for point in admitted)


@given(SETS)
def test_no_point_dominates_itself_and_no_two_dominate_each_other(points: list[Point]):
    for one in points:
        assert not one.dominates(one)
        assert not any(one.dominates(other) and other.dominates(one) for other in points)


@given(SETS)
def test_the_line_falls_from_small_to_large(points: list[Point]):
    line = front_line(points)
    for left, right in itertools.pairwise(line):
        assert left.file_bytes < right.file_bytes
        assert left.kld > right.kld
    for point in points:
        assert any(p.file_bytes <= point.file_bytes and p.kld <= point.kld for p in line)


def test_the_smallest_good_point_is_recommended():
    assert chosen(point("a", 9, 0.01), point("b", 5, 0.09), point("c", 3, 0.2)) == "b"
    assert chosen(point("a", 9, 0.01), point("b", 5, 0.09, top1=0.79)) == "a"
    assert chosen(point("a", 9, 0.1), point("b", 10, 0.0)) == "a"


def test_speed_decides_where_it_is_preferred():
    points = (point("small", 5, 0.05, tg=20), point("fast", 9, 0.01, tg=30))
    assert chosen(*points) == "small"
    assert chosen(*points, rule=Rule(prefer="speed")) == "fast"


def test_among_equal_sizes_the_faster_is_recommended():
    assert chosen(point("a", 5, 0.01, tg=10), point("b", 5, 0.05, tg=20)) == "b"


def test_if_none_is_good_the_least_loss_is_recommended():
    assert chosen(point("a", 9, 0.5), point("b", 5, 0.3), point("c", 3, 0.9)) == "b"


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Rule(), ("smallest", "at most 0.1 ", "80%")),
        (Rule(0.0525, 0.925, "speed"), ("fastest", "at most 0.0525 ", "92")),
    ],
)
def test_the_rule_says_what_the_code_does(rule: Rule, words: tuple[str, ...]):
    sentence = rule.describe("English")
    for word in (*words, "in English", "least KL divergence"):
        assert word in sentence


def test_the_reference_is_drawn_and_not_chosen():
    reference = replace(point("reference", 1, 0.0), is_reference=True)
    assert chosen(reference, point("variant", 2, 0.01)) == "variant"
    assert chosen(reference, point("bad", 2, 3.0), point("worse", 2, 4.0)) == "bad"
