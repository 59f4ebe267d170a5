"""Which setting of a sweep is the best: the fastest undisturbed one, and who is as good as it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.bench.compare import noise_of, setting_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmedge.bench.record import BenchResult


@dataclass(frozen=True, slots=True)
class Best:
    """The best setting of one model at one depth.

    Attributes:
        model: The model's id.
        n_depth: Tokens in the kv cache.
        figure: `pp` or `tg`.
        setting: The swept options with their values.
        tokens_per_s: Its speed.
        as_good: Other settings whose speed differs by no more than the noise.
    """

    model: str
    n_depth: int
    figure: str
    setting: str
    tokens_per_s: float
    as_good: tuple[str, ...]


def find_best(results: Sequence[BenchResult], axes: Sequence[str]) -> list[Best]:
    """Name the best setting for prompts and for generation; flagged results do not count."""
    groups: dict[tuple[str, int], list[BenchResult]] = {}
    for result in results:
        if result.is_trusted:
            groups.setdefault((result.model, result.n_depth), []).append(result)
    found: list[Best] = []
    for (model, depth), group in groups.items():
        for figure, name in (("pp", "prompt"), ("tg", "generation")):
            rates = [(getattr(result, name), setting_of(result, axes)) for result in group]
            top, setting = max(rates, key=lambda pair: pair[0].mean)
            as_good = tuple(
                other
                for rate, other in rates
                if other != setting and top.mean - rate.mean <= noise_of(top, rate) * top.mean
            )
            found.append(Best(model, depth, figure, setting, top.mean, as_good))
    return found
