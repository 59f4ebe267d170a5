from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from llmedge.core.errors import ContextLengthError, EngineError, ResourceError, UsageError
from llmedge.engine.backend import BatchItem, DecodeStatus
from llmedge.engine.draft import PromptLookup
from llmedge.engine.pace import Pace
from llmedge.engine.scheduler import Scheduler, SchedulerOptions
from tests.engine.fake_backend import END, FakeBackend, lone_text, new_sequence

if TYPE_CHECKING:
    from llmedge.engine.sequence import Outcome, Sequence

PROMPT = [1 + at * 7 % 39 for at in range(60)]


def make(backend: FakeBackend, n_slots: int = 4, **options: int) -> Scheduler:
    return Scheduler(backend, SchedulerOptions(n_slots, **options), clock=lambda: 0.0)


def finish(scheduler: Scheduler) -> list[Outcome]:
    """Step to the end."""
    outcomes: list[Outcome] = []
    while not scheduler.is_idle:
        outcomes += scheduler.step()
        scheduler.check_integrity()
    return outcomes


def n_decoded(backend: FakeBackend) -> int:
    return sum(len(item.tokens) for call in backend.calls for item in call)


def text(sequence: Sequence) -> list[int]:
    return sequence.tokens[sequence.n_prompt :]


def is_lone(backend: FakeBackend, sequence: Sequence, n: int = 8, seed: int = 0) -> bool:
    prompt = sequence.tokens[: sequence.n_prompt]
    return text(sequence) == lone_text(prompt, seed, n, backend.n_cells)


def test_a_prompt_of_400_tokens_of_which_399_are_known_computes_one():
    backend = FakeBackend(n_cells=2000, n_batch=512)
    scheduler = make(backend)
    prompt = [1 + at % 39 for at in range(400)]
    scheduler.add(new_sequence(backend, 0, prompt, 1))
    finish(scheduler)
    other = new_sequence(backend, 1, [*prompt[:399], 39], 1)
    scheduler.add(other)
    before = n_decoded(backend)
    finish(scheduler)
    assert other.n_cached == 399
    assert n_decoded(backend) - before == 1
    assert is_lone(backend, other, 1)


def test_the_same_prompt_again_computes_its_last_token_only():
    backend = FakeBackend(n_cells=200)
    scheduler = make(backend)
    for number in range(2):
        scheduler.add(new_sequence(backend, number, PROMPT, 1))
        finish(scheduler)
    assert scheduler.stats.n_cached_tokens == len(PROMPT) - 1
    assert scheduler.stats.n_prompt_tokens == 2 * len(PROMPT)


def test_sixteen_that_arrive_at_once_compute_a_common_prefix_once():
    backend = FakeBackend(n_cells=1000, n_batch=64, n_seq_max=16)
    scheduler = make(backend, 16)
    sequences = [new_sequence(backend, n, [*PROMPT, n + 1, n + 2], 4, seed=n) for n in range(16)]
    for sequence in sequences:
        scheduler.add(sequence)
    finish(scheduler)
    n_generated = sum(len(text(sequence)) - 1 for sequence in sequences)
    assert n_decoded(backend) - n_generated <= 60 + 16 * 2
    assert all(is_lone(backend, one, 4, seed) for seed, one in enumerate(sequences))


@pytest.mark.parametrize("cuts", ["window", "never"])
def test_a_common_prefix_is_computed_once_also_by_models_that_cannot_go_back(cuts: str):
    backend = FakeBackend(1000, 64, 16, cuts, window=8, n_window_cells=300)
    scheduler = make(backend, 16)
    sequences = [new_sequence(backend, n, [*PROMPT, n + 1, n + 2], 4, seed=n) for n in range(16)]
    for sequence in sequences:
        scheduler.add(sequence)
    finish(scheduler)
    assert sum(sequence.n_cached for sequence in sequences) == 15 * 60
    assert all(is_lone(backend, one, 4, seed) for seed, one in enumerate(sequences))


def test_prefixes_are_not_shared_across_keys():
    backend = FakeBackend(n_cells=400)
    scheduler = make(backend)
    for number, key in enumerate(["a", "b", "a"]):
        scheduler.add(new_sequence(backend, number, PROMPT, 1, cache_key=key))
    scheduler.step()
    assert len(scheduler.kv._running) == 2  # the third waits for the first
    finish(scheduler)
    assert scheduler.stats.n_cached_tokens == len(PROMPT) - 1


