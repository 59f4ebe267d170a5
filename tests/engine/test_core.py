import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmedge.core.errors import ContextLengthError, UnsupportedError, UsageError
from llmedge.engine.core import EngineCore, open_core
from llmedge.engine.generation import (
    ChatPrompt,
    Delta,
    Finished,
    Generation,
    Progress,
    Prompt,
    Started,
    TextPrompt,
    TokenPrompt,
)
from llmedge.engine.messages import Answer, Failed, Load, Pieces, Tokenize
from llmedge.engine.scheduler import SchedulerOptions
from llmedge.runtime.context import ContextOptions
from llmedge.runtime.model import ModelOptions
from llmedge.runtime.sampler import SamplingOptions

GREEDY = SamplingOptions(temperature=0)


def load(path: Path, *, n_draft: int = 0, n_slots: int = 3) -> Load:
    context = ContextOptions(n_ctx=512, n_batch=128, n_seq_max=8, n_threads=1)
    scheduler = SchedulerOptions(n_slots=n_slots)
    return Load(bytes(path), "tiny", ModelOptions(), context, scheduler, n_draft)


@pytest.fixture
def core(tiny_model: Path) -> Iterator[EngineCore]:
    with open_core(load(tiny_model), lambda _: True) as core:
        yield core


def request(prompt: Prompt | str, **options: object) -> Generation:
    given = TextPrompt(prompt) if isinstance(prompt, str) else prompt
    defaults = {"max_tokens": 20, "sampling": GREEDY, "ignore_end": True}
    return Generation(given, **{**defaults, **options})  # type: ignore[arg-type]


def run(core: EngineCore, *requests: Generation) -> list[list[Answer]]:
    answers: list[list[Answer]] = []
    for id_, one in enumerate(requests):
        answers.append([core.add(id_, core.clerk.prepare(one))])
    while not core.is_idle:
        for id_, answer in core.step():
            answers[id_].append(answer)
    return answers


def text_of(answers: list[Answer]) -> str:
    return "".join(answer.text for answer in answers if isinstance(answer, Delta))


def test_each_request_begins_goes_on_and_ends(core: EngineCore):
    for answers in run(core, request("one"), request("two"), request("three"), request("four")):
        assert isinstance(answers[0], Started)
        assert all(isinstance(answer, Delta) for answer in answers[1:-1])
        assert isinstance(answers[-1], Finished)
        assert answers[-1].report.n_generated == 20
        assert answers[-1].report.finish_reason == "length"
        assert answers[-1].report.n_prompt == answers[0].n_prompt
    assert core.stats.n_running == 0


def test_guessing_ahead_changes_no_text(core: EngineCore, tiny_model: Path):
    asked = [request("abc abc abc abc", max_tokens=60), request("xyz", max_tokens=60)]
    plain = [text_of(answers) for answers in run(core, *asked)]
    with open_core(load(tiny_model, n_draft=4), lambda _: True) as drafting:
        guessed = run(drafting, *asked)
    assert [text_of(answers) for answers in guessed] == plain
    reports = [answers[-1].report for answers in guessed if isinstance(answers[-1], Finished)]
    assert sum(report.n_drafted for report in reports) > 0
    assert all(0 <= report.n_accepted <= report.n_drafted for report in reports)


def test_a_stop_text_over_several_tokens_ends_the_text_before_it(core: EngineCore):
    (whole,) = run(core, request("tell", max_tokens=40))
    text = text_of(whole)
    stop = text[10:13]
    (cut,) = run(core, request("tell", max_tokens=40, stop=(stop,)))
    assert text_of(cut) == text[: text.index(stop)]
    assert isinstance(cut[-1], Finished)
    assert cut[-1].report.stop_text == stop
    assert cut[-1].report.n_generated < 40


def test_a_stop_token_ends_the_text_before_it(core: EngineCore):
    (whole,) = run(core, request("tell", n_logprobs=0))
    chosen = [c.chosen.token for a in whole if isinstance(a, Delta) for c in a.chances]
    stop = next(token for token in chosen if token != chosen[0])
    (cut,) = run(core, request("tell", n_logprobs=0, stop_tokens=(stop,)))
    kept = [c.chosen.token for a in cut if isinstance(a, Delta) for c in a.chances]
    assert kept == chosen[: chosen.index(stop)]
    assert isinstance(cut[-1], Finished)
    assert (cut[-1].report.finish_reason, cut[-1].report.stop_text) == ("stop", None)


def test_a_text_ends_where_the_context_does(core: EngineCore):
    (answers,) = run(core, request(TokenPrompt([70] * 500), max_tokens=None))
    assert isinstance(answers[-1], Finished)
    assert answers[-1].report.finish_reason == "length"
    assert answers[-1].report.n_prompt + answers[-1].report.n_generated in (512, 513)


def test_a_cancelled_request_is_not_heard_of_again(core: EngineCore):
    core.add(1, core.clerk.prepare(request("one", max_tokens=100)))
    core.add(2, core.clerk.prepare(request("two", max_tokens=3)))
    core.step()
    core.abort(1)
    core.cancel(1)
    core.cancel(1)
    heard = set()
    while not core.is_idle:
        heard |= {id_ for id_, _ in core.step()}
    assert heard == {2}
    assert core.stats.n_running == 0


def test_a_step_that_nobody_waits_for_is_not_made(core: EngineCore):
    core.add(1, core.clerk.prepare(request("one")))
    core.abort(1)
    assert core.step() == []
    assert core.stats.n_generated_tokens == 0
    core.add(2, core.clerk.prepare(request("one", max_tokens=1)))
    core.cancel(1)
    assert {id_ for id_, _ in core.step()} == {2}


