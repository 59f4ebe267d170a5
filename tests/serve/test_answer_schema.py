"""What stands on the wire, and what is left out of it."""

import json

import msgspec
import pytest

from llmedge.serve import schema
from llmedge.serve.answer_schema import (
    AnswerMessage,
    CallDelta,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChunkChoice,
    ChunkDelta,
    FunctionDelta,
    Health,
    ModelCard,
    ModelList,
    ModelMeta,
    PromptDetails,
    TextChoice,
    TextCompletion,
    Usage,
)

COMMON = {"id": "x-1", "created": 1, "model": "m", "system_fingerprint": "f"}
USAGE = Usage(1, 2, 3, PromptDetails(0))


def wire(value: object) -> dict[str, object]:
    return json.loads(msgspec.json.encode(value))


def test_a_message_always_has_content_and_refusal_and_calls_only_where_there_are_some():
    assert wire(AnswerMessage(None)) == {"role": "assistant", "content": None, "refusal": None}
    call = schema.ToolCall(schema.CalledFunction("f", "{}"), "call_1")
    message = wire(AnswerMessage(None, reasoning_content="Hm.", tool_calls=[call]))
    assert message["reasoning_content"] == "Hm."
    assert message["tool_calls"] == [
        {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    ]


def test_an_answer_can_be_sent_back_as_a_message():
    call = schema.ToolCall(schema.CalledFunction("f", "{}"), "call_1")
    sent = msgspec.json.encode(AnswerMessage("Yes.", reasoning_content="Hm.", tool_calls=[call]))
    message = msgspec.json.decode(sent, type=schema.ChatMessage)
    assert (message.role, message.content, message.tool_calls) == ("assistant", "Yes.", [call])


@pytest.mark.parametrize(
    ("delta", "told"),
    [
        (ChunkDelta(), {}),
        (ChunkDelta(role="assistant", content=None), {"role": "assistant", "content": None}),
        (
            ChunkDelta(tool_calls=[CallDelta(0, FunctionDelta(arguments="{"))]),
            {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]},
        ),
    ],
)
def test_a_chunk_says_what_it_adds_and_no_more(delta: ChunkDelta, told: dict[str, object]):
    choice = wire(ChunkChoice(0, delta))
    assert choice == {"index": 0, "delta": told, "finish_reason": None, "logprobs": None}


def test_each_object_says_what_it_is():
    answer = AnswerMessage("Yes.")
    whole = ChatCompletion(**COMMON, choices=[ChatChoice(0, answer, "stop")], usage=USAGE)
    assert wire(whole)["object"] == "chat.completion"
    assert wire(ChatChunk(**COMMON, choices=[]))["object"] == "chat.completion.chunk"
    assert wire(TextCompletion(**COMMON, choices=[TextChoice(0, "")]))["object"] == (
        "text_completion"
    )
    assert wire(ModelList([])) == {"data": [], "object": "list"}
    assert wire(Health("ok")) == {"status": "ok"}


def test_usage_and_timings_are_left_out_until_they_are_set():
    for empty in (ChatChunk(**COMMON, choices=[]), TextCompletion(**COMMON, choices=[])):
        assert wire(empty) == {**COMMON, "choices": [], "object": empty.object}
        empty.usage = USAGE
        assert wire(empty)["usage"] == {
            "prompt_tokens": 1,
            "completion_tokens": 2,
            "total_tokens": 3,
            "prompt_tokens_details": {"cached_tokens": 0},
        }


def test_a_model_is_owned_by_llmedge_and_its_facts_stand_apart():
    facts = ModelMeta("ready", "llama 1M", "llama", "Q4_0", ["hi"], 1, 2, 3, 4, 5, 6)
    card = wire(ModelCard(id="m", created=1, meta=facts, aliases=["other"]))
    assert {card[name] for name in ("id", "object", "owned_by")} == {"m", "model", "llmedge"}
    assert card["meta"]["languages"] == ["hi"]
    assert len(card["meta"]) == 11
