import re
import string
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmedge.recipe.pareto import Judged, Point, Rule, judge
from llmedge.recipe.scatter_svg import render_svg

NS = "{http://www.w3.org/2000/svg}"
HOSTILE = [
    "</text><script>alert(1)</script>",
    "\x00\x1b[31m\ud800\u202e",
    "]]>&amp;\"'",
    "नमस्ते模型 " * 40,
    "",
    " ",
]


def points(n: int, name: str = "model:v") -> tuple[Judged, ...]:
    return judge(
        [
            Point(f"{name}{i}", 10**9 + i * 10**8, 0.5 / (i + 1), 0.9, 100.0 / (i + 1))
            for i in range(n)
        ],
        Rule(),
    )


def draw(rows: tuple[Judged, ...], *, reference: str = "model:BF16", texts: str = "English") -> str:
    return render_svg(rows, Rule().describe(texts), reference=reference, texts=texts)


def texts_of(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{NS}text")]


@pytest.mark.parametrize("n", [1, 2, 8, 25, 60])
def test_every_variant_is_drawn_and_listed(n: int):
    svg = draw(points(n))
    root = ElementTree.fromstring(svg)
    names = texts_of(svg)
    for number in range(n):
        assert f"v{number}" in names
    rings = [c for c in root.iter(f"{NS}circle") if c.get("class") == "llm-ring"]
    assert len(rings) == 3  # in the plot, in the list and in the legend
    assert len(list(root.iter(f"{NS}polyline"))) == (1 if n > 1 else 0)


def test_it_can_be_read_without_seeing_it():
    root = ElementTree.fromstring(draw(points(3)))
    assert root.get("role") == "img"
    ids = (root.get("aria-labelledby") or "").split()
    title, desc = (next(e for e in root if e.get("id") == name) for name in ids)
    assert title.text == "3 variants of model:BF16: loss, size and speed"
    assert "Recommended is model:v2" in (desc.text or "")
    assert "least KL divergence" in (desc.text or "")


def test_it_follows_the_readers_scheme_and_needs_nothing_else():
    svg = draw(points(3))
    style = ElementTree.fromstring(svg).find(f"{NS}style")
    assert style is not None
    assert "prefers-color-scheme: dark" in (style.text or "")
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"<script|url\(|@import|href", svg)


def test_every_class_is_styled_in_both_schemes():
    svg = draw(points(25))
    style = ElementTree.fromstring(svg).find(f"{NS}style")
    assert style is not None
    light, dark = (style.text or "").split("@media")
    used = {
        name
        for element in ElementTree.fromstring(svg).iter()
        for name in (element.get("class") or "").split()
    }
    sizes_alone = {"llm-head", "llm-mid", "llm-end"}
    assert used
    for name in used:
        assert f".{name}" in light
        assert f".{name}" in dark or name in sizes_alone


def test_each_speed_step_stands_out_from_its_background():
    # Source: WCAG 2.2, 1.4.11: graphics need a contrast of 3.
    style = ElementTree.fromstring(draw(points(2))).find(f"{NS}style")
    assert style is not None
    for scheme in (style.text or "").split("@media"):
        back = re.search(r"llm-bg \{ fill: (#\w+)", scheme)
        assert back
        for name in ("full", "fg", "dim"):
            for colour in re.findall(rf"llm-{name}\d* \{{ fill: (#\w+)", scheme):
                assert contrast(back[1], colour) >= 3


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_stays_text(name: str):
    rows = judge([Point(name, 10**8, 0.1, 0.9, 1.0), Point("b", 2, 0.2, 0.9, 2.0)], Rule())
    svg = draw(rows, reference=name, texts=name)
    root = ElementTree.fromstring(svg.encode("utf-8"))
    tags = {element.tag.removeprefix(NS) for element in root.iter()}
    drawn = {"rect", "text", "line", "polyline", "circle"}
    assert tags <= {"svg", "title", "desc", "style", *drawn}


@given(st.lists(st.text(), min_size=1, max_size=6))
@settings(max_examples=60)
def test_any_names_give_well_formed_xml(names: list[str]):
    rows = judge(
        [Point(name, 10**6 * (i + 1), 0.1, 0.9, 5.0) for i, name in enumerate(names)], Rule()
    )
    ElementTree.fromstring(draw(rows, reference=names[0]).encode("utf-8"))


@pytest.mark.parametrize(
    "rows",
    [
        [Point(f"m:{i}", 10**8, 0.05, 0.9, 50.0) for i in range(25)],
        [Point("a", 10**6, 0, 1, 1e4), Point("b", 5 * 10**11, 20, 0.01, 0.001)],
        [Point("a", 1, 1e-12, 1, 0.0)],
    ],
    ids=["equal", "extreme", "nothing"],
)
def test_equal_points_and_extreme_ranges_are_drawn_inside(rows: list[Point]):
    root = ElementTree.fromstring(draw(judge(rows, Rule())))
    width, height = float(root.get("width") or 0), float(root.get("height") or 0)
    for circle in root.iter(f"{NS}circle"):
        assert 0 < float(circle.get("cx") or -1) < width
        assert 0 < float(circle.get("cy") or -1) < height
    for text in root.iter(f"{NS}text"):
        assert 0 < float(text.get("x") or -1) < width
        assert 0 < float(text.get("y") or -1) < height


def test_numbers_are_plain():
    digits = string.digits + ".-"
    root = ElementTree.fromstring(draw(points(8)))
    for element in root.iter():
        for key in ("x", "y", "cx", "cy", "r", "x1", "y1", "x2", "y2"):
            assert all(char in digits for char in element.get(key, ""))