def test_a_late_abort_takes_nothing_from_another(core: EngineCore):
    (expected,) = run(core, request("a text of its own"))
    core.add(5, core.clerk.prepare(request("another")))
    core.add(0, core.clerk.prepare(request("a text of its own")))
    core.step()
    core.abort(5)  # 0 is in the same decode call
    core.cancel(5)
    answers: list[Answer] = []
    while not core.is_idle:
        answers += [answer for id_, answer in core.step() if id_ == 0]
    assert text_of(expected).endswith(text_of(answers))


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (request(TokenPrompt([260])), UsageError),
        (request(TokenPrompt([-1])), UsageError),
        (request("x" * 600), ContextLengthError),
        (request("x" * 100_000), ContextLengthError),
        (request(ChatPrompt([{"role": "user", "content": "x" * 100_000}])), ContextLengthError),
        (request("x", stop=("",)), UsageError),
        (request("x", adapters=(("a", 1.0),)), UnsupportedError),
        (request("x", sampling=SamplingOptions(logit_bias=((260, 1.0),))), UsageError),
        (request(ChatPrompt([], continues=True)), UsageError),
        (request(ChatPrompt([{"role": "user", "content": None}], continues=True)), UsageError),
    ],
)
def test_what_cannot_be_meant_is_refused_before_it_is_computed(
    core: EngineCore, wrong: Generation, error: type[Exception]
):
    with pytest.raises(error):
        core.clerk.prepare(wrong)


def test_a_request_for_no_token_is_refused(core: EngineCore):
    with pytest.raises(UsageError):
        core.add(1, core.clerk.prepare(request("x", max_tokens=0)))
    assert core.is_idle


def test_a_prompt_that_a_template_wrote_begins_with_bos_once(core: EngineCore):
    bos = core.clerk.answer(Tokenize(1, "<s>", add_special=False, parse_special=True))
    for content in ("a", "<s>a"):
        messages = [{"role": "user", "content": content}]
        tokens = core.clerk.prepare(request(ChatPrompt(messages))).tokens
        assert [tokens[:1]] == [bos.value]
    assert tokens.count(tokens[0]) == 2


def test_what_one_sampler_stumbles_over_ends_its_request_alone(core: EngineCore):
    bad = core.clerk.prepare(request("one"))

    def stumble(index: int) -> int:
        raise UsageError(f"no token at {index}")

    bad.sampler.sample = stumble  # type: ignore[method-assign]
    core.add(1, bad)
    core.add(2, core.clerk.prepare(request("two", max_tokens=2)))
    heard: list[tuple[int, Answer]] = []
    while not core.is_idle:
        heard += core.step()
    assert [answer for id_, answer in heard if id_ == 1 and isinstance(answer, Failed)]
    assert isinstance(heard[-1][1], Finished)


def test_the_prompts_progress_is_told_from_what_was_cached_to_its_end(core: EngineCore):
    text = "a long prompt " * 20
    for n_cached in (0, None):
        started, *answers = run(core, request(text, tells_progress=True, max_tokens=2))[0]
        told = [answer for answer in answers if isinstance(answer, Progress)]
        assert isinstance(started, Started)
        assert (told[0].n_done, told[-1].n_done) == (told[0].n_cached, started.n_prompt)
        assert {progress.n_prompt for progress in told} == {started.n_prompt}
        done = [progress.n_done for progress in told]
        assert done == sorted(set(done))
        # The second time, all but the last token are there.
        assert told[0].n_cached == (started.n_prompt - 1 if n_cached is None else 0)
    assert not any(isinstance(answer, Progress) for answer in run(core, request(text))[0])


def test_tokens_and_times_are_told_where_they_are_wanted(core: EngineCore):
    answers = run(core, request("x", tells_tokens=True, tells_times=True, max_tokens=5))[0]
    deltas = [answer for answer in answers if isinstance(answer, Delta)]
    tokens = [token for delta in deltas for token in delta.tokens]
    pieces = core.clerk.answer(Pieces(1, tokens)).value
    assert len(tokens) == 5
    assert b"".join(pieces).decode(errors="replace") == text_of(answers)
    counts = [delta.report.n_generated for delta in deltas if delta.report]
    assert counts == sorted(counts)
    assert counts[-1] == 5
    plain = [a for a in run(core, request("x"))[0] if isinstance(a, Delta)]
    assert not any(delta.tokens or delta.report for delta in plain)


def test_a_request_that_stays_out_of_the_cache_finds_nothing_and_leaves_nothing(core: EngineCore):
    text = "the same words " * 10
    for caches, is_found in ((False, False), (False, False), (True, False), (False, False)):
        *_, finished = run(core, request(text, caches=caches))[0]
        assert isinstance(finished, Finished)
        assert (finished.report.n_cached > 0) == is_found
    *_, finished = run(core, request(text))[0]
    assert isinstance(finished, Finished)
    assert finished.report.n_cached > 0
    one, other = run(core, request(text, caches=False), request(text, caches=False))
    assert text_of(one) == text_of(other)
    assert [answers[-1].report.n_cached for answers in (one, other)] == [0, 0]


def test_chances_after_the_samplers_are_of_the_tokens_that_they_leave(core: EngineCore):
    sampling = SamplingOptions(temperature=1, top_k=3, top_p=1, min_p=0, seed=1)
    wanted = request("x", sampling=sampling, n_logprobs=10, tells_chances_after=True, max_tokens=4)
    deltas = [answer for answer in run(core, wanted)[0] if isinstance(answer, Delta)]
    steps = [step for delta in deltas for step in delta.chances]
    assert len(steps) == 4
    for step in steps:
        assert len(step.top) == 3
        assert sum(math.exp(chance.logprob) for chance in step.top) == pytest.approx(1)
        assert step.chosen.token in {chance.token for chance in step.top}