@pytest.mark.parametrize("event", ["cancel", "abort"])
def test_those_who_wait_for_a_prefix_go_on_when_its_owner_does_not(event: str):
    backend = FakeBackend(n_cells=400, n_batch=8)
    scheduler = make(backend)
    sequences = [new_sequence(backend, n, [*PROMPT, n + 1], 3) for n in range(3)]
    for sequence in sequences:
        scheduler.add(sequence)
    scheduler.step()
    assert [sequence.seq_id for sequence in sequences[1:]] == [-1, -1]
    if event == "cancel":
        scheduler.cancel(0)
    else:
        backend.abort_rate = 1.0
        scheduler.step()
        backend.abort_rate = 0.0
    finish(scheduler)
    assert all(is_lone(backend, sequence, 3) for sequence in sequences[1:])
    assert sequences[1].n_cached == (8 if event == "cancel" else 60)
    assert sequences[2].n_cached == 60


def test_equal_prompts_get_their_first_tokens_in_order_of_arrival():
    backend = FakeBackend(n_cells=1000, n_batch=16, n_seq_max=4)
    scheduler = make(backend, 2)
    for number in range(8):
        prompt = [number + 1, *PROMPT[:20]]
        scheduler.add(new_sequence(backend, number, prompt, 3))
    first = list(dict.fromkeys(outcome.sequence.id for outcome in finish(scheduler)))
    assert first == list(range(8))


def test_streams_go_on_in_every_step_while_a_long_prompt_is_computed():
    backend = FakeBackend(n_cells=1000, n_batch=512)
    times = iter(range(100_000))
    pace = Pace(512)
    scheduler = Scheduler(backend, SchedulerOptions(4), pace, clock=lambda: float(next(times)))
    streams = [new_sequence(backend, n, [n + 1, 2, 3], 40, seed=n) for n in range(3)]
    for sequence in streams:
        sequence.end_tokens = frozenset()
        scheduler.add(sequence)
    for _ in range(3):
        scheduler.step()
    late = new_sequence(backend, 9, [1 + at % 39 for at in range(600)], 2)
    scheduler.add(late)
    while late.n_generated == 0 and streams[0].n_generated < 40:
        outcomes = scheduler.step()
        assert {outcome.sequence.id for outcome in outcomes} >= {0, 1, 2}
    assert all(8 <= _n_prompt(call) <= 500 for call in backend.calls[5:20])


def test_streams_go_on_in_every_other_step_while_several_prompts_are_computed():
    backend = FakeBackend(n_cells=4000, n_batch=512)
    times = iter(0.1 * at for at in range(100_000))
    scheduler = Scheduler(backend, SchedulerOptions(4), clock=lambda: next(times))
    stream = new_sequence(backend, 0, [1 + at % 39 for at in range(100)], 90)
    stream.end_tokens = frozenset()
    scheduler.add(stream)
    scheduler.step()
    for number in range(1, 4):
        scheduler.add(new_sequence(backend, number, [number + 1, *PROMPT * 10], 2))
    n_before = len(backend.calls)
    finish(scheduler)
    has_stream = [any(item.seq_id == 0 for item in call) for call in backend.calls[n_before:]]
    assert not all(has_stream)
    assert all(one or other for one, other in pairwise(has_stream))


def _n_prompt(call: list[BatchItem]) -> int:
    return sum(len(item.tokens) for item in call if len(item.tokens) > 1)


def test_a_full_cache_first_costs_what_is_kept_then_the_youngest_its_place():
    backend = FakeBackend(n_cells=64, n_batch=32)
    scheduler = make(backend)
    scheduler.add(new_sequence(backend, 9, PROMPT[:20], 1))
    finish(scheduler)
    assert scheduler.stats.n_cells_cached == 20
    prompts = [[5, *PROMPT[:9]], [6, *PROMPT[:9]], [7, *PROMPT[:9]]]
    sequences = [new_sequence(backend, n, prompt, 30) for n, prompt in enumerate(prompts)]
    for sequence in sequences:
        sequence.end_tokens = frozenset()
        scheduler.add(sequence)
    order = [outcome.sequence.id for outcome in finish(scheduler) if outcome.is_end]
    assert order == [0, 1, 2]
    assert [sequence.n_pauses > 0 for sequence in sequences] == [False, True, True]
    for sequence in sequences:
        whole = lone_text(sequence.tokens[:10], 0, 30, 64)
        assert text(sequence)[: len(whole)] == whole
        assert sequence.n_generated == 30


