"""The choice as an SVG file: size against loss, speed as colour, the front, a list of all points.

The file needs nothing else: no script, no font, no picture. Colours follow the reader's light or
dark scheme; what they say stands in the list as well. Names come from files and are not trusted.
"""

from __future__ import annotations

import textwrap
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from llmedge.core.units import format_mb
from llmedge.recipe.pareto import Judged, front_line
from llmedge.recipe.plot import (
    Axis,
    Box,
    keys,
    kld_axis,
    kld_text,
    line_end,
    place_labels,
    rate_text,
    short_names,
    size_axis,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from xml.etree.ElementTree import Element

_PLOT = Box(86, 78, 560, 400)
_LIST_LEFT = _PLOT.right + 40
_ROW_PX, _FONT_PX = 20, 13
_WIDE_EM, _NARROW_EM = 1.05, 0.62
_MARK_PX, _RING_PX = 6, 11
_NEAR_PX = 4  # marks closer than this share a label
_RINGS = ((0, 0), (0, 8), (14, 16), (24, 30), (36, 46), (50, 64), (70, 84), (90, 108))
_N_SPEEDS = 4
_COLUMNS = (("size", 78), ("KLD", 66), ("top-1", 60), ("tg tokens/s", 88))

# Plasma, from slow to fast; each step has a contrast of 3 and more to its background.
# Source: matplotlib's colour map, Smith and van der Walt, CC0.
_LIGHT = ("#e16462", "#b12a90", "#6a00a8", "#0d0887")
_DARK = ("#b5509c", "#e16462", "#fca636", "#f0f921")


@dataclass(frozen=True, slots=True)
class _Mark:
    judged: Judged
    key: str
    name: str
    x: float
    y: float
    speed: int

    @property
    def box(self) -> Box:
        radius = _RING_PX if self.judged.is_recommended else _MARK_PX + 1
        return Box(self.x - radius, self.y - radius, 2 * radius, 2 * radius)


def render_svg(points: Sequence[Judged], rule: str, *, reference: str, texts: str) -> str:
    """Draw points.

    Args:
        points: At least one, in the order of the list.
        rule: How the recommended one was chosen, as a sentence.
        reference: The reference's id.
        texts: What the loss was measured on.
    """
    rule, reference, texts = _clean(rule), _clean(reference), _clean(texts)
    x_axis = size_axis([point.point.file_bytes for point in points])
    y_axis = kld_axis([point.point.kld for point in points])
    marks = _marks(points, x_axis, y_axis)
    list_width = (
        56
        + max(_width("variant"), *(_width(mark.name) for mark in marks))
        + sum(w for _, w in _COLUMNS)
    )
    width = _LIST_LEFT + list_width + 16
    rule_lines = textwrap.wrap(
        f"Recommended: {rule}.", width=int((width - 48) / (_FONT_PX * _NARROW_EM))
    )
    plot_bottom = max(_PLOT.bottom + 56, _PLOT.top + _ROW_PX * (len(marks) + 1))
    size = (width, plot_bottom + 78 + _ROW_PX * len(rule_lines))
    root = _root(size, points, rule, reference, texts)
    _add_axes(root, x_axis, y_axis)
    _add_front(root, marks)
    _add_marks(root, marks)
    _add_labels(root, marks)
    _add_list(root, marks, _LIST_LEFT + list_width)
    _add_legend(root, marks, plot_bottom)
    for number, line in enumerate(rule_lines):
        _text(root, 24, plot_bottom + 78 + number * _ROW_PX, line, "llm-fg")
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _marks(points: Sequence[Judged], x_axis: Axis, y_axis: Axis) -> list[_Mark]:
    names = short_names([_clean(point.point.name) for point in points])
    slow = min(point.point.tg_tokens_per_s for point in points)
    fast = max(point.point.tg_tokens_per_s for point in points)
    step = (fast - slow) / _N_SPEEDS
    return [
        _Mark(
            judged,
            key,
            name,
            _PLOT.left + x_axis.place(judged.point.file_bytes) * _PLOT.width,
            _PLOT.bottom - y_axis.place(judged.point.kld) * _PLOT.height,
            min(_N_SPEEDS - 1, int((judged.point.tg_tokens_per_s - slow) / step)) if step else 0,
        )
        for judged, key, name in zip(points, keys(), names, strict=False)
    ]


def _root(
    size: tuple[float, float], points: Sequence[Judged], rule: str, reference: str, texts: str
) -> Element:
    width, height = (f"{value:.0f}" for value in size)
    root = ElementTree.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "width": width,
            "height": height,
            "viewBox": f"0 0 {width} {height}",
            "role": "img",
            "aria-labelledby": "llm-title llm-desc",
        },
    )
    chosen = next(point.point for point in points if point.is_recommended)
    what = "1 variant" if len(points) == 1 else f"{len(points)} variants"
    title = f"{what} of {reference}: loss, size and speed"
    ElementTree.SubElement(root, "title", id="llm-title").text = title
    ElementTree.SubElement(root, "desc", id="llm-desc").text = (
        f"Recommended is {_clean(chosen.name)} ({format_mb(chosen.file_bytes)}, KL divergence "
        f"{kld_text(chosen.kld)} nats, {chosen.tg_tokens_per_s:.1f} tokens per second): {rule}."
    )
    ElementTree.SubElement(root, "style").text = _style()
    ElementTree.SubElement(root, "rect", {"class": "llm-bg", "width": width, "height": height})
    _text(root, 24, 30, title, "llm-fg llm-head")
    subtitle = f"mean KL divergence from {reference} on {texts}"
    _text(root, 24, 52, f"{subtitle}; down and left is better", "llm-dim")
    return root


