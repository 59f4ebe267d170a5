import numpy as np
import pytest

from llmedge.measure.predictions import CodedRows, LogitRows, encode


def random_logits(seed: int, n: int = 40, n_vocab: int = 3000, scale: float = 3.0):
    return (np.random.default_rng(seed).standard_normal((n, n_vocab)) * scale).astype(np.float32)


def log_softmax(logits):
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=1, keepdims=True)
    return exact - np.log(np.exp(exact).sum(axis=1, keepdims=True))


def coded(logits) -> CodedRows:
    codes, heads = encode(logits)
    return CodedRows(codes, heads[:, 0], heads[:, 1])


def test_single_precision_costs_next_to_nothing():
    reference = random_logits(1)
    variant = reference + random_logits(2, scale=0.1)
    log_p, log_q = log_softmax(reference), log_softmax(variant)
    exact = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    found = LogitRows(reference).kld(LogitRows(variant))
    assert np.abs(found - exact).max() < 1e-7
    assert exact.mean() == pytest.approx(0.005, rel=0.1)


def test_likelihoods_are_exact():
    reference, variant, tokens = random_logits(1), random_logits(2), np.arange(40)
    found = LogitRows(reference).nlls(LogitRows(variant), tokens)
    rows = np.arange(40), tokens
    assert found == pytest.approx(
        -np.stack([log_softmax(variant)[rows], log_softmax(reference)[rows]]), abs=1e-6
    )


def test_a_constant_added_to_all_logits_changes_nothing():
    logits = random_logits(1)
    assert LogitRows(logits).kld(LogitRows(logits + 7)) == pytest.approx(0, abs=1e-6)


def test_a_rank_counts_the_tokens_that_are_more_likely():
    rows = LogitRows(np.array([[3, 1, 2, 2, 0]] * 5, dtype=np.float32))
    assert rows.ranks(np.arange(5)).tolist() == [0, 3, 1, 1, 4]
    assert rows.most_likely.tolist() == [0] * 5


def test_codes_reach_16_nats_down():
    codes, heads = encode(np.array([[0, -1, -15, -16, -40]], dtype=np.float32))
    log_sum = np.log(1 + np.exp(-1))
    # In single precision, 65535 / 16 steps a nat.
    assert codes.tolist() == [[65535, 61439, 4096, 0, 0]]
    assert heads[0] == pytest.approx([16 / 65535, -16 - log_sum], rel=1e-6)


def test_codes_of_predictions_without_preference_are_zeros():
    codes, heads = encode(np.full((1, 8), 5, dtype=np.float32))
    assert not codes.any()
    assert heads[0] == pytest.approx([0, -np.log(8)])


def test_what_was_coded_is_right_to_half_a_step():
    logits = random_logits(1, scale=1.0)
    rows = coded(logits)
    tokens = logits.argsort(axis=1)[:, -5]
    exact = -log_softmax(logits)[np.arange(40), tokens]
    _, nll = rows.nlls(LogitRows(logits), tokens)
    assert nll == pytest.approx(exact, abs=0.5 * 16 / 65535 + 1e-6)
    assert rows.totals == pytest.approx(1, abs=1e-4)
    assert rows.most_likely.tolist() == logits.argmax(axis=1).tolist()


def test_the_divergence_from_codes_skips_what_is_16_nats_below_certainty():
    codes = np.array([[65535, 40000, *[0] * 4000]], dtype=np.uint16)
    scale, floor = 16 / 65535, -16.4
    variant = np.array([[1.0, 0.5, *[0.1] * 4000]], dtype=np.float32)
    kept = scale * codes[0, :2] + floor
    expected = (np.exp(kept) * (kept - log_softmax(variant)[0, :2])).sum()
    rows = CodedRows(codes, np.float32([scale]), np.float32([floor]))
    assert rows.kld(LogitRows(variant)) == pytest.approx([expected], rel=1e-5)


def test_codes_give_nearly_the_divergence_of_the_logits():
    reference = random_logits(1)
    variant = LogitRows(reference + random_logits(2, scale=0.3))
    assert coded(reference).kld(variant) == pytest.approx(
        LogitRows(reference).kld(variant), abs=2e-3
    )
