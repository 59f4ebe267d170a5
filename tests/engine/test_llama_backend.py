from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llmedge.core.errors import UnsupportedError
from llmedge.engine.backend import BatchItem, DecodeStatus
from llmedge.engine.generation import ReasoningLimit
from llmedge.engine.llama_backend import LlamaBackend, LlamaSampler
from llmedge.engine.reasoning import ReasoningWatch
from llmedge.runtime.context import Context, ContextOptions
from llmedge.runtime.model import Model
from llmedge.runtime.sampler import SamplingOptions

GREEDY = SamplingOptions(temperature=0)
PROMPT = [70, 71, 72, 73, 74, 75]


@pytest.fixture
def context(tiny_model: Path) -> Iterator[Context]:
    options = ContextOptions(n_ctx=256, n_batch=64, n_seq_max=3)
    with Model.load(tiny_model) as model, Context(model, options) as context:
        yield context


@pytest.fixture
def backend(context: Context) -> Iterator[LlamaBackend]:
    with LlamaBackend(context) as backend:
        yield backend


def test_it_says_what_the_context_can_hold(backend: LlamaBackend):
    assert (backend.n_cells, backend.n_batch, backend.n_seq_max) == (256, 64, 3)
    assert (backend.cuts, backend.window) == ("anywhere", 0)


def test_a_shared_prefix_gives_the_same_token(context: Context, backend: LlamaBackend):
    with LlamaSampler(context, GREEDY) as sampler:
        assert backend.decode([BatchItem(0, PROMPT, 0, 1)]) is DecodeStatus.OK
        first = sampler.sample(len(PROMPT) - 1)
        backend.share(0, 1, 4)
        items = [BatchItem(2, PROMPT, 0, 1), BatchItem(1, PROMPT[4:], 4, 1)]
        assert backend.decode(items) is DecodeStatus.OK
        assert sampler.sample(len(PROMPT) - 1) == first
        assert sampler.sample(len(PROMPT) + 1) == first


def test_a_full_cache_and_an_unwanted_call_are_results(context: Context, backend: LlamaBackend):
    for first in range(0, 256, 64):
        assert backend.decode([BatchItem(0, [70] * 64, first, 0)]) is DecodeStatus.OK
    assert backend.decode([BatchItem(1, [70], 0, 1)]) is DecodeStatus.NO_KV_SLOT
    assert backend.remove(0, 0)
    backend.is_unwanted = lambda: True
    assert backend.decode([BatchItem(1, [70], 0, 1)]) is DecodeStatus.ABORTED
    backend.is_unwanted = lambda: False
    context.abort()  # too late for the call before: it is not this one's
    assert backend.decode([BatchItem(1, [70], 0, 1)]) is DecodeStatus.OK
    assert backend.first_position(1) == 0


def test_a_saved_sequence_goes_on_elsewhere(context: Context, backend: LlamaBackend):
    with LlamaSampler(context, GREEDY) as sampler:
        backend.decode([BatchItem(0, PROMPT[:-1], 0, 0)])
        backend.restore_state(1, backend.save_state(0))
        backend.decode([BatchItem(0, PROMPT[-1:], 5, 1), BatchItem(1, PROMPT[-1:], 5, 1)])
        assert sampler.sample(0) == sampler.sample(1)


def test_chances_are_noted_in_order_and_taken_once(context: Context, backend: LlamaBackend):
    with LlamaSampler(context, GREEDY, n_logprobs=2) as sampler:
        backend.decode([BatchItem(0, PROMPT, 0, 2)])
        tokens = [sampler.sample(4), sampler.sample(5)]
        taken = [sampler.take_chance(), sampler.take_chance()]
        assert [chance.chosen.token for (chance,) in taken] == tokens
        assert all(len(chance.top) == 2 for (chance,) in taken)
        assert sampler.take_chance() == []


def test_the_penalties_know_of_a_token_that_had_to_come(context: Context, backend: LlamaBackend):
    backend.decode([BatchItem(0, PROMPT, 0, 1)])
    last = len(PROMPT) - 1
    penalised = replace(GREEDY, presence_penalty=2.0, frequency_penalty=2.0)
    with LlamaSampler(context, GREEDY) as plain:
        likeliest = plain.sample(last)
    watch = ReasoningWatch(ReasoningLimit(0, "<", ">", ">", is_open=True), [likeliest] * 9)
    with LlamaSampler(context, penalised, reasoning=watch) as sampler:
        assert [sampler.sample(last) for _ in range(9)] == [likeliest] * 9
        assert watch.forced is None
        assert sampler.sample(last) != likeliest


def test_an_adapter_that_is_not_loaded_is_refused(backend: LlamaBackend):
    backend.use_adapters(())
    with pytest.raises(UnsupportedError, match="poet"):
        backend.use_adapters((("poet", 1.0),))
