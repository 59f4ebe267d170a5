from collections import Counter

import pytest

from llmedge.runtime.batch import Batch
from llmedge.runtime.context import Context
from llmedge.runtime.sampler import SamplerChain, SamplingOptions


@pytest.fixture
def asked(context: Context):
    """A context that has just read a prompt."""
    with Batch(64) as batch:
        tokens = context.model.vocab.tokenize("Once upon a time there was a")
        batch.fill(tokens, 0)
        context.decode(batch)
        yield context


def chain_of(**options: object) -> SamplerChain:
    return SamplerChain(SamplingOptions(**options), 49152)  # type: ignore[arg-type]


def draw(context: Context, n: int = 1, **options: object) -> list[int]:
    with chain_of(**options) as chain:
        return [chain.sample(context) for _ in range(n)]


def test_temperature_zero_takes_the_most_likely(asked: Context):
    best = int(asked.logits()[0].argmax())
    assert draw(asked, 3, temperature=0) == [best] * 3
    assert draw(asked, 3, temperature=1.5, top_k=1) == [best] * 3


def test_the_same_seed_draws_the_same_and_zero_is_a_seed(asked: Context):
    for seed in (0, 1, 42, -1, 0xFFFFFFFF, 1 << 40):
        assert draw(asked, 20, seed=seed, temperature=1.5) == draw(
            asked, 20, seed=seed, temperature=1.5
        )
    assert draw(asked, 20, seed=0, temperature=1.5) != draw(asked, 20, seed=1, temperature=1.5)


def test_without_a_seed_each_chain_draws_for_itself(asked: Context):
    seeds = set()
    for _ in range(5):
        with chain_of() as chain:
            seeds.add(chain.seed)
    assert len(seeds) == 5


def test_top_k_bounds_the_candidates(asked: Context):
    drawn = draw(asked, 200, top_k=3, top_p=1, min_p=0, temperature=5.0, seed=1)
    likely = set(asked.logits()[0].argsort()[-3:].tolist())
    assert set(drawn) == likely


def test_min_p_drops_the_unlikely(asked: Context):
    free = draw(asked, 300, top_k=0, top_p=1, min_p=0, temperature=1.0, seed=1)
    strict = draw(asked, 300, top_k=0, top_p=1, min_p=0.3, temperature=1.0, seed=1)
    assert len(set(strict)) < len(set(free))


def test_penalties_push_away_what_was_said(asked: Context):
    best = int(asked.logits()[0].argmax())
    with chain_of(temperature=0, presence_penalty=2.0, frequency_penalty=2.0) as chain:
        drawn = Counter(chain.sample(asked) for _ in range(12))
    assert drawn[best] < 12
    with chain_of(temperature=0, repeat_penalty=50.0) as chain:
        chain.accept(best)
        assert chain.sample(asked) != best
