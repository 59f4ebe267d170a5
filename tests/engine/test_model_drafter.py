"""The draft model's books: its guesses are what its model finds likeliest, whatever happens."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.engine.drafter import Wish
from llmedge.engine.model_drafter import ModelDrafter
from llmedge.engine.pace import Pace
from llmedge.engine.scheduler import Scheduler, SchedulerOptions
from tests.engine.fake_backend import N_VOCAB, FakeBackend, lone_text, new_sequence


def new_drafter(backend: FakeBackend, n_max: int = 4) -> ModelDrafter:
    def likeliest(index: int) -> int:
        value = backend.outputs[index]
        assert value is not None, "no logits at this index"
        return value % N_VOCAB

    return ModelDrafter(backend, likeliest, n_max)


def likely_text(tokens: list[int], n: int) -> list[int]:
    """What the fake would go on with, without any cache: the zero that ends texts is a token."""
    text: list[int] = []
    while len(text) < n:
        text += lone_text([*tokens, *text], 0, 1, 10_000)
    return text


def test_guesses_are_the_likeliest_tokens_and_follow_the_text():
    backend = FakeBackend()
    drafter = new_drafter(backend)
    sequence = new_sequence(backend, 0, [5, 6, 7])
    for n_guessed, n_right in (
        (4, 4),
        (4, 0),
        (3, 2),
        (2, 2),
        (4, 3),
        (3, 0),
        (2, 0),
        (1, 0),
        (1, 1),
    ):
        (guess,) = drafter.draft([Wish(sequence, 4)])
        # As many as were right lately, and a few more.
        assert guess == likely_text(sequence.tokens, n_guessed)
        following = likely_text(sequence.tokens, n_guessed + 1)[n_right]
        sequence.tokens += [*guess[:n_right], (following + 1) % N_VOCAB]
    drafter.check_integrity()


def test_asking_twice_gives_the_same_guesses():
    backend = FakeBackend()
    drafter = new_drafter(backend)
    sequence = new_sequence(backend, 0, [5, 6, 7])
    assert drafter.draft([Wish(sequence, 4)]) == drafter.draft([Wish(sequence, 4)])


def test_guesses_that_came_true_are_not_computed_again():
    backend = FakeBackend()
    drafter = new_drafter(backend)
    sequence = new_sequence(backend, 0, [5, 6, 7])
    (guess,) = drafter.draft([Wish(sequence, 3)])
    sequence.tokens += [*guess, 9]
    backend.calls.clear()
    drafter.draft([Wish(sequence, 1)])
    (items,) = backend.calls
    assert items[0].tokens == [guess[-1], 9]  # the last guess was never computed


def test_one_batch_guesses_for_all():
    backend = FakeBackend()
    drafter = new_drafter(backend)
    wishes = [Wish(new_sequence(backend, n, [n + 1, 7]), 3) for n in range(3)]
    guesses = drafter.draft([*wishes, Wish(new_sequence(backend, 3, [1]), 0)])
    assert guesses == [*(likely_text(wish.sequence.tokens, 3) for wish in wishes), []]
    assert [len(call) for call in backend.calls] == [3, 3, 3]


def test_a_prompt_that_was_there_before_is_not_computed_again():
    backend = FakeBackend()
    drafter = new_drafter(backend)
    prompt = list(range(1, 13))
    drafter.draft([Wish(new_sequence(backend, 0, prompt), 2)])
    drafter.end(0)
    backend.calls.clear()
    drafter.draft([Wish(new_sequence(backend, 1, [*prompt, 30]), 1)])
    assert sum(len(item.tokens) for call in backend.calls for item in call) <= 2
    other = new_sequence(backend, 2, [*prompt, 31], cache_key="another")
    backend.calls.clear()
    drafter.draft([Wish(other, 1)])
    assert sum(len(item.tokens) for call in backend.calls for item in call) == 13
    drafter.end(1)
    drafter.end(2)
    drafter.clear()
    assert backend.n_used == 0


def test_a_long_prompt_is_caught_up_with_in_parts_beside_others():
    backend = FakeBackend(n_cells=400, n_batch=300)
    drafter = new_drafter(backend)
    short, long = new_sequence(backend, 0, [1, 2]), new_sequence(backend, 1, [3] * 200)
    n_calls = 0
    guesses: list[list[int]] = [[], []]
    while not guesses[1]:
        backend.calls.clear()
        guesses = drafter.draft([Wish(short, 2), Wish(long, 2)])
        assert guesses[0], "the short one waited"
        assert sum(len(item.tokens) for item in backend.calls[0]) <= 66
        n_calls += 1
    assert n_calls > 2
    alone = new_sequence(backend, 2, [4] * 100)
    assert drafter.draft([Wish(alone, 2)])[0]


@given(seed=st.integers(0, 1 << 32))
def test_whatever_comes_and_goes_guesses_are_those_of_the_text_alone(seed: int):
    draw = random.Random(seed)
    backend = FakeBackend(
        n_cells=draw.choice([16, 40, 120]),
        n_batch=draw.choice([8, 16]),
        n_seq_max=draw.randint(1, 4),
        random=random.Random(seed + 1),
        no_slot_rate=draw.choice([0.0, 0.1]),
        abort_rate=draw.choice([0.0, 0.1]),
    )
    drafter = new_drafter(backend)
    stem = [draw.randrange(N_VOCAB) for _ in range(20)]
    going = []
    for number in range(30):
        if draw.random() < 0.4:
            prompt = [*stem[: draw.randint(1, 20)], draw.randrange(N_VOCAB)]
            going.append(new_sequence(backend, number, prompt))
        chosen = draw.sample(going, draw.randint(0, len(going)))
        guesses = drafter.draft([Wish(one, draw.randint(0, 4)) for one in chosen])
        drafter.check_integrity()
        for sequence, guess in zip(chosen, guesses, strict=True):
            assert guess == likely_text(sequence.tokens, len(guess))
            n_right = draw.randint(0, len(guess))
            sequence.tokens += [*guess[:n_right], draw.randrange(N_VOCAB)]
        if going and draw.random() < 0.3:
            drafter.end(going.pop(draw.randrange(len(going))).id)
    for sequence in going:
        drafter.end(sequence.id)
    drafter.clear()
    drafter.check_integrity()
    assert backend.n_used == 0


@pytest.mark.parametrize("seed", range(8))
def test_a_schedule_with_a_draft_model_gives_the_texts_of_one_without(seed: int):
    draw = random.Random(seed)
    target = FakeBackend(n_cells=90, n_batch=32, n_seq_max=6)
    drafting = FakeBackend(n_cells=90, n_batch=32, n_seq_max=5)
    drafter = new_drafter(drafting)
    scheduler = Scheduler(target, SchedulerOptions(n_slots=4), Pace(32), drafter=drafter)
    prompts = [[draw.randrange(1, N_VOCAB) for _ in range(draw.randint(1, 30))] for _ in range(12)]
    sequences = [new_sequence(target, n, p, 12, seed=n % 2) for n, p in enumerate(prompts)]
    texts: dict[int, list[int]] = {sequence.id: [] for sequence in sequences}
    for sequence in sequences:
        scheduler.add(sequence)
    while not scheduler.is_idle:
        for outcome in scheduler.step():
            if outcome.token is not None:
                texts[outcome.sequence.id].append(outcome.token)
        scheduler.check_integrity()
        drafter.check_integrity()
    for number, prompt in enumerate(prompts):
        assert texts[number] == lone_text(prompt, number % 2, 12, 90)
    assert sum(sequence.n_drafted for sequence in sequences) > 20
    assert scheduler.stats.draft_s > 0
    scheduler.forget()
    assert drafting.n_used == 0
