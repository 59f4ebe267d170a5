import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.core.errors import ResourceError
from llmedge.quantize import plan as plan_module
from llmedge.quantize.plan import Choice, allocate

SIZES = st.integers(1, 40)
LOSSES = st.floats(0, 1, allow_nan=False)
ROWS = st.lists(st.tuples(SIZES, LOSSES), min_size=1, max_size=4)


def choices_of(tables, unit: int = 1) -> dict[str, list[Choice]]:
    return {
        f"t{number}": [Choice(f"Q{i}", size * unit, loss) for i, (size, loss) in enumerate(table)]
        for number, table in enumerate(tables)
    }


def best_by_trying_all(choices: dict[str, list[Choice]], budget: int) -> float | None:
    losses = [
        sum(choice.loss for choice in picks)
        for picks in itertools.product(*choices.values())
        if sum(choice.n_bytes for choice in picks) <= budget
    ]
    return min(losses, default=None)


@given(st.lists(ROWS, min_size=1, max_size=5), st.integers(1, 160), st.sampled_from([1, 96]))
def test_the_plan_is_the_best_there_is(tables, budget: int, unit: int):
    choices = choices_of(tables, unit)
    best = best_by_trying_all(choices, budget * unit)
    if best is None:
        with pytest.raises(ResourceError, match="the smallest plan takes"):
            allocate(choices, budget * unit)
        return
    plan = allocate(choices, budget * unit)
    assert plan.n_bytes <= budget * unit
    assert plan.loss == pytest.approx(best)
    assert list(plan.types) == list(choices)


@given(st.lists(ROWS, min_size=1, max_size=5), st.integers(100, 4000))
def test_coarse_steps_never_break_the_budget(tables, budget: int):
    choices = choices_of(tables, 97)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_module, "_MAX_STEPS", 16)
        try:
            plan = allocate(choices, budget)
        except ResourceError:
            assert best_by_trying_all(choices, budget) is None
            return
    assert plan.n_bytes <= budget


@given(st.lists(ROWS, min_size=1, max_size=5), st.integers(1, 150), st.integers(0, 50))
def test_more_room_never_loses_more(tables, budget: int, more: int):
    choices = choices_of(tables)
    if best_by_trying_all(choices, budget) is not None:
        assert allocate(choices, budget + more).loss <= allocate(choices, budget).loss + 1e-9


def test_a_model_of_usual_size_is_planned_exactly_in_bytes():
    shapes = [(768, 768)] * 60 + [(768, 1536)] * 90 + [(768, 49152)]
    choices = {
        f"t{i}": [
            Choice(name, n_in * n_out // 256 * n_bytes, i % 7 / n_bytes)
            for name, n_bytes in (("Q4_K", 144), ("Q5_K", 176), ("Q6_K", 210))
        ]
        for i, (n_in, n_out) in enumerate(shapes)
    }
    smallest = sum(row[0].n_bytes for row in choices.values())
    plan = allocate(choices, smallest + 2 * 768 * 768 // 256 * 32)
    assert sorted(plan.types.values()).count("Q5_K") == 2
    assert all(int(name[1:]) % 7 == 6 for name, kind in plan.types.items() if kind == "Q5_K")
