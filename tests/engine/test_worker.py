from collections.abc import Iterator
from pathlib import Path

import pytest

from llmedge.core.errors import ContextLengthError, IntegrityError, ResourceError
from llmedge.engine.generation import Finished, Generation, Started, TextPrompt
from llmedge.engine.messages import (
    Cancel,
    Failed,
    GaveUp,
    Load,
    Loaded,
    Loading,
    Pieces,
    Reply,
    Stepped,
    Submit,
    Tokenize,
    Tokens,
    ToParent,
    decode_for_parent,
    encode,
)
from llmedge.engine.scheduler import SchedulerOptions
from llmedge.engine.worker import _attempt, enter
from llmedge.host.interpreter import Interpreter, read_frame, write_frame
from llmedge.runtime.context import ContextOptions
from llmedge.runtime.model import ModelOptions


@pytest.fixture
def child() -> Iterator[Interpreter]:
    with Interpreter(enter.__module__, enter.__name__) as child:
        yield child


def load(path: Path) -> bytes:
    context = ContextOptions(n_ctx=256, n_batch=64, n_seq_max=4)
    return encode(Load(bytes(path), "tiny", ModelOptions(), context, SchedulerOptions()))


def hear(child: Interpreter) -> ToParent:
    while isinstance(message := decode_for_parent(read_frame(child.output)), Loading):
        pass
    return message


def test_it_loads_answers_and_tells_its_counters_at_the_end(child: Interpreter, tiny_model: Path):
    write_frame(child.input, load(tiny_model))
    first = hear(child)
    assert isinstance(first, Stepped)
    assert first.stats is not None
    assert isinstance(hear(child), Loaded)
    write_frame(child.input, encode(Submit(1, Generation(TextPrompt("a"), max_tokens=3))))
    answers: list[object] = []
    while not isinstance(answers[-1] if answers else None, Finished):
        step = hear(child)
        assert isinstance(step, Stepped)
        answers += [answer for id_, answer in step.answers if id_ == 1]
    assert isinstance(answers[0], Started)
    assert step.stats is not None
    assert step.stats.n_running == 0


def test_what_was_cancelled_while_it_waited_is_not_begun(child: Interpreter, tiny_model: Path):
    request = Generation(TextPrompt("a"), max_tokens=3, ignore_end=True)
    for data in (encode(Submit(1, request)), encode(Cancel(1)), encode(Submit(2, request))):
        write_frame(child.input, data)
    write_frame(child.input, load(tiny_model))
    heard: list[int] = []
    ended = False
    while not ended:
        step = hear(child)
        if isinstance(step, Stepped):
            heard += [id_ for id_, _ in step.answers]
            ended = any(isinstance(answer, Finished) for _, answer in step.answers)
    assert set(heard) == {2}


def test_a_file_that_cannot_be_loaded_is_told_of(child: Interpreter, tiny_copy: Path):
    tiny_copy.write_bytes(b"GGUF")
    write_frame(child.input, load(tiny_copy))
    message = hear(child)
    assert isinstance(message, GaveUp)
    assert isinstance(message.reason.error(), IntegrityError)
    assert "code 0" in str(child.obituary())


def test_a_word_that_cannot_be_read_ends_it(child: Interpreter):
    write_frame(child.input, b"\xc1")
    assert "code 1" in str(child.obituary())


def test_it_ends_when_nobody_can_speak_to_it_any_more(child: Interpreter):
    child.input.close()
    assert "code 130" in str(child.obituary())


def test_questions_are_answered_while_it_generates(child: Interpreter, tiny_model: Path):
    write_frame(child.input, load(tiny_model))
    endless = Generation(TextPrompt("a"), max_tokens=200, ignore_end=True)
    for message in (Submit(1, endless), Tokenize(2, "ab", add_special=False, parse_special=False)):
        write_frame(child.input, encode(message))
    while not isinstance(reply := hear(child), Reply):
        assert not isinstance(reply, GaveUp)
    assert reply.id == 2
    assert isinstance(reply.value, Tokens)
    assert reply.value.value


def test_a_request_that_is_at_fault_fails_alone(child: Interpreter, tiny_model: Path):
    write_frame(child.input, load(tiny_model))
    for id_, text in ((1, "a" * 1000), (2, "a")):
        request = Generation(TextPrompt(text), max_tokens=3, ignore_end=True)
        write_frame(child.input, encode(Submit(id_, request)))
    answers: dict[int, object] = {}
    while not isinstance(answers.get(2), Finished):
        step = hear(child)
        answers |= dict(step.answers) if isinstance(step, Stepped) else {}
    failed = answers[1]
    assert isinstance(failed, Failed)
    assert isinstance(failed.error(), ContextLengthError)


def test_memory_that_is_used_up_is_the_trouble_of_one_request():
    def work() -> None:
        raise MemoryError

    failed = _attempt(work)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error(), ResourceError)


def test_a_question_that_cannot_be_answered_ends_nothing(child: Interpreter, tiny_model: Path):
    write_frame(child.input, load(tiny_model))
    questions = (
        Pieces(1, [1_000_000]),
        Tokenize(2, "ab", add_special=False, parse_special=False),
    )
    for question in questions:
        write_frame(child.input, encode(question))
    replies: dict[int, Reply] = {}
    while len(replies) < 2:
        message = hear(child)
        replies |= {message.id: message} if isinstance(message, Reply) else {}
    assert isinstance(replies[1].value, Failed)
    assert isinstance(replies[2].value, Tokens)