def _add_axes(root: Element, x_axis: Axis, y_axis: Axis) -> None:
    for value, label in x_axis.ticks:
        x = _PLOT.left + x_axis.place(value) * _PLOT.width
        _line(root, (x, _PLOT.top), (x, _PLOT.bottom), "llm-grid")
        _text(root, x, _PLOT.bottom + 18, label, "llm-dim llm-mid")
    for value, label in y_axis.ticks:
        y = _PLOT.bottom - y_axis.place(value) * _PLOT.height
        _line(root, (_PLOT.left, y), (_PLOT.right, y), "llm-grid")
        _text(root, _PLOT.left - 8, y + 4, label, "llm-dim llm-end")
    corner = (_PLOT.left, _PLOT.bottom)
    _line(root, corner, (_PLOT.right, _PLOT.bottom), "llm-axis")
    _line(root, corner, (_PLOT.left, _PLOT.top), "llm-axis")
    middle = _PLOT.left + _PLOT.width / 2
    _text(root, middle, _PLOT.bottom + 40, _title("size", x_axis), "llm-fg llm-mid")
    y = _PLOT.top + _PLOT.height / 2
    title = _text(root, 20, y, _title("mean KL divergence", y_axis), "llm-fg llm-mid")
    title.set("transform", f"rotate(-90 20 {y:.1f})")


def _title(what: str, axis: Axis) -> str:
    return f"{what} ({axis.unit}{', logarithmic' if axis.is_log else ''})"


def _add_front(root: Element, marks: Sequence[_Mark]) -> None:
    line = front_line([mark.judged.point for mark in marks])
    place = {mark.judged.point: f"{mark.x:.1f},{mark.y:.1f}" for mark in marks}
    if len(line) > 1:
        points = " ".join(place[point] for point in line)
        ElementTree.SubElement(root, "polyline", {"class": "llm-front", "points": points})


def _add_marks(root: Element, marks: Sequence[_Mark]) -> None:
    # The recommended one last, so that nothing covers it.
    for mark in sorted(marks, key=lambda mark: mark.judged.is_recommended):
        if mark.judged.is_recommended:
            _circle(root, mark.x, mark.y, _RING_PX, "llm-ring")
        _circle(root, mark.x, mark.y, _MARK_PX, _mark_class(mark.judged, mark.speed))


def _mark_class(judged: Judged, speed: int) -> str:
    return f"llm-{'full' if judged.is_on_front else 'open'}{speed}"


def _add_labels(root: Element, marks: Sequence[_Mark]) -> None:
    groups: list[list[_Mark]] = []
    important = sorted(
        marks, key=lambda mark: (not mark.judged.is_recommended, not mark.judged.is_on_front)
    )
    for mark in important:
        near = (g for g in groups if abs(g[0].x - mark.x) + abs(g[0].y - mark.y) <= _NEAR_PX)
        group = next(near, None)
        if group is None:
            groups.append([mark])
        else:
            group.append(mark)
    texts = [_label_texts(group) for group in groups]
    sizes = [[(_width(text), _FONT_PX + 3.0) for text in offered] for offered in texts]
    boxes = [group[0].box for group in groups]
    places = place_labels(boxes, sizes, _PLOT, gap=3, rings=_RINGS)
    for group, offered, place in zip(groups, texts, places, strict=True):
        if place is None:
            continue  # the list has it
        mark, box = group[0], place.box
        if place.is_away:
            _line(root, (mark.x, mark.y), line_end(mark.box, box), "llm-lead")
        _text(root, box.left, box.bottom - 4, offered[place.choice], "llm-fg llm-label")


def _label_texts(group: Sequence[_Mark]) -> list[str]:
    if len(group) == 1:
        return [group[0].name, group[0].key]
    some = " ".join(mark.key for mark in group[:6])
    return [some if len(group) <= 6 else f"{some} +{len(group) - 6}", f"{group[0].key}…"]


