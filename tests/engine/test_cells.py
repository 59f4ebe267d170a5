from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.engine.cells import CellLedger

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["extend", "share", "cut"]),
        st.integers(0, 4),
        st.integers(0, 4),
        st.integers(0, 9),
    ),
    max_size=60,
)


@given(steps=STEPS)
def test_the_ledger_counts_what_a_list_of_cells_counts(steps: list[tuple[str, int, int, int]]):
    ledger = CellLedger()
    cells: dict[int, list[int]] = {seq_id: [] for seq_id in range(5)}
    n_made = 0
    for action, seq_id, other, n in steps:
        held = cells[seq_id]
        if action == "extend":
            ledger.extend(seq_id, n)
            held += range(n_made, n_made + n)
            n_made += n
        elif action == "cut":
            ledger.cut(seq_id, n)
            del held[n:]
        elif held and not cells[other]:
            ledger.share(seq_id, other, min(n, len(held)))
            cells[other] = held[: min(n, len(held))]
        ledger.check_integrity()
        assert ledger.n_used == len({cell for held in cells.values() for cell in held})
    for seq_id, held in cells.items():
        assert ledger.n_tokens(seq_id) == len(held)
        assert ledger.count([0, 1], (seq_id, 3)) == len({*cells[0], *cells[1], *held[:3]})
        others = {cell for other in (0, 1) for cell in cells[other]}
        assert ledger.is_covered(seq_id, {0, 1}) == set(held).issubset(others)


def test_books_that_disagree_are_noticed():
    ledger = CellLedger()
    ledger.extend(0, 5)
    ledger.n_used = 4
    with pytest.raises(AssertionError, match="4 cells"):
        ledger.check_integrity()