def test_one_that_fills_the_cache_alone_ends_with_its_last_token_told():
    backend = FakeBackend(n_cells=24)
    scheduler = make(backend)
    sequence = new_sequence(backend, 0, PROMPT[:10], None)
    sequence.end_tokens = frozenset()
    scheduler.add(sequence)
    last = finish(scheduler)[-1]
    assert (last.finish_reason, len(sequence.tokens)) == ("length", 25)
    assert last.token == sequence.tokens[-1]


def test_a_backend_without_room_for_one_token_ends_that_sequence_only():
    class Full(FakeBackend):
        def decode(self, items: object) -> DecodeStatus:
            return DecodeStatus.NO_KV_SLOT

    scheduler = make(Full())
    scheduler.add(new_sequence(FakeBackend(), 0, PROMPT[:10]))
    (outcome,) = scheduler.step()
    assert isinstance(outcome.error, ResourceError)
    assert scheduler.is_idle


def test_who_cannot_be_asked_is_refused():
    backend = FakeBackend(n_cells=24)
    scheduler = make(backend)
    with pytest.raises(ContextLengthError, match="24 tokens, the context holds 24"):
        scheduler.add(new_sequence(backend, 0, PROMPT[:24]))
    with pytest.raises(UsageError, match="empty"):
        scheduler.add(new_sequence(backend, 0, []))
    with pytest.raises(UsageError, match="0 tokens"):
        scheduler.add(new_sequence(backend, 0, [1], 0))
    with pytest.raises(UsageError, match="9 slots over 8 sequences"):
        make(backend, 9)
    scheduler.add(new_sequence(backend, 0, [1]))
    with pytest.raises(ValueError, match="there already"):
        scheduler.add(new_sequence(backend, 0, [1]))


def test_a_sampler_that_fails_ends_its_sequence_only():
    backend = FakeBackend()
    scheduler = make(backend)
    failing = new_sequence(backend, 0, PROMPT[:5], fails_at=2)
    other = new_sequence(backend, 1, [9, 8, 7])
    scheduler.add(failing)
    scheduler.add(other)
    outcomes = finish(scheduler)
    (error,) = [outcome.error for outcome in outcomes if outcome.error]
    assert "constraint" in error.message
    assert failing.n_generated == 2
    assert is_lone(backend, other)


def test_a_backend_that_fails_ends_all():
    backend = FakeBackend(is_broken=True)
    scheduler = make(backend)
    scheduler.add(new_sequence(backend, 0, [1, 2]))
    with pytest.raises(EngineError):
        scheduler.step()


def test_an_engine_error_of_a_sampler_ends_all():
    backend = FakeBackend()
    scheduler = make(backend)
    sequence = new_sequence(backend, 0, [1, 2])

    class Lost:
        def sample(self, index: int) -> int:
            raise EngineError(f"no logits at {index}")

    sequence.sampler = Lost()
    scheduler.add(sequence)
    with pytest.raises(EngineError):
        scheduler.step()


def test_an_abort_is_wanted_only_when_nobody_else_is_computed():
    seen: list[tuple[bool, bool]] = []

    class Watched(FakeBackend):
        def decode(self, items: list[BatchItem]) -> DecodeStatus:
            seen.append((scheduler.wants_abort({0}), scheduler.wants_abort({0, 1, 2})))
            return super().decode(items)

    backend = Watched()
    scheduler = make(backend)
    assert not scheduler.wants_abort({0})
    scheduler.add(new_sequence(backend, 0, [1, 2, 3], 1))
    finish(scheduler)
    scheduler.add(new_sequence(backend, 0, [4, 2, 3], 1))
    scheduler.add(new_sequence(backend, 1, [5, 2, 3], 1))
    finish(scheduler)
    assert seen == [(True, True), (False, True)]


