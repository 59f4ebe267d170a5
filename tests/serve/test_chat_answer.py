import json
import math

import msgspec
import pytest

from llmedge.engine.generation import GenerationReport, Progress, Started, TokenChance, TokenChances
from llmedge.serve.answer import (
    Answer,
    Call,
    CallArguments,
    CallEnded,
    CallStarted,
    ChatPart,
    Content,
    Ended,
    Measured,
    Reasoning,
)
from llmedge.serve.chat_answer import ChatAnswer

REPORT = GenerationReport(10, 4, 5, 0.0, 0.5, 2.0, "stop")
# The first byte of a letter of Devanagari, and what could not have been chosen.
CHANCES = TokenChances(
    TokenChance(7, b"\xe0", -0.5),
    [TokenChance(7, b"\xe0", -0.5), TokenChance(8, b"a", -math.inf)],
)


def wire(value: object) -> dict:
    return json.loads(msgspec.json.encode(value))


def answer(content: str, **more) -> Answer:
    given = {"reasoning": "", "calls": [], "chances": [], "reason": "stop", **more}
    return Answer(report=REPORT, content=content, **given)


def new(n: int = 1) -> ChatAnswer:
    return ChatAnswer("m:Q4_0", "llmedge-1", n)


def test_a_whole_answer_has_its_choices_in_order_and_counts_the_prompt_once():
    whole = wire(new(2).whole([answer("one"), answer("two", reason="length")]))
    assert [
        (c["index"], c["message"]["content"], c["finish_reason"]) for c in whole["choices"]
    ] == [
        (0, "one", "stop"),
        (1, "two", "length"),
    ]
    assert whole["usage"]["prompt_tokens"] == 10
    assert whole["usage"]["completion_tokens"] == 10
    assert "timings" not in whole  # of which one?
    assert wire(new().whole([answer("one")]))["timings"]["predicted_n"] == 5


def test_content_beside_calls_is_null_where_there_is_none_and_else_stays():
    calls = [Call("call_1", "f", '{"a": 1}')]
    for content, told in (("", None), ("Yes.", "Yes.")):
        whole = wire(new().whole([answer(content, calls=calls, reason="tool_calls")]))
        message = whole["choices"][0]["message"]
        assert message["content"] == told
        assert message["tool_calls"] == [
            {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
        ]
    empty = wire(new().whole([answer("")]))["choices"][0]["message"]
    assert empty == {"role": "assistant", "content": "", "refusal": None}


def test_reasoning_stands_beside_the_content():
    message = wire(new().whole([answer("Yes.", reasoning="Hm.")]))["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("Yes.", "Hm.")


def test_a_stream_begins_with_the_role_of_each_choice():
    first = [wire(chunk) for chunk in new(2).first()]
    assert [chunk["choices"][0]["index"] for chunk in first] == [0, 1]
    assert all(
        chunk["choices"][0]["delta"] == {"role": "assistant", "content": ""} for chunk in first
    )


@pytest.mark.parametrize(
    ("part", "delta"),
    [
        (Content("a"), {"content": "a"}),
        (Content(""), {"content": ""}),
        (Reasoning("a"), {"reasoning_content": "a"}),
        (
            CallStarted(1, "call_1", "f"),
            {
                "tool_calls": [
                    {
                        "index": 1,
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "f", "arguments": ""},
                    }
                ]
            },
        ),
        (CallArguments(1, "{"), {"tool_calls": [{"index": 1, "function": {"arguments": "{"}}]}),
    ],
)
def test_each_part_makes_one_chunk(part: ChatPart, delta: dict[str, object]):
    chunk = wire(new(3).chunk(2, part))
    (choice,) = chunk["choices"]
    assert (choice["index"], choice["delta"], choice["finish_reason"]) == (2, delta, None)


@pytest.mark.parametrize("part", [Started(10), CallEnded(0)])
def test_a_part_that_tells_the_client_nothing_makes_no_chunk(part: ChatPart):
    assert new().chunk(0, part) is None


def test_the_end_says_why_and_how_fast_and_usage_follows_without_choices():
    one = new()
    end = wire(one.chunk(0, Ended(REPORT, "tool_calls")))
    assert end["choices"][0]["finish_reason"] == "tool_calls"
    assert end["choices"][0]["delta"] == {}
    assert end["timings"]["predicted_per_second"] == 2.0
    usage = wire(one.usage())
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 15)
    assert "usage" not in end


def test_several_choices_share_their_usage_whichever_ends_first():
    two = new(2)
    for index, n_generated in ((1, 7), (0, 2)):
        report = GenerationReport(10, 4, n_generated, 0.0, 0.5, 2.0, "stop")
        assert "timings" not in wire(two.chunk(index, Ended(report, "stop")))
    usage = wire(two.usage())["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (10, 9)


def test_all_objects_of_an_answer_share_their_id():
    one = new()
    objects = [*one.first(), one.chunk(0, Content("a")), one.chunk(0, Ended(REPORT, "stop"))]
    assert len({wire(each)["id"] for each in [*objects, one.usage()]}) == 1
    assert new().first()[0].id != objects[0].id


def test_tokens_are_told_by_their_bytes_and_with_numbers_that_json_has():
    whole = new().whole([answer("क", chances=[CHANCES])])
    chunk = new().chunk(0, Content("क", (CHANCES,)))
    for found in (wire(whole), wire(chunk)):
        (token,) = found["choices"][0]["logprobs"]["content"]
        assert (token["token"], token["bytes"], token["logprob"]) == ("\ufffd", [0xE0], -0.5)
        assert [each["logprob"] for each in token["top_logprobs"]] == [-0.5, -9999.0]
    assert wire(new().chunk(0, Content("a")))["choices"][0]["logprobs"] is None


def test_how_far_the_prompt_is_is_a_chunk_of_its_own():
    chunk = wire(new().chunk(0, Progress(10, 4, 6, 0.5)))
    assert chunk["prompt_progress"] == {"total": 10, "cache": 4, "processed": 6, "time_ms": 500.0}
    assert chunk["choices"][0]["delta"] == {}


def test_what_the_answer_took_so_far_stands_in_the_next_chunk_alone():
    one = new()
    assert one.chunk(0, Measured(REPORT)) is None
    assert wire(one.chunk(0, Content("a")))["timings"]["predicted_n"] == 5
    assert "timings" not in wire(one.chunk(0, Content("b")))


def test_the_counts_of_one_answer_come_with_its_speed():
    for n in (1, 2):
        answer = new(n)
        for index in range(n):
            answer.chunk(index, Ended(REPORT, "stop"))
        assert ("timings" in wire(answer.usage())) == (n == 1)
