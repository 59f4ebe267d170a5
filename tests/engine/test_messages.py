import inspect

import msgspec
import pytest

from llmedge.core import errors
from llmedge.core.errors import ContextLengthError, LlmedgeError, UsageError
from llmedge.engine.engine import EngineStats
from llmedge.engine.generation import (
    ChatPrompt,
    Constraint,
    Delta,
    Finished,
    Generation,
    GenerationReport,
    Started,
    TokenChance,
    TokenChances,
    TokenPrompt,
)
from llmedge.engine.messages import (
    Cancel,
    Failed,
    Load,
    Reply,
    Stepped,
    Submit,
    Text,
    decode_for_child,
    decode_for_parent,
    encode,
)
from llmedge.engine.scheduler import SchedulerOptions
from llmedge.runtime.context import ContextOptions
from llmedge.runtime.model import ModelOptions
from llmedge.runtime.sampler import SamplingOptions


def test_a_request_arrives_as_it_was():
    request = Generation(
        ChatPrompt([{"role": "user", "content": "नमस्ते"}], tools=[{"a": [1, None, 2.5]}]),
        stop=("\n",),
        sampling=SamplingOptions(seed=0, logit_bias=((5, float("-inf")),)),
        constraint=Constraint("json_object"),
    )
    load = Load(b"/m/\xff.gguf", "m", ModelOptions(), ContextOptions(), SchedulerOptions())
    for message in (Submit(7, request), load, Cancel(7)):
        assert decode_for_child(encode(message)) == message


def test_a_step_arrives_as_it_was():
    report = GenerationReport(3, 0, 2, 0.0, 0.1, 0.2, "stop", "\n")
    delta = Delta("क", [TokenChances(TokenChance(5, b"\xe0", -0.5))])
    answers = [(1, Started(3)), (1, delta), (1, Finished(report)), (2, Failed("UsageError", "no"))]
    step = Stepped(answers, EngineStats(n_steps=4))
    assert decode_for_parent(encode(step)) == step
    assert decode_for_parent(encode(Reply(3, Text("x")))) == Reply(3, Text("x"))


@pytest.mark.parametrize(
    "kind",
    [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, LlmedgeError)],
)
def test_each_error_is_raised_as_what_it_was(kind: type[LlmedgeError]):
    error = Failed.of(kind("what", "hint")).error()
    assert type(error) is kind
    assert (error.message, error.hint) == ("what", "hint")  # type: ignore[attr-defined]


def test_an_error_of_unknown_kind_is_a_bug():
    assert isinstance(Failed("SystemExit", "boo").error(), RuntimeError)
    assert isinstance(Failed.of(KeyError("boo")).error(), RuntimeError)


def test_an_error_that_quotes_what_is_no_text_can_be_said():
    assert encode(Reply(1, Failed.of(ContextLengthError("\ud800 is too long"))))


def nested(depth: int) -> dict[str, object]:
    value: dict[str, object] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize("value", ["\ud800", 1 << 70, nested(100_000)])
def test_what_cannot_be_passed_on_is_refused(value: object):
    prompt = ChatPrompt([{"role": "user", "content": value}])
    with pytest.raises(UsageError):
        encode(Submit(1, Generation(prompt)))


@pytest.mark.parametrize("data", [b"", b"\xc1", msgspec.msgpack.encode({"type": "Boo"})])
def test_what_is_no_message_is_not_read(data: bytes):
    for decode in (decode_for_child, decode_for_parent):
        with pytest.raises(msgspec.DecodeError):
            decode(data)


def test_tokens_that_are_no_numbers_are_not_read():
    data = encode(Submit(1, Generation(TokenPrompt(["a"]))))  # type: ignore[list-item]
    with pytest.raises(msgspec.DecodeError):
        decode_for_child(data)


def test_a_prompt_that_is_too_long_keeps_its_counts_on_the_way():
    data = encode(Reply(1, Failed.of(ContextLengthError("long", "cut", n_prompt=9, n_ctx=4))))
    error = decode_for_parent(data).value.error()  # type: ignore[union-attr]
    assert isinstance(error, ContextLengthError)
    assert (error.message, error.hint, error.n_prompt, error.n_ctx) == ("long", "cut", 9, 4)
