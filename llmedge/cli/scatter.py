"""The choice as a drawing in characters: size across, loss upwards, speed beside the names."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from llmedge.recipe.pareto import front_line
from llmedge.recipe.plot import (
    Box,
    keys,
    kld_axis,
    place_labels,
    rate_text,
    short_names,
    size_axis,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmedge.recipe.pareto import Judged
    from llmedge.recipe.plot import Axis

RECOMMENDED, ON_FRONT, BEHIND, LINE = "◆", "●", "○", "·"
LEGEND = (
    f"{RECOMMENDED} recommended  {ON_FRONT} on the front of size, loss and speed  "
    f"{BEHIND} behind the front"
)
MIN_WIDTH, MAX_WIDTH = 44, 110
_HEIGHT, _TALL, _FEW = 16, 22, 12
_RINGS = ((0, 0),)  # a label that is not beside its mark would need a line to it

_Cell = tuple[int, int]


def draw_scatter(points: Sequence[Judged], width: int) -> str:
    """Draw points; every line is at most `width` characters, or `MIN_WIDTH` where that is more.

    Args:
        points: At least one, in the order of their keys: `a`, `b`, …
        width: Of the terminal, in characters.
    """
    x_axis = size_axis([point.point.file_bytes for point in points])
    y_axis = kld_axis([point.point.kld for point in points])
    gutter = max(len(label) for _, label in y_axis.ticks) + 2
    columns = min(max(width, MIN_WIDTH), MAX_WIDTH) - gutter
    canvas = _Canvas(columns, _HEIGHT if len(points) <= _FEW else _TALL)
    cells = [
        canvas.cell(x_axis.place(point.point.file_bytes), y_axis.place(point.point.kld))
        for point in points
    ]
    _draw_front(canvas, points, cells)
    _draw_points(canvas, points, cells)
    lines = [f"mean KL divergence ({y_axis.unit}, logarithmic)"]
    lines += _with_scale(canvas.lines(), canvas, y_axis, gutter)
    lines += _size_scale(canvas, x_axis, gutter)
    return "\n".join(line.rstrip() for line in lines) + "\n"


class _Canvas:
    """A grid of characters; row 0 is the top."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self._grid = [[" "] * columns for _ in range(rows)]

    @property
    def box(self) -> Box:
        return Box(0, 0, self.columns, self.rows)

    def cell(self, across: float, upwards: float) -> _Cell:
        """Return the column and row of a place given in shares of the axes."""
        column = min(max(round(across * (self.columns - 1)), 0), self.columns - 1)
        row = min(max(round((1 - upwards) * (self.rows - 1)), 0), self.rows - 1)
        return column, row

    def write(self, cell: _Cell, text: str) -> None:
        column, row = cell
        self._grid[row][column : column + len(text)] = text

    def lines(self) -> list[str]:
        return ["".join(row) for row in self._grid]


def _draw_front(canvas: _Canvas, points: Sequence[Judged], cells: Sequence[_Cell]) -> None:
    place = dict(zip((point.point for point in points), cells, strict=True))
    line = [place[point] for point in front_line([point.point for point in points])]
    for (x, y), (to_x, to_y) in itertools.pairwise(line):
        # A dot every other column, or every row where the line is steep.
        steps = max((to_x - x) // 2, abs(to_y - y), 1)
        for step in range(1, steps):
            share = step / steps
            canvas.write((round(x + (to_x - x) * share), round(y + (to_y - y) * share)), LINE)


def _draw_points(canvas: _Canvas, points: Sequence[Judged], cells: Sequence[_Cell]) -> None:
    names = short_names([point.point.name for point in points])
    with_speed = len(points) <= _FEW
    groups: dict[_Cell, list[tuple[Judged, str, str]]] = {}
    rows = sorted(
        zip(points, cells, keys(), names, strict=False),
        key=lambda row: (not row[0].is_recommended, not row[0].is_on_front),
    )
    for point, cell, key, name in rows:
        groups.setdefault(cell, []).append((point, key, name))
    texts = [_label_texts(group, with_speed=with_speed) for group in groups.values()]
    places = place_labels(
        [Box(column, row, 1, 1) for column, row in groups],
        # A space on either side keeps it off its own mark and off others.
        [[(len(text) + 2, 1) for text in offered] for offered in texts],
        canvas.box,
        gap=0,
        rings=_RINGS,
    )
    for (cell, group), offered, place in zip(groups.items(), texts, places, strict=True):
        # The first of a group is the most important one. Without room for a label, its key marks
        # the place.
        canvas.write(cell, _mark(group[0][0]) if place else group[0][1][:1])
        if place is not None:
            canvas.write((int(place.box.left) + 1, int(place.box.top)), offered[place.choice])


def _mark(point: Judged) -> str:
    if point.is_recommended:
        return RECOMMENDED
    return ON_FRONT if point.is_on_front else BEHIND


def _label_texts(group: Sequence[tuple[Judged, str, str]], *, with_speed: bool) -> list[str]:
    """Return what may stand beside a mark: a name only where it takes as many cells as letters."""
    together = ",".join(key for _, key, _ in group[:6])
    if len(group) > 6:
        together += f"+{len(group) - 6}"
    point, key, name = group[0]
    if len(group) > 1 or not name.isascii() or not name.isprintable():
        return [together, key]
    speed = [f"{name} {rate_text(point.point.tg_tokens_per_s)}/s"] if with_speed else []
    return [*speed, name, key]


def _with_scale(lines: list[str], canvas: _Canvas, axis: Axis, gutter: int) -> list[str]:
    labels = {canvas.cell(0, axis.place(value))[1]: label for value, label in axis.ticks}
    return [
        f"{labels.get(row, ''):>{gutter - 2}} {'┤' if row in labels else '│'}{line}"
        for row, line in enumerate(lines)
    ]


def _size_scale(canvas: _Canvas, axis: Axis, gutter: int) -> list[str]:
    rule, numbers = ["─"] * canvas.columns, [" "] * canvas.columns
    free_from = 0
    for value, label in axis.ticks:
        column = canvas.cell(axis.place(value), 0)[0]
        rule[column] = "┬"
        start = max(0, min(column - len(label) // 2, canvas.columns - len(label)))
        if start >= free_from:
            numbers[start : start + len(label)] = label
            free_from = start + len(label) + 1
    title = f"size ({axis.unit}{', logarithmic' if axis.is_log else ''})"
    return [
        " " * (gutter - 1) + "└" + "".join(rule),
        " " * gutter + "".join(numbers),
        " " * gutter + title.center(canvas.columns),
    ]
