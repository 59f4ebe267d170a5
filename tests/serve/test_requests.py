import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.core.errors import LlmedgeError, UnsupportedError, UsageError
from llmedge.engine.engine import ModelInfo
from llmedge.engine.generation import Constraint, Generation, TextPrompt, TokenPrompt
from llmedge.runtime.sampler import SamplingOptions
from llmedge.serve.answer import ChatCall, NamedTool
from llmedge.serve.requests import chat_calls, check_tokens, decode_request, text_generations
from llmedge.serve.schema import ChatRequest, CompletionRequest
from tests.fakes import works_or_is_refused

HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def chats(**fields: object) -> list[ChatCall]:
    body = json.dumps({"messages": HELLO, **fields}).encode()
    return chat_calls(decode_request(body, ChatRequest)[0])


def chat(**fields: object) -> ChatCall:
    (call,) = chats(**fields)
    return call


def texts(**fields: object) -> list[Generation]:
    body = json.dumps({"prompt": "Once", **fields}).encode()
    return text_generations(decode_request(body, CompletionRequest)[0])


def text(**fields: object) -> Generation:
    (generation,) = texts(**fields)
    return generation


def test_a_plain_request_has_the_servers_defaults():
    call = chat()
    assert call == ChatCall(messages=[{"role": "user", "content": "Hello"}])
    assert call.sampling == SamplingOptions()
    assert call.max_tokens is None


def test_every_field_reaches_the_engine():
    fields = {
        "temperature": 0.5,
        "top_p": 0.5,
        "top_k": 7,
        "min_p": 0.1,
        "typical_p": 0.9,
        "xtc_probability": 0.3,
        "xtc_threshold": 0.2,
        "dry_multiplier": 0.8,
        "dry_base": 1.5,
        "dry_allowed_length": 3,
        "dry_penalty_last_n": 9,
        "top_n_sigma": 1.5,
        "repeat_penalty": 1.2,
        "frequency_penalty": 0.3,
        "presence_penalty": -0.3,
        "seed": 0,
    }
    more = {
        "repeat_last_n": 11,
        "dry_sequence_breakers": ["\n"],
        "logit_bias": {"5": -100, "6": 2.5},
        "max_tokens": 9,
        "stop": ["a", "b"],
        "stop_token_ids": [3],
        "ignore_eos": True,
        "lora": [{"name": "hindi", "scale": 0.5}],
    }
    for made in (chat(**fields, **more), text(**fields, **more)):
        assert made.max_tokens == 9
        assert made.stop == ("a", "b")
        assert made.stop_tokens == (3,)
        assert made.ignore_end
        assert made.adapters == (("hindi", 0.5),)
        assert made.sampling == SamplingOptions(
            **fields,
            penalty_last_n=11,
            dry_sequence_breakers=("\n",),
            logit_bias=((5, -100.0), (6, 2.5)),
        )


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"continue_final_message": True, "add_generation_prompt": True}, "contradict"),
        ({"add_generation_prompt": False, "continue_final_message": False}, "not supported"),
    ],
)
def test_what_ends_a_prompt_cannot_be_asked_two_ways(fields: dict[str, object], word: str):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(LlmedgeError, match=word):
        chat(messages=messages, **fields)


def test_two_last_messages_of_the_assistant_are_no_beginning_of_an_answer():
    messages = [{"role": "assistant", "content": text} for text in ("a", "b")]
    with pytest.raises(UsageError, match="two messages"):
        chat(messages=messages)


def test_a_request_may_stay_out_of_the_cache():
    assert [chat(cache_prompt=given).caches for given in (None, True, False)] == [True, True, False]
    assert not text(cache_prompt=False).caches


def test_a_bias_may_be_llama_servers_pairs():
    assert chat(logit_bias=[[5, 1.5], [6, False]]).sampling.logit_bias == ((5, 1.5), (6, -math.inf))


def test_several_answers_have_seeds_that_count_up():
    assert [call.sampling.seed for call in chats(n=3, seed=0)] == [0, 1, 2]
    assert len({call.sampling.seed for call in chats(n=3)} | {None}) == 4  # a server's seed is one
    made = texts(prompt=["a", [1, 2]], n=2, seed=5)
    assert [(g.prompt, g.sampling.seed) for g in made] == [
        (TextPrompt("a"), 5),
        (TextPrompt("a"), 6),
        (TokenPrompt([1, 2]), 5),
        (TokenPrompt([1, 2]), 6),
    ]


def test_formats_become_constraints():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    as_schema = Constraint("json_schema", json.dumps(schema, separators=(",", ":")))
    named = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    for fields, constraint in (
        ({"response_format": named}, as_schema),
        ({"response_format": {"type": "json_object", "schema": schema}}, as_schema),
        ({"json_schema": schema}, as_schema),
        ({"response_format": {"type": "json_object"}}, Constraint("json_object")),
        ({"regex": "[ab]+"}, Constraint("regex", "[ab]+")),
        ({"grammar": 'start: "a"'}, Constraint("lark", 'start: "a"')),
        ({"grammar": 'root ::= "a"'}, Constraint("gbnf", 'root ::= "a"')),
        ({"response_format": {"type": "text"}}, None),
    ):
        assert chat(**fields).constraint == constraint


