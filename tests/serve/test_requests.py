import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.core.errors import NotFoundError, UnsupportedError, UsageError
from llmedge.runtime.sampler import SamplingOptions
from llmedge.serve.engine import ChatPrompt, TextPrompt
from llmedge.serve.requests import (
    chat_generation,
    decode_request,
    require_model,
    text_generation,
)
from llmedge.serve.schema import ChatRequest, CompletionRequest
from tests.fakes import works_or_is_refused

HELLO = [{"role": "user", "content": "Hello"}]


def chat(**fields: object):
    body = json.dumps({"messages": HELLO, **fields}).encode()
    return chat_generation(decode_request(body, ChatRequest)[0])


def text(**fields: object):
    body = json.dumps({"prompt": "Once", **fields}).encode()
    return text_generation(decode_request(body, CompletionRequest)[0])


def test_a_plain_request_has_the_servers_defaults():
    generation = chat()
    assert generation.prompt == ChatPrompt([{"role": "user", "content": "Hello"}])
    assert generation.options.sampling == SamplingOptions()
    assert generation.options.max_tokens is None


def test_every_field_reaches_the_engine():
    options = chat(
        max_tokens=9,
        temperature=0.5,
        top_p=0.5,
        top_k=7,
        min_p=0.1,
        repeat_penalty=1.2,
        frequency_penalty=0.3,
        presence_penalty=-0.3,
        seed=0,
        stop=["a", "b"],
    ).options
    assert options.max_tokens == 9
    assert options.stop == ("a", "b")
    assert options.sampling == SamplingOptions(0.5, 7, 0.5, 0.1, 1.2, 0.3, -0.3, 0)


def test_nulls_mean_that_nothing_is_said():
    names = "stream n stop seed temperature top_p max_tokens logit_bias tools response_format user"
    options = {"stream_options": {"include_usage": None}}
    assert chat(**dict.fromkeys(names.split()), **options) == chat()
    assert text(echo=None, suffix=None, best_of=None, logprobs=None) == text()


def test_the_newer_word_for_the_limit_wins():
    assert chat(max_tokens=9, max_completion_tokens=5).options.max_tokens == 5


def test_a_text_completion_ends_after_openais_sixteen_tokens():
    generation = text()
    assert generation.prompt == TextPrompt("Once")
    assert generation.options.max_tokens == 16
    assert text(prompt=["Once"]).prompt == TextPrompt("Once")


def test_contents_may_be_parts_and_developers_are_systems():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None},
    ]
    prompt = chat(messages=messages).prompt
    assert isinstance(prompt, ChatPrompt)
    assert [(m["role"], m["content"]) for m in prompt.messages] == [
        ("system", "be brief"),
        ("user", "ab"),
        ("assistant", ""),
    ]


def test_unknown_fields_are_named():
    body = json.dumps({"messages": HELLO, "zeta": 1, "best_before": 2, "user": "me"}).encode()
    assert decode_request(body, ChatRequest)[1] == ["best_before", "zeta"]


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": -1},
        {"temperature": 101},
        {"top_p": 1.5},
        {"min_p": -0.1},
        {"top_k": -1},
        {"repeat_penalty": 0},
        {"frequency_penalty": 3},
        {"max_tokens": 0},
        {"max_tokens": -1},
        {"stop": ["x"] * 17},
        {"stop": [""]},
        {"stop": ["a", ""]},
        {"messages": []},
        {"seed": 1 << 63},
    ],
)
def test_values_out_of_range_are_refused(fields: dict[str, object]):
    with pytest.raises(UsageError) as caught:
        chat(**fields)
    assert next(iter(fields)) in caught.value.message


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"logprobs": True},
        {"top_logprobs": 3},
        {"tools": [{"type": "function"}]},
        {"response_format": {"type": "json_object"}},
        {"logit_bias": {"1": 2}},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "x"}]}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
            ]
        },
    ],
)
def test_what_cannot_be_done_is_refused_and_not_ignored(fields: dict[str, object]):
    with pytest.raises(UnsupportedError, match="not supported"):
        chat(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": ["a", "b"]},
        {"prompt": [1, 2]},
        {"logprobs": 1},
        {"echo": True},
        {"suffix": "x"},
        {"best_of": 2},
    ],
)
def test_what_a_text_completion_cannot_do_is_refused(fields: dict[str, object]):
    with pytest.raises(UnsupportedError, match="not supported"):
        text(**fields)


def test_tools_that_must_not_be_used_are_fine():
    assert chat(tools=[{"type": "function"}], tool_choice="none")
    assert chat(response_format={"type": "text"})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"messages": "x"}',
        b'{"messages": [{"role": "pirate", "content": "x"}]}',
        b'{"messages": [{"content": "x"}]}',
        b'{"messages": [{"role": "user", "content": [{"type": "smell"}]}]}',
        b'{"messages": [], "temperature": "hot"}',
        b'{"messages": [], "temperature": NaN}',
        b'{"messages": [], "stream": "yes"}',
        b'{"messages": ' + b"[" * 100_000,
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    ],
)
def test_a_body_that_is_not_a_request_is_refused(body: bytes):
    with pytest.raises(UsageError, match="not valid"):
        decode_request(body, ChatRequest)


def test_another_model_is_not_answered():
    require_model(None, "a")
    require_model("", "a")
    require_model("a", "a")
    with pytest.raises(NotFoundError, match="'b' is not served here; 'a' is"):
        require_model("b", "a")


@given(
    st.dictionaries(
        st.sampled_from(
            ["messages", "temperature", "stop", "max_tokens", "seed", "n", "stream", "model"]
        ),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text()
        | st.lists(st.text()),
    )
)
def test_any_json_is_a_request_or_an_error_of_ours(fields: dict[str, object]):
    with works_or_is_refused():
        chat(**fields)
