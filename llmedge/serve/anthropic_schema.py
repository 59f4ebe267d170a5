"""The wire types of Anthropic's `/v1/messages`.

Source: Anthropic API reference, Messages; the types of the anthropic package 2.12.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class TextBlock(msgspec.Struct, tag_field="type", tag="text"):
    """Text."""

    text: str


class ImageBlock(msgspec.Struct, tag_field="type", tag="image"):
    """An image; refused."""


class DocumentBlock(msgspec.Struct, tag_field="type", tag="document"):
    """A file; refused."""


class ThinkingBlock(msgspec.Struct, tag_field="type", tag="thinking"):
    """What the model thought; it was signed by nobody."""

    thinking: str
    signature: str = ""


class RedactedBlock(msgspec.Struct, tag_field="type", tag="redacted_thinking"):
    """What another model thought; nothing here can read it."""


class ToolUseBlock(msgspec.Struct, tag_field="type", tag="tool_use"):
    """A call of a tool."""

    id: str
    name: str
    input: dict[str, Any]


class ToolResultBlock(msgspec.Struct, tag_field="type", tag="tool_result"):
    """What came of a call; that it is an error, its text has to say."""

    tool_use_id: str
    content: str | list[TextBlock | ImageBlock | DocumentBlock] = ""
    is_error: bool = False


Block: TypeAlias = (
    TextBlock
    | ImageBlock
    | DocumentBlock
    | ThinkingBlock
    | RedactedBlock
    | ToolUseBlock
    | ToolResultBlock
)
AnswerBlock: TypeAlias = TextBlock | ThinkingBlock | ToolUseBlock


class Message(msgspec.Struct):
    """One message of a conversation."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Tool(msgspec.Struct):
    """A tool that the model may call; tools that a server runs have another type."""

    name: str
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    type: str | None = None


class AutoChoice(msgspec.Struct, tag_field="type", tag="auto"):
    """The model chooses whether to call a tool."""

    disable_parallel_tool_use: bool = False


class AnyChoice(msgspec.Struct, tag_field="type", tag="any"):
    """Some tool must be called."""

    disable_parallel_tool_use: bool = False


class NamedChoice(msgspec.Struct, tag_field="type", tag="tool"):
    """This tool must be called."""

    name: str
    disable_parallel_tool_use: bool = False


class NoChoice(msgspec.Struct, tag_field="type", tag="none"):
    """No tool may be called."""


class ThinkingOn(msgspec.Struct, tag_field="type", tag="enabled"):
    """Think, with at most so many tokens."""

    budget_tokens: int


class ThinkingOff(msgspec.Struct, tag_field="type", tag="disabled"):
    """Do not think."""


class ThinkingAdaptive(msgspec.Struct, tag_field="type", tag="adaptive"):
    """Think as much as it takes."""


class JsonFormat(msgspec.Struct):
    """JSON that a schema describes."""

    type: Literal["json_schema"]  # the tag of a type that is in no union could be left out
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct):
    """How much to think, and what the text must be."""

    effort: str | None = None
    format: JsonFormat | None = None


class CountRequest(msgspec.Struct, kw_only=True):
    """`POST /v1/messages/count_tokens`."""

    messages: list[Message]
    model: str | None = None
    system: str | list[TextBlock | ImageBlock | DocumentBlock] | None = None
    tools: list[Tool] | None = None
    tool_choice: AutoChoice | AnyChoice | NamedChoice | NoChoice | None = None
    thinking: ThinkingOn | ThinkingOff | ThinkingAdaptive | None = None
    output_config: OutputConfig | None = None


class MessagesRequest(CountRequest, kw_only=True):
    """`POST /v1/messages`."""

    max_tokens: int
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None


StopReason: TypeAlias = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class MessageUsage(msgspec.Struct):
    """Tokens of one message: those read from the cache are not among the input's."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    energy_j: float | UnsetType = UNSET


class AnswerMessage(msgspec.Struct, kw_only=True):
    """The answer."""

    id: str
    model: str
    content: list[AnswerBlock]
    usage: MessageUsage
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"


class ErrorBody(msgspec.Struct):
    """What went wrong."""

    type: str
    message: str


class ErrorResponse(msgspec.Struct):
    """An error in Anthropic's form."""

    error: ErrorBody
    type: Literal["error"] = "error"


class TokenCount(msgspec.Struct):
    """The answer to `POST /v1/messages/count_tokens`."""

    input_tokens: int


class StreamEvent(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """An event of a streamed answer; its type says which fields it has."""

    type: Literal[
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "error",
    ]
    message: AnswerMessage | UnsetType = UNSET
    index: int | UnsetType = UNSET
    content_block: AnswerBlock | UnsetType = UNSET
    delta: dict[str, str | None] | UnsetType = UNSET
    usage: MessageUsage | UnsetType = UNSET
    error: ErrorBody | UnsetType = UNSET


def error_of(status: int, message: str) -> ErrorResponse:
    """Return an error with the name that its status has."""
    return ErrorResponse(ErrorBody(_ERROR_TYPES.get(status, "api_error"), message))
