import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.measure.kl_divergence import DivergenceMeter, log_softmax


def random_logits(seed: int, n: int = 40, n_vocab: int = 500, scale: float = 3.0):
    return (np.random.default_rng(seed).standard_normal((n, n_vocab)) * scale).astype(np.float32)


def measure(reference, variant, tokens, *, parts: int = 1):
    meter = DivergenceMeter()
    for index in np.array_split(np.arange(len(tokens)), parts):
        meter.add(reference[index], variant[index], tokens[index])
    return meter.result()


@pytest.fixture
def tokens():
    return np.random.default_rng(9).integers(0, 500, 40)


def test_a_model_loses_nothing_against_itself(tokens):
    logits = random_logits(1)
    result = measure(logits, logits, tokens)
    assert (result.mean_kld, result.max_kld, result.kld_p999) == (0.0, 0.0, 0.0)
    assert (result.top1_agreement, result.rms_delta_p) == (1.0, 0.0)
    assert result.perplexity == result.reference_perplexity
    assert result.perplexity_ratio == 1.0


def test_every_figure_follows_its_definition(tokens):
    reference, variant = random_logits(1), random_logits(2)
    result = measure(reference, variant, tokens)
    p = np.exp(reference.astype(float)) / np.exp(reference.astype(float)).sum(1, keepdims=True)
    q = np.exp(variant.astype(float)) / np.exp(variant.astype(float)).sum(1, keepdims=True)
    kld = (p * np.log(p / q)).sum(1)
    rows = np.arange(40)
    assert result.n_tokens == 40
    assert result.mean_kld == pytest.approx(kld.mean())
    assert result.mean_kld_error == pytest.approx(kld.std() / math.sqrt(40))
    assert result.median_kld == pytest.approx(np.quantile(kld, 0.5), rel=0.1)
    assert result.max_kld == pytest.approx(kld.max())
    assert result.kld_p999 <= result.max_kld
    assert result.top1_agreement == np.mean(p.argmax(1) == q.argmax(1))
    assert result.rms_delta_p == pytest.approx(math.sqrt(((q - p)[rows, tokens] ** 2).mean()))
    assert result.perplexity == pytest.approx(math.exp(-np.log(q[rows, tokens]).mean()))
    assert result.reference_perplexity == pytest.approx(math.exp(-np.log(p[rows, tokens]).mean()))


@given(st.integers(1, 40))
def test_the_pieces_in_which_it_comes_do_not_matter(parts: int):
    reference, variant = random_logits(1), random_logits(2)
    tokens = np.arange(40)
    whole, pieces = (
        measure(reference, variant, tokens),
        measure(reference, variant, tokens, parts=parts),
    )
    assert pieces.mean_kld == pytest.approx(whole.mean_kld)
    assert pieces.perplexity == pytest.approx(whole.perplexity)
    assert pieces.median_kld == whole.median_kld


def test_large_logits_do_not_overflow(tokens):
    result = measure(random_logits(1, scale=3e4), random_logits(2, scale=3e4), tokens)
    assert math.isfinite(result.mean_kld)


def test_a_constant_added_to_all_logits_changes_nothing(tokens):
    logits = random_logits(1)
    assert measure(logits, logits + 7, tokens).mean_kld == pytest.approx(0, abs=1e-9)


def test_nothing_measured_is_no_result():
    with pytest.raises(ValueError, match="no position"):
        DivergenceMeter().result()


def test_probabilities_add_up():
    assert np.exp(log_softmax(random_logits(3))).sum(1) == pytest.approx(1.0)
