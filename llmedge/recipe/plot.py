"""What drawings of size against loss share: names, axes with ticks, labels that do not collide.

Knows no output: places are shares of an axis, boxes are in whatever unit the drawing uses.
"""

from __future__ import annotations

import itertools
import math
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Below this a divergence is rounding, and a logarithm needs a floor.
KLD_FLOOR = 1e-6
_MARGIN = 0.08  # of an axis stays free at both ends
_MAX_NAME = 28
_LINE_POINTS = 24
_SEPARATORS = ":/-."  # the underscore belongs to the names of quant types
_DIRECTIONS = ((1, 0), (-1, 0), (1, -1), (1, 1), (-1, -1), (-1, 1), (0, -1), (0, 1))


@dataclass(frozen=True, slots=True)
class Axis:
    """A range of values on a line.

    Attributes:
        low: The value at its beginning.
        high: The value at its end.
        is_log: Whether equal steps are equal ratios.
        ticks: Values to be marked, with their texts.
        unit: What the values are, for the title.
    """

    low: float
    high: float
    is_log: bool
    ticks: tuple[tuple[float, str], ...]
    unit: str

    def place(self, value: float) -> float:
        """Return where a value lies: 0 at the beginning, 1 at the end."""
        if self.is_log:
            return math.log(max(value, KLD_FLOOR) / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle; `top` is less than `bottom`."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """Where it ends."""
        return self.left + self.width

    @property
    def bottom(self) -> float:
        """Where it ends."""
        return self.top + self.height

    def overlaps(self, other: Box) -> bool:
        """Return whether two rectangles share more than an edge."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def contains(self, other: Box) -> bool:
        """Return whether another rectangle lies inside."""
        return (
            self.left <= other.left
            and self.top <= other.top
            and other.right <= self.right
            and other.bottom <= self.bottom
        )


@dataclass(frozen=True, slots=True)
class Placed:
    """A label in its place.

    Attributes:
        box: Where.
        choice: Which of the offered texts fitted, counted from 0.
        is_away: Whether it stands off its mark, so that a line must lead to it.
    """

    box: Box
    choice: int
    is_away: bool


def short_names(names: Sequence[str]) -> list[str]:
    """Return names without the words that all of them begin with, cut to a bearable length."""
    cut = 0
    if len(set(names)) > 1:
        # What the first and the last in order share, all between them share.
        ends = zip(min(names), max(names), strict=False)
        pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], ends)
        common = "".join(char for char, _ in pairs)
        cut = max(common.rfind(mark) for mark in _SEPARATORS) + 1
    elif names and ":" in names[0]:
        cut = names[0].index(":") + 1
    shorter = [name[cut:] or name for name in names]
    return [n if len(n) <= _MAX_NAME else f"{n[: _MAX_NAME - 1]}…" for n in shorter]


def keys() -> Iterator[str]:
    """Yield `a`, `b`, … `z`, `aa`, `ab`, …: short words for many points."""
    for length in itertools.count(1):
        for letters in itertools.product(string.ascii_lowercase, repeat=length):
            yield "".join(letters)


def kld_text(kld: float) -> str:
    """Format a KL divergence: four places, and powers of ten where these would all be 0."""
    return f"{kld:.4f}" if kld >= 0.001 or kld == 0 else f"{kld:.0e}"


def rate_text(tokens_per_s: float) -> str:
    """Format a speed where there is little room."""
    return f"{tokens_per_s:.0f}" if tokens_per_s >= 10 else f"{tokens_per_s:.2g}"


def size_axis(sizes_bytes: Sequence[int]) -> Axis:
    """Return an axis for file sizes, in MB or GB; logarithmic where they differ by much."""
    unit_bytes, unit = (1e9, "GB") if max(sizes_bytes) >= 1e9 else (1e6, "MB")
    low, high = min(sizes_bytes), max(sizes_bytes)
    is_log = high > 12 * max(low, 1)
    low, high = _widened(float(max(low, 1)), float(max(high, 1)), is_log=is_log, least_ratio=1.2)
    values = _ticks(low / unit_bytes, high / unit_bytes, is_log=is_log)
    return Axis(low, high, is_log, tuple((v * unit_bytes, f"{v:,g}") for v in values), unit)