def test_a_cancelled_sequence_frees_its_slot_wherever_it_is():
    backend = FakeBackend(n_cells=200)
    scheduler = make(backend, 1)
    for number in range(3):
        scheduler.add(new_sequence(backend, number, [number + 1, *PROMPT[:30]]))
    scheduler.step()
    assert (scheduler.stats.n_running, scheduler.stats.n_waiting) == (1, 2)
    scheduler.cancel(0)
    scheduler.cancel(1)
    scheduler.cancel(77)
    assert {outcome.sequence.id for outcome in finish(scheduler)} == {2}


def test_a_stop_text_ends_a_sequence_from_outside_and_its_cells_are_kept():
    backend = FakeBackend(n_cells=200)
    scheduler = make(backend)
    scheduler.add(new_sequence(backend, 0, PROMPT, 8))
    while not scheduler.step():
        pass
    scheduler.finish(0)
    assert scheduler.is_idle
    assert scheduler.stats.n_cells_cached == len(PROMPT)


def test_another_turn_of_a_chat_reuses_prompt_and_answer():
    for cuts in ("anywhere", "window", "never"):
        backend = FakeBackend(400, 32, 4, cuts, window=8, n_window_cells=64)
        scheduler = make(backend)
        first = new_sequence(backend, 0, PROMPT, 6)
        scheduler.add(first)
        finish(scheduler)
        second = new_sequence(backend, 1, [*first.tokens, 3, 4], 6)
        scheduler.add(second)
        finish(scheduler)
        assert second.n_cached == len(first.tokens) - 1
        assert is_lone(backend, second, 6)


def test_a_model_that_cannot_go_back_takes_a_regenerated_answer_from_a_saved_state():
    backend = FakeBackend(400, 32, 4, "never")
    scheduler = make(backend)
    for number in range(2):
        scheduler.add(new_sequence(backend, number, PROMPT, 6))
        finish(scheduler)
    assert backend.n_restored == 1
    assert scheduler.stats.n_cached_tokens == len(PROMPT) - 1


def test_without_room_for_states_everything_is_computed_again():
    backend = FakeBackend(400, 32, 4, "never")
    scheduler = make(backend, max_state_bytes=0)
    for number in range(2):
        scheduler.add(new_sequence(backend, number, PROMPT, 6))
        finish(scheduler)
    assert scheduler.stats.n_cached_tokens == 0


def test_fewer_slots_let_those_that_run_go_on():
    backend = FakeBackend(n_cells=400)
    scheduler = make(backend)
    for number in range(4):
        scheduler.add(new_sequence(backend, number, [number + 1, 2, 3]))
    scheduler.step()
    scheduler.limit_slots(0)
    scheduler.add(new_sequence(backend, 9, [9, 9]))
    scheduler.step()
    assert scheduler.stats.n_waiting == 1
    assert {outcome.sequence.id for outcome in finish(scheduler)} >= {9}


