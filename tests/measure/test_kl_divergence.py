import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.core.errors import UntrustworthyError
from llmedge.measure.kl_divergence import DivergenceMeter
from llmedge.measure.predictions import LogitRows


def random_logits(seed: int, n: int = 40, n_vocab: int = 500, scale: float = 3.0):
    return (np.random.default_rng(seed).standard_normal((n, n_vocab)) * scale).astype(np.float32)


def measure(reference, variant, tokens, *, parts: int = 1):
    meter = DivergenceMeter()
    for index in np.array_split(np.arange(len(tokens)), parts):
        meter.add(reference[index], variant[index], tokens[index])
    return meter.result()


def error(values) -> float:
    return float(np.std(values) / math.sqrt(len(values) - 1))


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
    assert result.mean_kld_error == pytest.approx(error(kld))
    assert result.median_kld == pytest.approx(np.quantile(kld, 0.5))
    assert result.kld_p99 == pytest.approx(np.quantile(kld, 0.99), rel=1e-5)
    assert result.kld_p999 == pytest.approx(np.quantile(kld, 0.999), rel=1e-5)
    assert result.max_kld == pytest.approx(kld.max())
    top1 = p.argmax(1) == q.argmax(1)
    assert (result.top1_agreement, result.top1_agreement_error) == (top1.mean(), error(top1))
    top5 = [p[row].argmax() in q[row].argsort()[-5:] for row in rows]
    assert (result.top5_agreement, result.top5_agreement_error) == (np.mean(top5), error(top5))
    squares = (q - p)[rows, tokens] ** 2
    assert result.rms_delta_p == pytest.approx(math.sqrt(squares.mean()))
    assert result.rms_delta_p_error == pytest.approx(
        0.5 * error(squares) / math.sqrt(squares.mean())
    )


def test_perplexities_follow_their_definition(tokens):
    reference, variant = random_logits(1), random_logits(2)
    result = measure(reference, variant, tokens)
    rows = np.arange(40)
    nll, reference_nll = (
        np.log(np.exp(logits.astype(float)).sum(1)) - logits[rows, tokens]
        for logits in (variant, reference)
    )
    assert result.perplexity == pytest.approx(math.exp(nll.mean()))
    assert result.perplexity_error == pytest.approx(math.exp(nll.mean()) * error(nll))
    assert result.reference_perplexity == pytest.approx(math.exp(reference_nll.mean()))
    assert result.reference_perplexity_error == pytest.approx(
        math.exp(reference_nll.mean()) * error(reference_nll)
    )
    assert result.log_perplexity_ratio == pytest.approx(math.log(result.perplexity_ratio))
    # llama.cpp goes by way of the covariance.
    covariance = np.cov(nll, reference_nll, bias=True)[0, 1] / 39
    assert result.log_perplexity_ratio_error == pytest.approx(
        math.sqrt(error(nll) ** 2 + error(reference_nll) ** 2 - 2 * covariance)
    )


def test_figures_by_hand():
    # 12 positions of two tokens; at every second one the variant thinks otherwise.
    even = np.log(np.full((12, 2), 0.5, dtype=np.float32))
    variant = even.copy()
    variant[::2] = np.log(np.float32([0.25, 0.75]))
    result = measure(even, variant, np.zeros(12, dtype=np.int64))
    kld = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert result.mean_kld == pytest.approx(kld / 2)
    assert result.mean_kld_error == pytest.approx(kld / 2 / math.sqrt(11))
    assert result.median_kld == pytest.approx(kld / 2)
    assert result.max_kld == pytest.approx(kld)
    assert (result.top1_agreement, result.top5_agreement) == (0.5, 1.0)
    assert result.top1_agreement_error == pytest.approx(0.5 / math.sqrt(11))
    assert result.rms_delta_p == pytest.approx(0.25 / math.sqrt(2))
    assert result.reference_perplexity == pytest.approx(2)
    assert result.perplexity == pytest.approx(math.sqrt(8))
    assert result.log_perplexity_ratio == pytest.approx(math.log(2) / 2)
    assert result.log_perplexity_ratio_error == pytest.approx(math.log(2) / 2 / math.sqrt(11))


def test_the_fifth_most_likely_token_is_still_among_the_five():
    reference = np.zeros((2, 8), dtype=np.float32)
    reference[:, 7] = 1
    variant = np.float32([[9, 8, 7, 6, 0, 0, 0, 5], [9, 8, 7, 6, 5, 0, 0, 4]])
    assert measure(reference, variant, np.zeros(2, dtype=np.int64)).top5_agreement == 0.5


def test_ten_positions_say_nothing_about_their_spread():
    logits = [random_logits(seed, n=10) for seed in (1, 2)]
    assert measure(*logits, np.arange(10)).mean_kld_error == 0.0
    logits = [random_logits(seed, n=11) for seed in (1, 2)]
    assert measure(*logits, np.arange(11)).mean_kld_error > 0.0


def test_each_chunk_has_its_mean(tokens):
    reference, variant = random_logits(1), random_logits(2)
    meter = DivergenceMeter()
    for chunk, part in ((0, slice(0, 10)), (1, slice(10, 25)), (0, slice(25, 40))):
        meter.add_rows(
            LogitRows(reference[part]), LogitRows(variant[part]), tokens[part], chunk=chunk
        )
    kld = LogitRows(reference).kld(LogitRows(variant))
    first = np.concatenate([kld[:10], kld[25:]])
    assert meter.chunk_klds == pytest.approx((first.mean(), kld[10:25].mean()))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_refused(tokens, value: float):
    broken = random_logits(2)
    broken[3, 5] = value
    with pytest.raises(UntrustworthyError, match="not finite"), np.errstate(all="ignore"):
        measure(random_logits(1), broken, tokens)


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


def test_nothing_measured_is_no_result():
    with pytest.raises(ValueError, match="no position"):
        DivergenceMeter().result()


def test_rounding_never_makes_a_divergence_negative():
    class Rounding(LogitRows):
        def kld(self, variant):
            return super().kld(variant) - 1e-9

    logits = random_logits(1, n=8)
    meter = DivergenceMeter()
    meter.add_rows(Rounding(logits), LogitRows(logits), np.arange(8))
    result = meter.result()
    klds = (result.mean_kld, result.median_kld, result.kld_p99, result.kld_p999, result.max_kld)
    assert [f"{kld:.4f}" for kld in klds] == ["0.0000"] * 5
