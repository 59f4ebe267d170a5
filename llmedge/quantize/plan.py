"""A plan: which quant type each tensor gets, chosen from what each choice costs and loses.

Pure: numbers in, a choice out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llmedge.core.errors import ResourceError
from llmedge.core.units import format_mb

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MAX_STEPS = 1 << 18


@dataclass(frozen=True, slots=True)
class Choice:
    """One quant type for one tensor.

    Attributes:
        quant_type: GGML's name of it.
        n_bytes: What the tensor takes with it.
        loss: KL divergence that it is expected to add, in nats.
    """

    quant_type: str
    n_bytes: int
    loss: float


@dataclass(frozen=True, slots=True)
class Allocation:
    """What was chosen.

    Attributes:
        choices: By tensor name.
    """

    choices: Mapping[str, Choice]

    @property
    def n_bytes(self) -> int:
        """Bytes of all tensors that there was a choice for."""
        return sum(choice.n_bytes for choice in self.choices.values())

    @property
    def loss(self) -> float:
        """Expected KL divergence: the losses of independent errors add up."""
        return max(0.0, sum(choice.loss for choice in self.choices.values()))  # noise may be less

    @property
    def types(self) -> dict[str, str]:
        """The quant type of each tensor."""
        return {name: choice.quant_type for name, choice in self.choices.items()}


def allocate(choices: Mapping[str, Sequence[Choice]], budget_bytes: int) -> Allocation:
    """Choose one type a tensor so that the loss is least and the bytes stay within the budget.

    The multiple-choice knapsack problem, solved by dynamic programming over bytes. Where all sizes
    share a large factor, which the shapes of models give, the answer is exact; else sizes are
    rounded up to a `2**-18` of the budget, and exact for those.

    Args:
        choices: What each tensor may become.
        budget_bytes: For all these tensors.

    Raises:
        ResourceError: Even the smallest choices take more.

    Source: Kellerer, Pferschy and Pisinger, "Knapsack Problems", chapter 11.
    """
    names = list(choices)
    useful = [_undominated(choices[name]) for name in names]
    smallest = sum(options[0].n_bytes for options in useful)
    if smallest > budget_bytes:
        raise ResourceError(
            f"the smallest plan takes {format_mb(smallest)} for its tensors, more than the "
            f"{format_mb(budget_bytes)} allowed",
            "allow more",
        )
    # Only what a choice takes beyond the smallest one counts against the room that is left.
    room = min(budget_bytes, sum(options[-1].n_bytes for options in useful)) - smallest
    extras = [[option.n_bytes - options[0].n_bytes for option in options] for options in useful]
    step = _step(extras, room)
    picks = _solve(
        [[-(-extra // step) for extra in row] for row in extras],
        [[option.loss for option in options] for options in useful],
        room // step,
    )
    chosen = {name: useful[i][picks[i]] for i, name in enumerate(names)}
    return Allocation(chosen)


def _undominated(options: Sequence[Choice]) -> list[Choice]:
    """Return the options that are better than every smaller one, from the smallest."""
    kept: list[Choice] = []
    for option in sorted(options, key=lambda option: (option.n_bytes, option.loss)):
        if not kept or option.loss < kept[-1].loss:
            kept.append(option)
    return kept


def _step(extras: Sequence[Sequence[int]], room: int) -> int:
    common = math.gcd(*(extra for row in extras for extra in row))
    return max(1, common, -(-room // _MAX_STEPS))


def _solve(
    costs: Sequence[Sequence[int]], losses: Sequence[Sequence[float]], capacity: int
) -> list[int]:
    """Return the index of each tensor's choice; each tensor's first choice costs nothing."""
    best = np.zeros(capacity + 1)
    decisions: list[np.ndarray[tuple[int], np.dtype[np.uint8]]] = []
    for row, lost in zip(costs, losses, strict=True):
        total = best + lost[0]
        decision = np.zeros(capacity + 1, np.uint8)
        for index in range(1, len(row)):
            cost = row[index]
            if cost > capacity:
                continue
            other = best[: capacity + 1 - cost] + lost[index]
            is_better = other < total[cost:]
            total[cost:][is_better] = other[is_better]
            decision[cost:][is_better] = index
        best = total
        decisions.append(decision)
    picks: list[int] = []
    at = capacity
    for row, decision in zip(reversed(costs), reversed(decisions), strict=True):
        index = int(decision[at])
        picks.append(index)
        at -= row[index]
    return picks[::-1]
