import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.core.errors import UnsupportedError, UsageError
from llmedge.serve.vectors import embed_texts, normalised
from tests.serve.dialects import FakeEngine

NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8)


@given(NUMBERS)
def test_a_vector_that_is_not_zero_has_length_one(values: list[float]):
    unit = normalised(values)
    assert len(unit) == len(values)
    assert math.hypot(*unit) == pytest.approx(1 if any(values) else 0, abs=1e-6)


def test_a_vector_is_cut_first():
    assert normalised([3.0, 4.0, 100.0], 2) == [0.6, 0.8]


def test_what_cannot_be_embedded_is_refused():
    def embed(texts: list[object], engine: FakeEngine | None = None, **options: object):
        return asyncio.run(embed_texts(engine or FakeEngine(), texts, **options))

    assert [vector.n_tokens for vector in embed(["ab", [1, 2, 3]])] == [2, 3]
    for texts in ([], [[]], [[256]], ["x"] * 2049):
        with pytest.raises(UsageError, match="input"):
            embed(texts)
    for dimensions in (0, 5):
        with pytest.raises(UsageError, match="dimensions"):
            embed(["x"], dimensions=dimensions)
    with pytest.raises(UnsupportedError, match="not trained"):
        embed(["x"], FakeEngine(can_embed=False))
