import threading
import time
from pathlib import Path

import numpy as np
import pytest

from llmedge.core.errors import EngineError, IntegrityError, ResourceError, UsageError
from llmedge.runtime.batch import Batch
from llmedge.runtime.context import Context, ContextOptions, DecodeResult
from llmedge.runtime.handle import ClosedHandleError
from llmedge.runtime.model import Model


@pytest.fixture
def batch():
    with Batch(512) as batch:
        yield batch


def decode(context: Context, batch: Batch, tokens: list[int], position: int = 0, n_logits: int = 1):
    batch.fill(tokens, position, n_logits=n_logits)
    return context.decode(batch)


def test_logits_have_a_row_for_each_token_that_asked(context: Context, batch: Batch):
    tokens = context.model.vocab.tokenize("The capital of India is New")
    assert decode(context, batch, tokens, n_logits=len(tokens)) is DecodeResult.OK
    every = context.logits().copy()
    assert every.shape == (len(tokens), 49152)
    assert every.dtype == np.float32
    assert context.model.vocab.piece(int(every[-1].argmax())) == b" Delhi"
    context.clear()
    decode(context, batch, tokens)
    last = context.logits()
    assert last.shape == (1, 49152)
    assert np.abs(last[0] - every[-1]).max() < 1e-2


def test_logits_are_a_view_and_no_copy(context: Context, batch: Batch):
    decode(context, batch, [1, 2, 3])
    assert context.logits().base is not None
    assert not context.logits().flags.owndata


def test_a_batch_without_logits_has_none(context: Context, batch: Batch):
    decode(context, batch, [1, 2, 3], n_logits=0)
    with pytest.raises(EngineError, match="no logits"):
        context.logits()


def test_positions_count_on_and_can_be_cut(context: Context, batch: Batch):
    assert context.next_position() == 0
    decode(context, batch, [1, 2, 3, 4])
    assert context.next_position() == 4
    assert context.remove(0, 2)
    assert context.next_position() == 2
    context.clear()
    assert context.next_position() == 0


def test_a_cut_context_goes_on_as_if_the_rest_had_never_been(context: Context, batch: Batch):
    decode(context, batch, [10, 11, 12])
    expected = context.logits().copy()
    decode(context, batch, [13, 14], 3)
    context.remove(0, 2)
    decode(context, batch, [12], 2)
    assert np.abs(context.logits() - expected).max() < 2e-2


def test_a_full_cache_is_a_result_and_changes_nothing(loaded: Model, batch: Batch):
    with Context(loaded, ContextOptions(n_ctx=256)) as context:
        decode(context, batch, [5] * 200)
        assert decode(context, batch, [5] * 100, 200) is DecodeResult.NO_KV_SLOT
        assert context.next_position() == 200
        with pytest.raises(EngineError, match="no logits"):
            context.logits()


def test_a_token_that_the_model_does_not_have_is_refused(context: Context, batch: Batch):
    with pytest.raises(IntegrityError, match="refuses the batch"):
        decode(context, batch, [1_000_000])


def test_state_is_saved_and_restored(context: Context, batch: Batch, loaded: Model):
    decode(context, batch, [10, 11, 12])
    state = context.save_state()
    decode(context, batch, [13], 3)
    expected = context.logits().copy()
    with Context(loaded, ContextOptions(n_ctx=1024)) as other:
        other.restore_state(state)
        assert other.next_position() == 3
        decode(other, batch, [13], 3)
        assert np.abs(other.logits() - expected).max() < 2e-2


def test_bytes_that_are_no_state_are_refused(context: Context):
    for state in (b"", b"nonsense" * 100):
        with pytest.raises(IntegrityError, match="not a saved state"):
            context.restore_state(state)