def test_right_guesses_come_in_one_step_and_wrong_ones_leave_nothing():
    backend = FakeBackend(n_cells=400)
    prompt = PROMPT[:20]
    lone = lone_text(prompt, 0, 12, 400)

    class Oracle(PromptLookup):
        def draft(self, tokens: list[int], n_max: int) -> list[int]:
            at = len(tokens) - len(prompt)
            return [*lone[at : at + 2], 39][:n_max]

    for drafts, n_calls in ((None, len(lone) + 1), (Oracle(), len(lone) // 3 + 2)):
        scheduler = make(backend)
        backend.calls.clear()
        backend.cells.clear()
        sequence = new_sequence(backend, 0, prompt, 12)
        sequence.drafts = drafts
        scheduler.add(sequence)
        finish(scheduler)
        assert text(sequence) == lone
        assert len(backend.calls) <= n_calls
        assert scheduler.stats.n_cells_used == backend.n_used
    assert 0 < sequence.n_accepted < sequence.n_drafted


def test_times_and_counters_say_what_happened():
    backend = FakeBackend(n_cells=200)
    ticks = iter(range(10_000))
    scheduler = Scheduler(backend, SchedulerOptions(1), clock=lambda: float(next(ticks)))
    first = new_sequence(backend, 0, PROMPT[:10], 3)
    second = new_sequence(backend, 1, PROMPT[:5], 3)
    scheduler.add(first)
    scheduler.add(second)
    finish(scheduler)
    assert second.started_s is not None
    assert second.first_s is not None
    assert first.last_s < second.started_s < second.first_s <= second.last_s
    stats = scheduler.stats
    assert stats.n_generated_tokens == len(text(first)) + len(text(second))
    assert stats.n_steps == len(backend.calls)
    assert stats.n_computed_tokens == sum(
        len(item.tokens) for call in backend.calls for item in call
    )
    assert stats.step_s == stats.n_steps
    assert stats.sampling_s > 0
    assert END not in text(first)[:-1]


def test_sequences_with_other_adapters_take_turns_and_share_nothing():
    backend = FakeBackend(n_cells=400)
    scheduler = make(backend)
    kinds = [(), (("a", 1.0),), (("a", 0.5),), (("a", 1.0),)]
    sequences = [new_sequence(backend, n, PROMPT[:40], 4) for n in range(4)]
    for sequence, adapters in zip(sequences, kinds, strict=True):
        sequence.adapters = adapters
        scheduler.add(sequence)
    finish(scheduler)
    assert [sequence.n_cached for sequence in sequences] == [0, 0, 0, 39]
    for sequence, adapters in zip(sequences, kinds, strict=True):
        assert text(sequence) == lone_text(PROMPT[:40], 0, 4, 400, adapters)


def test_one_that_only_waited_for_a_prefix_makes_room_when_it_is_cancelled():
    backend = FakeBackend(n_cells=110, n_batch=8)
    scheduler = make(backend)
    leader = new_sequence(backend, 0, PROMPT, 1)
    follower = new_sequence(backend, 1, [*PROMPT[:40], *[3] * 30], 1)
    for sequence in (leader, follower, new_sequence(backend, 2, [38, *PROMPT[:20]], 1)):
        scheduler.add(sequence)
    scheduler.step()
    assert (follower.leader, scheduler.stats.n_waiting) == (leader, 1)
    scheduler.cancel(1)
    scheduler.step()
    assert scheduler.stats.n_waiting == 0


def test_nobody_waits_for_a_prefix_whose_state_is_too_large_to_keep():
    backend = FakeBackend(400, 64, 4, "never")
    scheduler = make(backend, max_state_bytes=100)
    for number in range(3):
        scheduler.add(new_sequence(backend, number, [*PROMPT, number + 1], 2))
    finish(scheduler)
    calls = len(backend.calls)
    for number in range(2):
        scheduler.add(new_sequence(backend, number, [*PROMPT, number + 5], 2))
    scheduler.step()
    assert scheduler.stats.n_running == 2
    assert len(backend.calls[calls]) == 2


def test_saved_states_are_bounded_and_the_oldest_goes_first():
    backend = FakeBackend(400, 64, 4, "never")
    size = 2200
    scheduler = make(backend, 1, max_state_bytes=size)
    prompts = [[number + 1, *PROMPT] for number in range(4)]
    for number, prompt in enumerate([*prompts, prompts[3], prompts[0]]):
        scheduler.add(new_sequence(backend, number, prompt, 2))
        finish(scheduler)
    assert backend.n_restored == 1


def test_prompts_that_begin_alike_are_finished_in_the_same_step():
    backend = FakeBackend(n_cells=400, n_batch=128)
    scheduler = Scheduler(backend, SchedulerOptions(4), clock=lambda: 0.0)
    for number in range(3):
        scheduler.add(new_sequence(backend, number, [*PROMPT, number, number], 3))
    assert scheduler.step() == []  # what all begin with
    assert [outcome.sequence.id for outcome in scheduler.step()] == [0, 1, 2]


def test_those_who_wait_for_a_prefix_step_back_with_its_owner():
    backend = FakeBackend(n_cells=100, n_batch=8)
    scheduler = Scheduler(backend, SchedulerOptions(4), Pace(8, n_min=1), clock=lambda: 0.0)
    stream = new_sequence(backend, 0, [38, 37, 36], 70)
    stream.end_tokens = frozenset()
    scheduler.add(stream)
    scheduler.step()
    for number in (1, 2):
        scheduler.add(new_sequence(backend, number, [*PROMPT, number], 3))
    while scheduler.stats.n_pauses == 0:
        scheduler.step()
        scheduler.check_integrity()
    stats = scheduler.stats
    assert (stats.n_running, stats.n_paused, stats.n_waiting) == (1, 1, 1)
    order = [outcome.sequence.id for outcome in finish(scheduler) if outcome.is_end]
    assert order == [0, 1, 2]
    assert stream.n_generated == 70
