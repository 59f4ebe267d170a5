from collections.abc import Iterator
from pathlib import Path

import pytest

from llmedge.core.errors import IntegrityError
from llmedge.engine import worker
from llmedge.engine.generation import Finished, Generation, Started, TextPrompt
from llmedge.engine.messages import (
    Cancel,
    GaveUp,
    Load,
    Loaded,
    Loading,
    Stepped,
    Submit,
    ToParent,
    decode_for_parent,
    encode,
)
from llmedge.engine.scheduler import SchedulerOptions
from llmedge.host.interpreter import Interpreter, read_frame, write_frame
from llmedge.runtime.context import ContextOptions
from llmedge.runtime.model import ModelOptions


@pytest.fixture
def child() -> Iterator[Interpreter]:
    with Interpreter(worker.__name__, worker.enter.__name__) as child:
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