def test_an_abort_ends_a_long_prompt_at_once(loaded: Model):
    with (
        Context(loaded, ContextOptions(n_ctx=4096, n_batch=2048, n_ubatch=512)) as context,
        Batch(2048) as batch,
    ):
        threading.Timer(0.3, context.abort).start()
        start = time.monotonic()
        assert decode(context, batch, [7] * 2048) is DecodeResult.ABORTED
        assert time.monotonic() - start < 2
        assert decode(context, batch, [7], context.next_position()) is DecodeResult.ABORTED
        context.clear_abort()
        assert decode(context, batch, [7], context.next_position()) is DecodeResult.OK


def test_the_context_takes_what_the_options_say(loaded: Model):
    options = ContextOptions(n_ctx=300, n_batch=64, n_ubatch=128, n_threads=1, flash_attention="on")
    with Context(loaded, options) as context:
        assert (context.n_ctx, context.n_batch, context.n_threads) == (512, 64, 1)


def test_no_context_size_means_what_the_model_was_trained_for(tiny_model: Path):
    with Model.load(tiny_model) as model, Context(model, ContextOptions(n_ctx=0)) as context:
        assert context.n_ctx == 512


@pytest.mark.parametrize(
    "options",
    [
        ContextOptions(n_ctx=-1),
        ContextOptions(n_batch=0),
        ContextOptions(n_seq_max=0),
        ContextOptions(type_k="q3_k"),
        ContextOptions(flash_attention="maybe"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(loaded: Model, options: ContextOptions):
    with pytest.raises(UsageError):
        Context(loaded, options)


def test_a_context_larger_than_memory_is_a_resource_error(loaded: Model):
    with pytest.raises(ResourceError, match=r"takes 23040\.00 GiB .* are available") as caught:
        Context(loaded, ContextOptions(n_ctx=1 << 30))
    assert "--ctx" in caught.value.hint


def test_a_closed_context_is_an_error_and_not_a_crash(loaded: Model, batch: Batch):
    context = Context(loaded, ContextOptions(n_ctx=256))
    decode(context, batch, [1])
    context.close()
    context.close()
    for use in (
        lambda: decode(context, batch, [1]),
        lambda: context.logits(),
        lambda: context.clear(),
        lambda: context.remove(0, 0),
        lambda: context.save_state(),
        lambda: context.n_ctx,
    ):
        with pytest.raises(ClosedHandleError):
            use()


def test_a_batch_holds_what_it_was_made_for():
    with Batch(2) as batch:
        assert batch.add(5, 0, wants_logits=False) == 0
        assert batch.add(6, 1, wants_logits=True) == 1
        assert (batch.n_tokens, batch.n_outputs) == (2, 1)
        with pytest.raises(ValueError, match="holds 2"):
            batch.add(7, 2, wants_logits=True)
        batch.clear()
        assert (batch.n_tokens, batch.n_outputs) == (0, 0)
    with pytest.raises(ClosedHandleError):
        batch.clear()


def test_the_logits_of_a_token_are_found_by_its_index(context: Context, batch: Batch):
    decode(context, batch, [1, 2, 3, 4], n_logits=2)
    assert (context.logits_at(2) == context.logits()[0]).all()
    assert (context.logits_at(3) == context.logits()[1]).all()
    with pytest.raises(EngineError, match="token 1"):
        context.logits_at(1)


def test_a_copied_prefix_is_as_if_it_had_been_computed_there(loaded: Model, batch: Batch):
    with Context(loaded, ContextOptions(n_ctx=256, n_seq_max=2)) as context:
        decode(context, batch, [1, 2, 3, 4, 5])
        context.copy(0, 1, 0, 3)
        assert (context.first_position(1), context.next_position(1)) == (0, 3)
        batch.fill([4, 5], 3, seq_id=1)
        context.decode(batch)
        copied = context.logits()[0].copy()
        context.clear()
        assert context.first_position(1) == -1
        decode(context, batch, [1, 2, 3])
        decode(context, batch, [4, 5], position=3)
        assert np.abs(context.logits()[0] - copied).max() < 1e-4
