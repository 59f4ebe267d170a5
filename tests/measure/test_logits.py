import numpy as np
import pytest

from llmedge.core.errors import EngineError
from llmedge.measure.kl_divergence import DivergenceMeter
from llmedge.measure.logits import decode_in_step, rows_at_once
from llmedge.runtime.context import Context, ContextOptions
from llmedge.runtime.model import Model


@pytest.fixture
def pair(loaded: Model):
    """Two contexts of one model, with batches of different sizes."""
    with (
        Context(loaded, ContextOptions(n_ctx=256, n_batch=40)) as small,
        Context(loaded, ContextOptions(n_ctx=256, n_batch=256)) as large,
    ):
        yield small, large


def test_the_second_half_of_a_chunk_is_asked_about(pair, loaded: Model):
    tokens = loaded.vocab.tokenize("The quick brown fox jumps over the lazy dog. " * 12)[:99]
    steps = list(decode_in_step(pair, tokens))
    following = np.concatenate([step.next_tokens for step in steps])
    assert following.tolist() == tokens[50:]
    assert len(steps) == 2  # 98 tokens in batches of 40: the first has none of the second half


def test_the_size_of_the_pieces_hardly_changes_the_predictions(pair, loaded: Model):
    small, large = pair
    tokens = loaded.vocab.tokenize("The quick brown fox jumps over the lazy dog. " * 12)[:99]
    pieces = np.concatenate([step.logits[0].copy() for step in decode_in_step([small], tokens)])
    (whole,) = [step.logits[0].copy() for step in decode_in_step([large], tokens)]
    assert pieces.shape == whole.shape == (49, 49152)
    # Other kernels run for other sizes, so the numbers differ; the predictions hardly do.
    meter = DivergenceMeter()
    meter.add(pieces, whole, np.array(tokens[50:]))
    assert meter.result().mean_kld < 0.01


def test_a_chunk_that_does_not_fit_is_an_error(pair):
    with pytest.raises(EngineError, match="too small"):
        list(decode_in_step(pair, [5] * 300))


def test_the_memory_for_logits_is_bounded():
    assert rows_at_once(49_152, 512) == 341
    assert rows_at_once(262_144, 512) == 64
    assert rows_at_once(1_000, 512) == 512
    assert rows_at_once(1 << 30, 512) == 1
