import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmedge.cli.scatter import MIN_WIDTH, draw_scatter
from llmedge.recipe.pareto import Judged, Point, Rule, judge

MARKS = "◆●○"
POINTS = st.builds(
    Point,
    name=st.text(min_size=1, max_size=12),
    file_bytes=st.integers(1, 10**13),
    kld=st.floats(0, 100, allow_subnormal=False),
    top1=st.just(0.9),
    tg_tokens_per_s=st.floats(0.01, 1e5),
)


def family(n: int) -> tuple[Judged, ...]:
    return judge(
        [Point(f"model:Q{i}", (i + 1) * 10**8, 0.4 / (i + 1), 0.9, 50.0) for i in range(n)], Rule()
    )


@given(st.lists(POINTS, min_size=1, max_size=30), st.integers(0, 300))
@settings(max_examples=60)
def test_no_line_is_wider_than_the_terminal(points: list[Point], width: int):
    lines = draw_scatter(judge(points, Rule()), width).splitlines()
    assert max(map(len, lines)) <= max(width, MIN_WIDTH)
    assert len({line.index(char) for line in lines for char in "│┤└" if char in line[:9]}) == 1


@pytest.mark.parametrize("n", [1, 2, 8])
def test_every_variant_has_its_mark_and_its_name(n: int):
    drawing = draw_scatter(family(n), 100)
    assert sum(drawing.count(mark) for mark in MARKS) == n
    assert drawing.count("◆") == 1
    for number in range(n):
        assert re.search(rf"Q{number}\b", drawing)


def test_a_crowd_falls_back_to_keys_and_no_label_touches_another():
    rows = judge(
        [Point(f"m:Q4_K_{i:02}", 10**9 + i * 10**6, 0.1 + i / 1e4, 0.9, 9.0) for i in range(25)],
        Rule(),
    )
    drawing = draw_scatter(rows, 80)
    assert re.search(r"Q4_K_\d\d", drawing)
    assert not re.search(r"[\w◆●○]Q4_K|Q4_K_\d\d[\w◆●○]", drawing)
    assert re.search(r"[◆●○]", drawing)


def test_equal_points_share_a_mark_and_name_their_keys():
    rows = judge([Point(f"m:v{i}", 10**8, 0.05, 0.9, 50.0) for i in range(9)], Rule())
    drawing = draw_scatter(rows, 80)
    assert "◆ a,b,c,d,e,f+3" in drawing


def test_smaller_is_further_left_and_less_loss_is_further_down():
    rows = judge(
        [Point("small", 10**8, 0.5, 0.9, 1.0), Point("large", 9 * 10**8, 0.01, 0.9, 1.0)], Rule()
    )
    lines = draw_scatter(rows, 80).splitlines()
    (small,) = [(n, line.index("●")) for n, line in enumerate(lines) if "small" in line]
    (large,) = [(n, line.index("◆")) for n, line in enumerate(lines) if "large" in line]
    assert small[0] < large[0]
    assert small[1] < large[1]


def test_the_axes_say_what_they_show():
    lines = draw_scatter(family(3), 80).splitlines()
    assert lines[0] == "mean KL divergence (nats, logarithmic)"
    assert lines[-1].strip() == "size (MB)"
    assert [float(number) for number in lines[-2].split()] == sorted(
        float(number) for number in lines[-2].split()
    )


@pytest.mark.parametrize("name", ["नमस्ते", "模型", "\x1b[31mred", "a\nb"])
def test_a_name_that_could_shift_or_steer_is_a_key(name: str):
    rows = judge([Point(name, 10**8, 0.5, 0.9, 1.0), Point("b", 10**9, 0.01, 0.9, 1.0)], Rule())
    drawing = draw_scatter(rows, 80)
    assert name not in drawing
    assert "● a" in drawing


def test_the_line_of_the_front_leads_from_mark_to_mark():
    assert draw_scatter(family(2), 80).count("·") > 5
    assert "·" not in draw_scatter(family(1), 80)


def test_marks_tell_the_front_from_the_rest():
    rows = judge(
        [
            Point("good", 10**8, 0.05, 0.9, 9.0),
            Point("worse", 2 * 10**8, 0.06, 0.9, 8.0),
            Point("better", 3 * 10**8, 0.01, 0.9, 7.0),
        ],
        Rule(),
    )
    drawing = draw_scatter(rows, 80)
    assert "◆ good 9/s" in drawing
    assert "○ worse 8/s" in drawing
    assert "better 7/s ●" in drawing


def test_speeds_stand_beside_the_names_while_there_is_room():
    assert "50/s" in draw_scatter(family(8), 110)
    assert "/s" not in draw_scatter(family(13), 110)