def test_tools_and_template_arguments_reach_the_template():
    call = chat(
        tools=[TOOL],
        tool_choice={"type": "function", "function": {"name": "look"}},
        parallel_tool_calls=False,
        chat_template_kwargs={"enable_thinking": True},
        reasoning_effort="none",
        reasoning_budget=7,
    )
    assert call.tools == [TOOL]
    assert (call.tool_choice, call.parallel_tool_calls) == (NamedTool("look"), False)
    assert call.template_arguments == {"reasoning_effort": "none", "enable_thinking": True}
    assert call.reasoning_budget == 7
    assert chat(reasoning_budget=-1).reasoning_budget == -1
    assert chat(reasoning_effort="none").reasoning_budget == 0
    asked = {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}}
    assert chat(**asked).reasoning_budget is None


def test_earlier_calls_and_their_results_are_kept():
    made = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [made], "reasoning_content": "hm"},
        {"role": "tool", "tool_call_id": "c1", "content": "a dog"},
    ]
    assert chat(messages=messages).messages[1:] == [
        {"role": "assistant", "content": "", "tool_calls": [made], "reasoning_content": "hm"},
        {"role": "tool", "tool_call_id": "c1", "content": "a dog"},
    ]


def test_an_answer_that_was_begun_is_continued():
    begun = [*HELLO, {"role": "assistant", "content": "I am"}]
    assert chat(messages=begun).continues
    assert not chat(messages=begun, continue_final_message=False).continues
    assert not chat().continues
    with pytest.raises(UsageError, match="continue_final_message"):
        chat(continue_final_message=True)


def test_log_probabilities_are_asked_for_in_two_ways():
    assert chat(logprobs=True).n_logprobs == 0
    assert chat(logprobs=True, top_logprobs=20).n_logprobs == 20
    assert chat(logprobs=False).n_logprobs is None
    assert text(logprobs=0).n_logprobs == 0


def test_tokens_must_be_the_models():
    info = ModelInfo("m", n_vocab=10)
    for made in (text(prompt=[3, 10]), text(stop_token_ids=[-1]), text(logit_bias={"10": 1})):
        with pytest.raises(UsageError, match="there are 10 tokens"):
            check_tokens(made, info)
    check_tokens(text(prompt=[0, 9], stop_token_ids=[9]), info)


def test_nulls_mean_that_nothing_is_said():
    names = "stream n stop seed temperature top_p max_tokens logit_bias tools response_format user"
    options = {"stream_options": {"include_usage": None}}
    assert chat(**dict.fromkeys(names.split()), **options) == chat()
    assert text(echo=None, suffix=None, best_of=None, logprobs=None) == text()


def test_the_newer_word_for_the_limit_wins():
    assert chat(max_tokens=9, max_completion_tokens=5).max_tokens == 5


def test_a_text_completion_ends_after_openais_sixteen_tokens():
    generation = text()
    assert generation.prompt == TextPrompt("Once")
    assert generation.max_tokens == 16
    assert text(prompt=["Once"]).prompt == TextPrompt("Once")


def test_contents_may_be_parts():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None},
    ]
    assert [(m["role"], m["content"]) for m in chat(messages=messages).messages] == [
        ("developer", "be brief"),
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
        {"n": 0},
        {"n": 65},
        {"stop": ["x" * 1025]},
        {"logit_bias": {"x": 1}},
        {"logit_bias": {"1": 1001}},
        {"logit_bias": {str(i): 1 for i in range(1025)}},
        {"top_logprobs": 21, "logprobs": True},
        {"top_logprobs": 1},
        {"tools": [{"type": "function"}]},
        {"tools": [TOOL] * 129},
        {"tool_choice": "required"},
        {"tool_choice": "sometimes"},
        {"reasoning_effort": "utmost"},
        {"chat_template_kwargs": {"messages": []}},
        {"dry_sequence_breakers": [""]},
        {"lora": [{"name": "x"}] * 17},
    ],
)
def test_values_out_of_range_are_refused(fields: dict[str, object]):
    with pytest.raises(UsageError) as caught:
        chat(**fields)
    assert next(iter(fields)) in caught.value.message


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object"}, "regex": "x"},
        {"grammar": "x", "regex": "x"},
        {"regex": "x" * 70_000},
    ],
)
def test_an_answer_can_be_constrained_once_and_within_bounds(fields: dict[str, object]):
    with pytest.raises(UsageError):
        chat(**fields)


@pytest.mark.parametrize("where", ["json_schema", "tools", "chat_template_kwargs"])
def test_json_that_is_nested_too_deep_is_refused(where: str):
    deep: dict[str, object] = {}
    for _ in range(100):
        deep = {"not": deep}
    tool = {"type": "function", "function": {"name": "x", "parameters": deep}}
    with pytest.raises(UsageError, match="nested deeper than 64"):
        chat(**{where: [tool] if where == "tools" else deep})


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file"])
def test_what_is_no_text_is_refused_and_not_ignored(kind: str):
    with pytest.raises(UnsupportedError, match="not supported"):
        chat(messages=[{"role": "user", "content": [{"type": kind, kind: {"url": "x"}}]}])


@pytest.mark.parametrize("fields", [{"echo": True}, {"suffix": "x"}, {"best_of": 2}])
def test_what_a_text_completion_cannot_do_is_refused(fields: dict[str, object]):
    with pytest.raises(UnsupportedError, match="not supported"):
        text(**fields)


@pytest.mark.parametrize("prompt", [[], ["a", 1], [1, "a"], [[1], 2], ["x"] * 65])
def test_a_prompt_that_is_neither_text_nor_tokens_is_refused(prompt: list[object]):
    with pytest.raises(UsageError, match="prompt"):
        texts(prompt=prompt)


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
        chats(**fields)
