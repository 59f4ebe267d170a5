"""The drawings of a report: small ones, that a phone shows as wide as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree as Xml

from llmedge.recipe.plot import kld_axis, size_axis

if TYPE_CHECKING:
    from collections.abc import Sequence
    from xml.etree.ElementTree import Element

_WIDTH = 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 308, 14, 200
_BAR_PX, _ROW_PX = 10, 36
_RADIUS = 6
_MAX_CHARS = 26


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar.

    Attributes:
        name: What it is of.
        value: How long it is.
        text: The value for a person.
        whole: What it is a part of; `None` where the longest bar says how long they are.
        is_strong: Whether it stands out.
        is_bad: Whether it is a failure.
    """

    name: str
    value: float
    text: str
    whole: float | None = None
    is_strong: bool = True
    is_bad: bool = False

    @property
    def kind(self) -> str:
        """Its class."""
        return "bad" if self.is_bad else "mark" if self.is_strong else "other"


def add_bars(parent: Element, bars: Sequence[Bar]) -> None:
    """Draw bars, one below the other, each with its name and its value above it."""
    height = _ROW_PX * len(bars)
    label = "; ".join(f"{bar.name}: {bar.text}" for bar in bars)
    root = _svg(parent, height, label)
    longest = max((bar.value for bar in bars), default=0.0)
    for number, bar in enumerate(bars):
        top = _ROW_PX * number
        whole = bar.whole or longest
        share = min(1.0, bar.value / whole) if whole else 0.0
        _text(root, 0, top + 14, _short(bar.name), "")
        _text(root, _WIDTH, top + 14, bar.text, "dim end")
        _box(root, top + 20, 1.0, "track")
        _box(root, top + 20, share, bar.kind)


def add_scatter(
    parent: Element,
    sizes_bytes: Sequence[int],
    losses: Sequence[float],
    marks: Sequence[tuple[str, bool]],
) -> None:
    """Draw losses against sizes.

    Args:
        parent: Where to.
        sizes_bytes: Across.
        losses: Upwards, in nats.
        marks: A letter for each, and whether it stands out.
    """
    x_axis, y_axis = size_axis(sizes_bytes), kld_axis(losses)
    root = _svg(parent, 240, "mean KL divergence against size; the table has the figures")
    for value, label in x_axis.ticks:
        x = _LEFT + x_axis.place(value) * (_RIGHT - _LEFT)
        _line(root, (x, _TOP), (x, _BOTTOM))
        _text(root, x, _BOTTOM + 16, label, "dim mid")
    for value, label in y_axis.ticks:
        y = _BOTTOM - y_axis.place(value) * (_BOTTOM - _TOP)
        _line(root, (_LEFT, y), (_RIGHT, y))
        _text(root, _LEFT - 6, y + 4, label, "dim end")
    _text(root, (_LEFT + _RIGHT) / 2, _BOTTOM + 34, f"size ({x_axis.unit})", "dim mid")
    for size, loss, (letter, is_strong) in zip(sizes_bytes, losses, marks, strict=True):
        x = _LEFT + x_axis.place(size) * (_RIGHT - _LEFT)
        y = _BOTTOM - y_axis.place(loss) * (_BOTTOM - _TOP)
        place = {"cx": f"{x:.1f}", "cy": f"{y:.1f}"}
        kind = "mark" if is_strong else "other"
        Xml.SubElement(root, "circle", {"class": kind, "r": str(_RADIUS), **place})
        if is_strong:
            Xml.SubElement(root, "circle", {"class": "ring", "r": str(_RADIUS + 3), **place})
        _text(root, x + _RADIUS + 5, y - _RADIUS, letter, "")


def _svg(parent: Element, height: int, label: str) -> Element:
    box = f"0 0 {_WIDTH} {height}"
    return Xml.SubElement(parent, "svg", {"viewBox": box, "role": "img", "aria-label": label})


def _text(root: Element, x: float, y: float, text: str, kind: str) -> None:
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}"}
    Xml.SubElement(root, "text", place | ({"class": kind} if kind else {})).text = text


def _line(root: Element, start: tuple[float, float], end: tuple[float, float]) -> None:
    places = zip(("x1", "y1", "x2", "y2"), (*start, *end), strict=True)
    Xml.SubElement(root, "line", {"class": "grid", **{k: f"{v:.1f}" for k, v in places}})


def _box(root: Element, top: float, share: float, kind: str) -> None:
    size = {"y": str(top), "width": f"{share * _WIDTH:.1f}", "height": str(_BAR_PX), "rx": "3"}
    Xml.SubElement(root, "rect", {"class": kind, "x": "0", **size})


def _short(name: str) -> str:
    return name if len(name) <= _MAX_CHARS else f"{name[: _MAX_CHARS - 1]}…"