def _add_list(root: Element, marks: Sequence[_Mark], right: float) -> None:
    ends = [right - sum(width for _, width in _COLUMNS[n + 1 :]) for n in range(len(_COLUMNS))]
    y = _PLOT.top + 4
    _text(root, _LIST_LEFT + 48, y, "variant", "llm-dim")
    for (name, _), end in zip(_COLUMNS, ends, strict=True):
        _text(root, end, y, name, "llm-dim llm-end")
    for number, mark in enumerate(marks, start=1):
        y = _PLOT.top + 4 + number * _ROW_PX
        point = mark.judged.point
        if mark.judged.is_recommended:
            _circle(root, _LIST_LEFT + 8, y - 4, 8, "llm-ring")
        _circle(root, _LIST_LEFT + 8, y - 4, 5, _mark_class(mark.judged, mark.speed))
        _text(root, _LIST_LEFT + 22, y, mark.key, "llm-dim")
        _text(root, _LIST_LEFT + 48, y, mark.name, "llm-fg")
        cells = (
            format_mb(point.file_bytes),
            kld_text(point.kld),
            f"{point.top1:.1%}",
            f"{point.tg_tokens_per_s:.1f}",
        )
        for cell, end in zip(cells, ends, strict=True):
            _text(root, end, y, cell, "llm-fg llm-end")


def _add_legend(root: Element, marks: Sequence[_Mark], top: float) -> None:
    x, y = _legend_text(root, 10, top + 24, "tg tokens/s:"), top + 24
    for speed in sorted({mark.speed for mark in marks}):
        rates = [mark.judged.point.tg_tokens_per_s for mark in marks if mark.speed == speed]
        _circle(root, x, y - 4, _MARK_PX, f"llm-full{speed}")
        low, high = rate_text(min(rates)), rate_text(max(rates))
        x = _legend_text(root, x, y, low if low == high else f"{low} to {high}")
    x, y = 32.0, y + 26
    _circle(root, x, y - 4, _MARK_PX, f"llm-full{_N_SPEEDS}")
    x = _legend_text(root, x, y, "on the front of size, loss and speed")
    _circle(root, x, y - 4, _MARK_PX, f"llm-open{_N_SPEEDS}")
    x = _legend_text(root, x, y, "behind the front")
    _circle(root, x, y - 4, 9, "llm-ring")
    _legend_text(root, x, y, "recommended")


def _legend_text(root: Element, x: float, y: float, text: str) -> float:
    _text(root, x + 14, y, text, "llm-fg")
    return x + 14 + _width(text) + 22


def _text(root: Element, x: float, y: float, text: str, classes: str) -> Element:
    element = ElementTree.SubElement(
        root, "text", {"x": f"{x:.1f}", "y": f"{y:.1f}", "class": classes}
    )
    element.text = text
    return element


def _line(
    root: Element, start: tuple[float, float], end: tuple[float, float], classes: str
) -> None:
    places = zip(("x1", "y1", "x2", "y2"), (*start, *end), strict=True)
    ElementTree.SubElement(
        root, "line", {"class": classes, **{name: f"{value:.1f}" for name, value in places}}
    )


def _circle(root: Element, x: float, y: float, radius: float, classes: str) -> None:
    ElementTree.SubElement(
        root,
        "circle",
        {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": f"{radius:g}", "class": classes},
    )


def _width(text: str) -> float:
    """Estimate a text's width; no font is known here, so it is rather too wide than too narrow."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return _FONT_PX * (wide * _WIDE_EM + (len(text) - wide) * _NARROW_EM)


def _clean(text: str) -> str:
    """Replace what XML cannot hold and what would steer the text's direction."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _style() -> str:
    light = _scheme("#ffffff", "#1f2328", "#59636e", "#e4e8ec", _LIGHT)
    dark = _scheme("#14171c", "#e6edf3", "#9aa4af", "#2b323a", _DARK)
    return f"""
text {{ font: {_FONT_PX}px system-ui, sans-serif; }}
.llm-head {{ font-size: 17px; font-weight: 600; }}
.llm-label {{ paint-order: stroke; stroke-width: 3; stroke-linejoin: round; }}
.llm-mid {{ text-anchor: middle; }}
.llm-end {{ text-anchor: end; }}
.llm-grid, .llm-axis, .llm-lead {{ stroke-width: 1; }}
.llm-front {{ fill: none; stroke-width: 1.5; stroke-dasharray: 5 4; }}
.llm-ring {{ fill: none; stroke-width: 2; }}
{light}
@media (prefers-color-scheme: dark) {{
{dark}
}}
"""


def _scheme(back: str, fore: str, dim: str, grid: str, speeds: Sequence[str]) -> str:
    rules = [
        f".llm-bg {{ fill: {back}; }}",
        f".llm-fg {{ fill: {fore}; }}",
        f".llm-dim {{ fill: {dim}; }}",
        f".llm-label {{ stroke: {back}; }}",
        f".llm-grid {{ stroke: {grid}; }}",
        f".llm-axis, .llm-lead, .llm-front {{ stroke: {dim}; }}",
        f".llm-ring {{ stroke: {fore}; }}",
    ]
    for number, colour in enumerate((*speeds, dim)):
        rules.append(f".llm-full{number} {{ fill: {colour}; }}")
        rules.append(f".llm-open{number} {{ fill: {back}; stroke: {colour}; stroke-width: 2.5; }}")
    return "\n".join(rules)
