import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.recipe.plot import (
    KLD_FLOOR,
    Axis,
    Box,
    keys,
    kld_axis,
    kld_text,
    place_labels,
    short_names,
    size_axis,
)

SIZES = st.lists(st.integers(1, 10**13), min_size=1, max_size=30)
KLDS = st.lists(st.floats(0, 1000, allow_subnormal=False), min_size=1, max_size=30)


def check_axis(axis: Axis, values: list[float]) -> None:
    assert all(0 <= axis.place(value) <= 1 for value in values)
    places = [axis.place(value) for value, _ in axis.ticks]
    assert places == sorted(places)
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)
    assert len(axis.ticks) <= 8
    assert len({label for _, label in axis.ticks}) == len(axis.ticks)


@given(SIZES)
def test_every_size_lies_on_its_axis_and_larger_is_further(sizes: list[int]):
    axis = size_axis(sizes)
    check_axis(axis, [float(size) for size in sizes])
    assert len(axis.ticks) >= 2
    ordered = [axis.place(size) for size in sorted(sizes)]
    assert ordered == sorted(ordered)


@given(KLDS)
def test_every_divergence_lies_on_its_axis_even_0(klds: list[float]):
    axis = kld_axis(klds)
    check_axis(axis, klds)
    assert len(axis.ticks) >= 2


def test_sizes_of_one_family_are_linear_and_far_ones_logarithmic():
    family = size_axis([91_700_000, 105_500_000, 144_800_000])
    assert (family.is_log, family.unit) == (False, "MB")
    assert [label for _, label in family.ticks] == ["100", "120", "140"]
    far = size_axis([10**6, 5 * 10**11])
    assert (far.is_log, far.unit) == (True, "GB")


def test_what_lies_on_the_floor_says_so():
    assert ("≤1e-06") in [label for _, label in kld_axis([0.0, 0.5]).ticks]
    assert not any("≤" in label for _, label in kld_axis([KLD_FLOOR, 0.5]).ticks)


@pytest.mark.parametrize(
    ("kld", "text"), [(0.05137, "0.0514"), (0.001, "0.0010"), (0.0, "0.0000"), (2e-5, "2e-05")]
)
def test_a_small_divergence_is_not_shown_as_none(kld: float, text: str):
    assert kld_text(kld) == text


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["model:Q4_0", "model:Q4_K_M"], ["Q4_0", "Q4_K_M"]),
        (["Llama-1B-Q4_0", "Llama-1B-Q4_K_M"], ["Q4_0", "Q4_K_M"]),
        (["model:Q4_0"], ["Q4_0"]),
        (["plain"], ["plain"]),
        (["same", "same"], ["same", "same"]),
        (["one:Q4_0", "two:Q4_0"], ["one:Q4_0", "two:Q4_0"]),
        (["m:", "m:a"], ["m:", "a"]),
        (["x" * 60, "y"], ["x" * 27 + "…", "y"]),
    ],
)
def test_names_lose_what_all_of_them_begin_with(names: list[str], short: list[str]):
    assert short_names(names) == short


@given(st.lists(st.text(min_size=1), min_size=1, max_size=8))
def test_every_name_stays_a_name(names: list[str]):
    short = short_names(names)
    assert len(short) == len(names)
    assert all(0 < len(name) <= 28 for name in short)


def test_there_are_keys_for_any_number_of_points():
    some = list(itertools.islice(keys(), 800))
    assert some[:3] == ["a", "b", "c"]
    assert some[26] == "aa"
    assert len(set(some)) == 800


@given(
    st.lists(
        st.tuples(st.integers(0, 59), st.integers(0, 15)), min_size=1, max_size=25, unique=True
    ),
    st.integers(1, 12),
)
def test_labels_overlap_neither_marks_nor_each_other(cells: list[tuple[int, int]], width: int):
    bounds = Box(0, 0, 60, 16)
    marks = [Box(x, y, 1, 1) for x, y in cells]
    sizes = [[(width, 1), (1, 1)]] * len(marks)
    rings = ((0, 0), (2, 1))
    placed = place_labels(marks, sizes, bounds, gap=1, rings=rings)
    boxes = [place.box for place in placed if place is not None]
    for box in boxes:
        assert bounds.contains(box)
        assert not any(box.overlaps(mark) for mark in marks)
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)


def test_a_lonely_mark_gets_its_first_text_to_its_right():
    (place,) = place_labels(
        [Box(5, 5, 1, 1)], [[(8, 1), (1, 1)]], Box(0, 0, 60, 16), gap=1, rings=((0, 0),)
    )
    assert place is not None
    assert (place.choice, place.is_away) == (0, False)
    assert (place.box.left, place.box.top) == (7, 5)


def test_a_mark_without_room_gets_a_shorter_text_or_none():
    marks = [Box(0, 0, 1, 1)]
    short = place_labels(marks, [[(8, 1), (1, 1)]], Box(0, 0, 3, 1), gap=1, rings=((0, 0),))
    assert short[0] is not None
    assert short[0].choice == 1
    assert place_labels(marks, [[(8, 1)]], Box(0, 0, 3, 1), gap=1, rings=((0, 0),)) == [None]


def test_a_line_to_a_label_crosses_no_other_mark():
    # The only free places are beyond the second mark, or away from it.
    marks = [Box(0, 0, 1, 1), Box(2, 0, 1, 1)]
    placed = place_labels(
        marks, [[(4, 1)], [(4, 1)]], Box(0, 0, 12, 1), gap=0, rings=((0, 0), (3, 0))
    )
    assert placed[0] is None
    assert placed[1] is not None
