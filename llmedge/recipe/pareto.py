"""Which variants are worth a look and which one to take; arithmetic over what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

Preference = Literal["size", "speed"]


@dataclass(frozen=True, slots=True)
class Point:
    """A variant as a point in the room of size, loss and speed.

    Attributes:
        name: What it is called.
        file_bytes: Its size; less is better.
        kld: Its mean KL divergence from the reference, in nats; less is better.
        top1: Share of positions where both find the same token most likely.
        tg_tokens_per_s: Its speed of token generation; more is better.
        is_reference: Whether it is the reference itself, which is there to compare with.
    """

    name: str
    file_bytes: int
    kld: float
    top1: float
    tg_tokens_per_s: float
    is_reference: bool = False

    def dominates(self, other: Point) -> bool:
        """Return whether it is no worse in size, loss and speed, and better in one of them."""
        mine = (self.file_bytes, self.kld, -self.tg_tokens_per_s)
        others = (other.file_bytes, other.kld, -other.tg_tokens_per_s)
        return mine != others and all(a <= b for a, b in zip(mine, others, strict=True))


@dataclass(frozen=True, slots=True)
class Rule:
    """How one variant is chosen.

    Attributes:
        max_kld: Most KL divergence that is good enough.
        min_top1: Least share of equal first choices that is good enough.
        prefer: What decides between those that are good enough.
    """

    max_kld: float = 0.1
    min_top1: float = 0.8
    prefer: Preference = "size"

    def admits(self, point: Point) -> bool:
        """Return whether a variant is good enough."""
        return point.kld <= self.max_kld and point.top1 >= self.min_top1

    def describe(self, texts: str) -> str:
        """Say the rule in a sentence.

        Args:
            texts: What was measured on, for a person: `English`, `each of hi, ta`.
        """
        best, least = (self.reason(texts, is_within=is_within) for is_within in (True, False))
        return f"{best}; if none is that good, {least}"

    def reason(self, texts: str, *, is_within: bool) -> str:
        """Say what decided, of the rule.

        Args:
            texts: What was measured on, for a person.
            is_within: Whether any variant is good enough.
        """
        if not is_within:
            return "the one with the least KL divergence"
        best = "smallest" if self.prefer == "size" else "fastest"
        return (
            f"the {best} variant with a mean KL divergence of at most {self.max_kld:g} and the "
            f"same first choice at {self.min_top1:.0%} of the positions or more in {texts}"
        )


@dataclass(frozen=True, slots=True)
class Judged:
    """A point and what was found about it.

    Attributes:
        point: The point.
        is_on_front: Whether none of the others dominates it.
        is_recommended: Whether it is the one that the rule takes.
    """

    point: Point
    is_on_front: bool
    is_recommended: bool


def judge(points: Sequence[Point], rule: Rule) -> tuple[Judged, ...]:
    """Mark the front and one recommended point; the order of the points is kept.

    A point that the rule does not admit may dominate the recommended one, by missing `min_top1`.

    Args:
        points: At least one, and one that is not the reference.
        rule: How to choose.
    """
    eligible = [index for index, point in enumerate(points) if not point.is_reference]
    others = [points[index] for index in eligible]
    chosen = min(eligible, key=lambda index: _rank(points[index], others, rule))
    return tuple(
        Judged(point, not any(other.dominates(point) for other in points), index == chosen)
        for index, point in enumerate(points)
    )


def front_line(points: Sequence[Point]) -> list[Point]:
    """Return the points that nothing beats in size and loss alone, from small to large.

    They are what a line can show of the front in a drawing of these two.
    """
    line: list[Point] = []
    for point in sorted(points, key=lambda point: (point.file_bytes, point.kld)):
        if not line or point.kld < line[-1].kld:
            line.append(point)
    return line


def _rank(point: Point, points: Sequence[Point], rule: Rule) -> tuple[float | str, ...]:
    """Return what the recommended point has least of; every tie is broken the same way."""
    size, slowness = float(point.file_bytes), -point.tg_tokens_per_s
    if not any(map(rule.admits, points)):
        return (0.0, point.kld, size, slowness, -point.top1, point.name)
    refused = float(not rule.admits(point))
    if rule.prefer == "size":
        return (refused, size, slowness, point.kld, -point.top1, point.name)
    return (refused, slowness, size, point.kld, -point.top1, point.name)
