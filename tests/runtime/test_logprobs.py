import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.runtime.batch import Batch
from llmedge.runtime.context import Context
from llmedge.runtime.logprobs import log_probs

ROWS = st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=40)


@given(ROWS, st.data())
def test_they_are_the_logarithms_of_the_softmax(row: list[float], data: st.DataObject):
    token = data.draw(st.integers(0, len(row) - 1))
    found = log_probs(np.array(row, dtype=np.float32), token, len(row))
    total = math.fsum(math.exp(logit) for logit in row)
    expected = [logit - math.log(total) for logit in row]
    assert found.chosen == pytest.approx(expected[token], abs=1e-5)
    assert dict(found.top) == {
        index: pytest.approx(value, abs=1e-5) for index, value in enumerate(expected)
    }
    assert math.fsum(math.exp(value) for _, value in found.top) == pytest.approx(1, abs=1e-5)
    assert [value for _, value in found.top] == sorted((v for _, v in found.top), reverse=True)


@pytest.mark.parametrize("shift", [-1e4, 0.0, 1e4])
def test_large_logits_neither_overflow_nor_vanish(shift: float):
    row = np.array([0.0, 1.0, 2.0, -np.inf], dtype=np.float32) + np.float32(shift)
    found = log_probs(row, 2, 10)
    assert found.chosen == pytest.approx(-0.4076059, abs=1e-3)
    assert [token for token, _ in found.top] == [2, 1, 0, 3]
    assert found.top[-1][1] == -math.inf


def test_the_likeliest_come_first_and_equals_by_their_ids():
    row = np.zeros(1000, dtype=np.float32)
    row[[7, 500]] = 3.0
    found = log_probs(row, 0, 2)
    assert [token for token, _ in found.top] == [7, 500]
    assert log_probs(row, 0).top == ()


def test_a_row_without_a_likely_token_has_no_likeliest():
    for value in (-np.inf, np.nan):
        found = log_probs(np.full(8, value, dtype=np.float32), 3, 2)
        assert found.chosen == -math.inf
        assert found.top == ()


def test_a_models_row_is_read_and_not_changed(context: Context):
    with Batch(8) as batch:
        batch.fill(context.model.vocab.tokenize("The capital of France is"), 0)
        context.decode(batch)
    row = context.logits()[0]
    before = row.copy()
    found = log_probs(row, int(row.argmax()), 5)
    assert (row == before).all()
    assert found.top[0] == (int(row.argmax()), found.chosen)
    exact = row.astype(np.float64)
    total = np.log(np.exp(exact - exact.max()).sum()) + exact.max()
    assert found.chosen == pytest.approx(float(exact.max() - total), abs=1e-6)