def kld_axis(klds: Sequence[float]) -> Axis:
    """Return a logarithmic axis for KL divergences; what is below `KLD_FLOOR` lies on it."""
    floored = [max(kld, KLD_FLOOR) for kld in klds]
    low, high = _widened(min(floored), max(floored), is_log=True, least_ratio=4.0)
    is_floored = min(klds) < KLD_FLOOR
    ticks = [
        (value, f"≤{value:g}" if is_floored and value <= KLD_FLOOR else f"{value:g}")
        for value in _ticks(low, high, is_log=True)
    ]
    return Axis(low, high, is_log=True, ticks=tuple(ticks), unit="nats")


def place_labels(
    marks: Sequence[Box],
    sizes: Sequence[Sequence[tuple[float, float]]],
    bounds: Box,
    *,
    gap: float,
    rings: Sequence[tuple[float, float]],
) -> list[Placed | None]:
    """Find a place near its mark for every label.

    Labels overlap neither marks nor each other, and the straight lines from marks to labels that
    stand away cross neither.

    Args:
        marks: What the labels belong to, the most important first.
        sizes: For each mark the widths and heights of its texts, the best first.
        bounds: Where labels may be.
        gap: Between a mark and its label.
        rings: How far away labels may stand, nearest first, across and down; the first is beside.

    Returns:
        A place each, or `None` where nothing fitted.
    """
    taken = list(marks)
    lines: list[Box] = []
    placed: list[Placed | None] = []
    for mark, texts in zip(marks, sizes, strict=True):
        others = [box for box in taken if box != mark]
        found = next(
            (
                place
                for choice, size in enumerate(texts)
                for place in _places(mark, size, choice, gap, rings)
                if bounds.contains(place.box)
                and not any(map(place.box.overlaps, (*taken, *lines)))
                and not (place.is_away and _crosses(_line(mark, place.box), others))
            ),
            None,
        )
        placed.append(found)
        if found is not None:
            taken.append(found.box)
            lines += _line(mark, found.box) if found.is_away else ()
    return placed


def line_end(mark: Box, label: Box) -> tuple[float, float]:
    """Return where the line from a mark's middle to its label ends, across and down."""
    middle = mark.left + mark.width / 2
    return min(max(middle, label.left), label.right), label.top + label.height / 2


def _line(mark: Box, label: Box) -> list[Box]:
    """Return the line as points, which is near enough."""
    x, y = mark.left + mark.width / 2, mark.top + mark.height / 2
    end_x, end_y = line_end(mark, label)
    steps = [number / _LINE_POINTS for number in range(_LINE_POINTS)]
    return [Box(x + (end_x - x) * step, y + (end_y - y) * step, 0, 0) for step in steps]


def _crosses(line: Sequence[Box], boxes: Sequence[Box]) -> bool:
    return any(point.overlaps(box) for point in line for box in boxes)


def _places(
    mark: Box,
    size: tuple[float, float],
    choice: int,
    gap: float,
    rings: Sequence[tuple[float, float]],
) -> Iterator[Placed]:
    width, height = size
    for number, (across, down) in enumerate(rings):
        for x, y in _DIRECTIONS:
            left = (
                mark.left + (mark.width - width) / 2
                if x == 0
                else (mark.right + gap + across if x > 0 else mark.left - gap - across - width)
            )
            middle = mark.top + (mark.height - height) / 2
            top = middle + y * ((mark.height + height) / 2 + down)
            yield Placed(Box(left, top, width, height), choice, is_away=number > 0)


def _widened(low: float, high: float, *, is_log: bool, least_ratio: float) -> tuple[float, float]:
    """Return a range with a margin, and not narrower than a ratio."""
    if high / low < least_ratio:
        middle, half = math.sqrt(low * high), math.sqrt(least_ratio)
        low, high = middle / half, middle * half
    if is_log:
        factor = (high / low) ** _MARGIN
        return low / factor, high * factor
    margin = (high - low) * _MARGIN
    return max(low - margin, low / 2), high + margin


def _ticks(low: float, high: float, *, is_log: bool) -> list[float]:
    """Return round values inside a range, three to eight of them where that is possible."""
    if not is_log or high / low < 6:
        return _linear_ticks(low, high)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for steps, every in (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 3)):
        values = [step * 10.0**decade for decade in range(first, last + 1, every) for step in steps]
        inside = [value for value in values if low <= value <= high]
        if len(inside) <= 7:
            return inside
    return inside


def _linear_ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first, last = math.ceil(low / step), math.floor(high / step)
    # Rounded so that 0.1 + 0.2 reads 0.3.
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]
