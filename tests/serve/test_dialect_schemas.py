"""The wire types of the dialects: what a description of the endpoint is made of."""

import msgspec
import pytest

from llmedge.serve.answer import Answer, Call
from llmedge.serve.anthropic_schema import CountRequest, MessagesRequest
from llmedge.serve.anthropic_stream import MessageFrame, whole_message
from llmedge.serve.native_schema import (
    DetokenizeRequest,
    EmbeddingsRequest,
    RerankRequest,
    TemplateRequest,
    TokenizeRequest,
)
from llmedge.serve.ollama_answer import OllamaAnswer
from llmedge.serve.ollama_calls import chat_call
from llmedge.serve.ollama_schema import (
    ChatRequest,
    EmbedRequest,
    GenerateRequest,
    Message,
    Options,
    ShowRequest,
)
from llmedge.serve.responses_schema import ResponseObject, ResponsesRequest
from tests.serve.dialects import REPORT


@pytest.mark.parametrize(
    "kind",
    [
        CountRequest,
        MessagesRequest,
        DetokenizeRequest,
        EmbeddingsRequest,
        RerankRequest,
        TemplateRequest,
        TokenizeRequest,
        ChatRequest,
        EmbedRequest,
        GenerateRequest,
        ShowRequest,
        ResponsesRequest,
        ResponseObject,
    ],
)
def test_every_wire_type_can_be_described(kind: type):
    (schema,), components = msgspec.json.schema_components([kind])
    assert schema["$ref"].endswith(kind.__name__)
    assert components[kind.__name__]["type"] == "object"


def test_the_same_answer_says_the_same_in_two_dialects():
    answer = Answer(REPORT, "tool_calls", "Hi", "hmm", [Call("a", "f", '{"x": 1}')], [])
    message = whole_message(MessageFrame("m", ()), answer)
    body = OllamaAnswer("m", 0.0, is_chat=True).whole(answer)["message"]
    assert [block.__struct_config__.tag for block in message.content] == [
        "thinking",
        "text",
        "tool_use",
    ]
    assert (body["thinking"], body["content"]) == ("hmm", "Hi")
    assert body["tool_calls"][0]["function"]["arguments"] == message.content[2].input == {"x": 1}


def test_a_tool_message_that_answers_no_call_has_an_id_too():
    messages = [Message("tool", "sunny"), Message("tool", "noon", tool_call_id="b")]
    call = chat_call(ChatRequest(model="m", messages=messages), Options())
    assert [message["tool_call_id"] for message in call.messages] == ["call_unknown", "b"]
