"""Drawings that fit a phone."""

from __future__ import annotations

from xml.etree import ElementTree

from llmedge.recipe.report_svg import Bar, add_bars, add_scatter


def widths(root: ElementTree.Element) -> list[float]:
    return [float(box.get("width", "")) for box in root.iter("rect") if box.get("class") != "track"]


def test_bars_are_as_long_as_their_share():
    root = ElementTree.Element("div")
    add_bars(root, [Bar("a", 5, "5"), Bar("b" * 80, 10, "10")])
    assert widths(root) == [160.0, 320.0]
    assert max(len(text.text or "") for text in root.iter("text")) <= 26
    whole = ElementTree.Element("div")
    add_bars(whole, [Bar("a", 5, "5 of 20", whole=20), Bar("b", 50, "50 of 20", whole=20)])
    assert widths(whole) == [80.0, 320.0]
    nothing = ElementTree.Element("div")
    add_bars(nothing, [Bar("a", 0, "0")])
    assert widths(nothing) == [0.0]


def test_points_lie_inside_of_the_drawing():
    root = ElementTree.Element("div")
    add_scatter(root, [90_000_000, 145_000_000], [0.17, 0.0], [("a", True), ("b", False)])
    circles = list(root.iter("circle"))
    assert [circle.get("class") for circle in circles] == ["mark", "ring", "other"]
    for circle in circles:
        assert 50 <= float(circle.get("cx", "")) <= 308
        assert 14 <= float(circle.get("cy", "")) <= 200
