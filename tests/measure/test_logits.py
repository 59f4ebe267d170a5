from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmedge.core.errors import EngineError
from llmedge.measure import logits as module
from llmedge.measure.kl_divergence import DivergenceMeter
from llmedge.measure.logits import (
    Step,
    chunks_at_once,
    decode_in_step,
    logits_bytes,
    rows_at_once,
    step_context,
)
from llmedge.runtime.context import Context, ContextOptions
from llmedge.runtime.model import Model

TEXT = "The quick brown fox jumps over the lazy dog. " * 12


@pytest.fixture
def tokens(loaded: Model) -> list[int]:
    return loaded.vocab.tokenize(TEXT)[:99]


def decode(model: Model, options: ContextOptions, chunks: list[list[int]]) -> list[Step]:
    with step_context(model, options) as context:
        steps = decode_in_step([context], chunks)
        return [replace(step, logits=(step.logits[0].copy(),)) for step in steps]


def rows(steps: list[Step]) -> np.ndarray:
    return np.concatenate([step.logits[0] for step in steps])


def divergence(one: np.ndarray, other: np.ndarray) -> float:
    meter = DivergenceMeter()
    meter.add(one, other, np.zeros(len(one), dtype=np.int64))
    return meter.result().mean_kld


def test_the_second_half_of_a_chunk_is_asked_about(loaded: Model, tokens: list[int]):
    steps = decode(loaded, ContextOptions(n_ctx=99, n_batch=40), [tokens])
    following = np.concatenate([step.next_tokens for step in steps])
    assert following.tolist() == tokens[50:]
    # Batches of 40: the first has none of the second half, the last one its last token.
    assert [(step.first, len(step.next_tokens)) for step in steps] == [(49, 31), (80, 18)]


def test_the_size_of_the_pieces_hardly_changes_the_predictions(loaded: Model, tokens: list[int]):
    small = rows(decode(loaded, ContextOptions(n_ctx=99, n_batch=40), [tokens]))
    large = rows(decode(loaded, ContextOptions(n_ctx=99, n_batch=256), [tokens]))
    assert small.shape == large.shape == (49, 49152)
    # Other kernels run for other sizes, so the numbers differ; the predictions hardly do.
    assert divergence(small, large) < 0.01


def test_models_go_in_step(loaded: Model, tokens: list[int]):
    options = ContextOptions(n_ctx=99)
    with step_context(loaded, options) as one, step_context(loaded, options) as other:
        (step,) = decode_in_step([one, other], [tokens])
        assert step.logits[0] is not step.logits[1]
        assert np.array_equal(*step.logits)


def test_chunks_side_by_side_are_predicted_as_one_by_one(loaded: Model):
    text = loaded.vocab.tokenize(TEXT + "भारत एक विशाल देश है। " * 20)
    chunks = [text[:64], text[100:164], text[200:240]]
    together = decode(loaded, ContextOptions(n_ctx=64, n_batch=256), chunks)
    assert [step.chunk for step in together] == [0, 1, 2]
    alone = [decode(loaded, ContextOptions(n_ctx=64), [chunk]) for chunk in chunks]
    for step, (one,) in zip(together, alone, strict=True):
        assert step.next_tokens.tolist() == one.next_tokens.tolist()
        assert divergence(step.logits[0], one.logits[0]) < 0.01


def test_logits_come_in_pieces_that_fit_their_memory(
    loaded: Model, tokens: list[int], monkeypatch: pytest.MonkeyPatch
):
    whole = decode(loaded, ContextOptions(n_ctx=99), [tokens, tokens])
    monkeypatch.setattr(module, "_LOGITS_BYTES", 30 * 4 * 49152)
    pieces = decode(loaded, ContextOptions(n_ctx=99, n_batch=198), [tokens, tokens])
    assert max(len(step.next_tokens) for step in pieces) == 30
    # 50 rows of the first chunk, its unused last one among them, then the second's.
    places = [(step.chunk, step.first, len(step.next_tokens)) for step in pieces]
    assert places == [(0, 49, 30), (0, 79, 19), (1, 49, 10), (1, 59, 30), (1, 89, 9)]
    assert divergence(rows(whole), rows(pieces)) < 0.01


def test_as_many_chunks_go_together_as_fit_a_batch():
    assert chunks_at_once(ContextOptions(n_ctx=512, n_batch=512)) == 1
    assert chunks_at_once(ContextOptions(n_ctx=512, n_batch=2048)) == 4
    assert chunks_at_once(ContextOptions(n_ctx=2048, n_batch=512)) == 1
    assert chunks_at_once(ContextOptions(n_ctx=64, n_batch=1 << 20)) == 64


def test_recurrent_models_take_one_chunk_at_a_time(loaded: Model, monkeypatch: pytest.MonkeyPatch):
    options = ContextOptions(n_ctx=128, n_batch=512)
    with step_context(loaded, options) as context:
        assert (context.n_seq_max, context.n_ctx) == (4, 512)
    monkeypatch.setattr(Model, "can_rewind", property(lambda _: False))
    with step_context(loaded, options) as context:
        assert context.n_seq_max == 1


def test_a_chunk_that_does_not_fit_is_an_error(loaded: Model):
    with (
        Context(loaded, ContextOptions(n_ctx=256, n_batch=40)) as context,
        pytest.raises(EngineError, match="too small"),
    ):
        list(decode_in_step([context], [[5] * 300]))


def test_the_memory_for_logits_is_bounded():
    assert rows_at_once(262_144, 256) == 256
    assert rows_at_once(262_144, 512) == 256
    assert rows_at_once(1_000, 512) == 512
    assert rows_at_once(1 << 30, 512) == 1
    # Half of the tokens want logits, which are computed and then kept.
    assert logits_bytes(1_000, ContextOptions(n_ctx=512)) == 2 * 4 * 1_000 * 256
    assert logits_bytes(262_144, ContextOptions(n_ctx=512, n_batch=4096)) == 2 << 28


def test_a_context_holds_no_more_logits_than_it_said(tiny_model: Path):
    with Model.load(tiny_model) as model:
        with step_context(model, ContextOptions(n_ctx=100, n_batch=100)) as context:
            assert context.n_outputs_max == 50
        with Context(model, ContextOptions(n_ctx=256, n_batch=64)) as context:
            assert context.n_outputs_max == 64
