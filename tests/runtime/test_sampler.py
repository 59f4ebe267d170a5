import math
from collections import Counter

import msgspec
import numpy as np
import pytest

from llmedge.core.errors import UsageError
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
    chosen = SamplingOptions(**options)  # type: ignore[arg-type]
    with SamplerChain(chosen, context.model.vocab) as chain:
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


FREE = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": 3.0, "seed": 1}


@pytest.mark.parametrize(
    "filter_",
    [
        {"typical_p": 0.2},
        {"top_n_sigma": 1.0},
        {"top_p": 0.3},
        {"top_k": 5},
    ],
)
def test_each_filter_narrows_what_is_drawn(asked: Context, filter_: dict[str, float]):
    assert len(set(draw(asked, 60, **FREE))) > len(set(draw(asked, 60, **(FREE | filter_))))


def test_xtc_leaves_out_the_likeliest_when_there_are_several(asked: Context):
    best = int(asked.logits()[0].argmax())
    options = {"temperature": 1.0, "seed": 1, "top_k": 40, "top_p": 1.0, "min_p": 0.0}
    assert best in draw(asked, 60, **options)
    assert best not in draw(asked, 60, **options, xtc_probability=1.0, xtc_threshold=0.01)


def test_min_keep_holds_against_a_strict_filter(asked: Context):
    strict = {"temperature": 9.0, "seed": 1, "top_p": 0.001, "min_p": 0.0}
    assert len(set(draw(asked, 80, **strict))) == 1
    assert len(set(draw(asked, 80, **strict, min_keep=5))) == 5


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_a_bias_bans_and_prefers_also_at_temperature_zero(asked: Context, temperature: float):
    second, best = asked.logits()[0].argsort()[-2:].tolist()
    banned = draw(asked, 5, temperature=temperature, seed=1, logit_bias=((best, -math.inf),))
    assert best not in banned
    if temperature == 0:
        assert banned == [second] * 5
    preferred = draw(asked, 5, temperature=temperature, seed=1, logit_bias=((77, 100.0),))
    assert preferred == [77] * 5


def test_penalties_look_back_no_further_than_asked(asked: Context):
    best = int(asked.logits()[0].argmax())
    for window, is_penalised in ((0, False), (1, False), (2, True), (-1, True)):
        with chain_of(temperature=0, repeat_penalty=50.0, penalty_last_n=window) as chain:
            chain.accept(best)
            chain.accept(5)
            assert (chain.sample(asked) != best) == is_penalised


def test_dry_breaks_a_repetition_and_its_breakers_end_it(asked: Context):
    best = int(asked.logits()[0].argmax())
    vocab = asked.model.vocab
    words = vocab.tokenize(" one two three four")

    def after_repeating(**options: object) -> int:
        chosen = SamplingOptions(temperature=0, **options)  # type: ignore[arg-type]
        with SamplerChain(chosen, vocab) as chain:
            for token in [*words, best, *words]:
                chain.accept(token)
            return chain.sample(asked)

    assert after_repeating() == best
    assert after_repeating(dry_multiplier=5.0) != best
    assert after_repeating(dry_multiplier=5.0, dry_sequence_breakers=(" four",)) == best
    assert after_repeating(dry_multiplier=5.0, dry_allowed_length=9) == best
    assert after_repeating(dry_multiplier=5.0, dry_penalty_last_n=3) == best
    assert after_repeating(dry_multiplier=5.0, dry_penalty_last_n=-1) != best


def test_what_is_banned_in_the_logits_is_not_drawn(asked: Context):
    logits = asked.logits()[0]
    kept = logits.argsort()[100:103].tolist()  # among the least likely
    values = logits[kept]
    logits.fill(-np.inf)
    logits[kept] = values
    drawn = set(draw(asked, 60, temperature=5.0, top_p=1.0, min_p=0.0, seed=1))
    assert drawn == set(kept)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": math.nan},
        {"top_p": math.inf},
        {"top_k": 1 << 40},
        {"logit_bias": ((49152, 1.0),)},
        {"logit_bias": ((-1, 1.0),)},
        {"logit_bias": ((1, math.inf),)},
        {"logit_bias": ((1, math.nan),)},
        {"repeat_penalty": 0.0},
        {"dry_multiplier": 1.0, "dry_sequence_breakers": ("a",) * 17},
        {"dry_multiplier": 1.0, "dry_sequence_breakers": ("",)},
        {"dry_multiplier": 1.0},
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, object]):
    with pytest.raises(UsageError):
        chain_of(**options)


def test_a_window_without_bounds_takes_no_memory_to_speak_of(asked: Context):
    huge = {"dry_multiplier": 1.0, "dry_penalty_last_n": (1 << 31) - 1, "repeat_penalty": 1.1}
    assert draw(asked, 2, **huge, penalty_last_n=(1 << 31) - 1)


def test_options_survive_the_way_to_another_process():
    options = SamplingOptions(seed=0, logit_bias=((1, -math.inf), (2, 0.5)), typical_p=0.5)
    packed = msgspec.msgpack.encode(options)
    assert msgspec.msgpack.decode(packed, type=SamplingOptions) == options


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_choice_that_is_told_of_is_the_one_that_is_not(asked: Context, temperature: float):
    options = SamplingOptions(temperature=temperature, seed=3, repeat_penalty=1.3)
    with SamplerChain(options, asked.model.vocab) as told, SamplerChain(options, 49152) as plain:
        for _ in range(8):
            token, left = told.sample_from(asked.logits()[0])
            assert token == plain.sample(asked)
            assert sum(math.exp(share) for share in left.values()) == pytest.approx(1)
            assert (len(left) == 1) >= (temperature == 0)
            assert token in left
