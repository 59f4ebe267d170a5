"""The wire types of `/v1/responses`.

Source: OpenAI API reference, Responses; the event types of the openai package 3.54.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from llmedge.serve.answer_schema import PromptProgress, Timings  # noqa: TC001 - msgspec reads it


class ResponsesRequest(msgspec.Struct, kw_only=True):
    """`POST /v1/responses`, with the sampling fields that llmedge knows beyond OpenAI's."""

    input: str | list[dict[str, Any]]
    model: str | None = None
    instructions: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    max_output_tokens: int | None = None
    stream: bool | None = None
    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    metadata: dict[str, str] | None = None
    include: list[str] | None = None
    top_logprobs: int | None = None
    truncation: Literal["auto", "disabled"] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    timings_per_token: bool | None = None
    return_progress: bool | None = None


class ReasoningOptions(msgspec.Struct):
    """How much to reason; `none` to `max`."""

    effort: str | None = None


class PlainFormat(msgspec.Struct, tag_field="type", tag="text"):
    """Free text."""


class ObjectFormat(msgspec.Struct, tag_field="type", tag="json_object"):
    """Any JSON object."""


class SchemaFormat(msgspec.Struct, tag_field="type", tag="json_schema"):
    """JSON that a schema describes."""

    name: str
    schema: dict[str, Any]


class TextOptions(msgspec.Struct):
    """What the text must be."""

    format: PlainFormat | ObjectFormat | SchemaFormat | None = None


class InputPart(msgspec.Struct):
    """A part of a message: `input_text`, `output_text`, `refusal`; all else is refused."""

    type: str
    text: str = ""
    refusal: str = ""


class MessageItem(msgspec.Struct):
    """A message of the conversation."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[InputPart]


class CallItem(msgspec.Struct):
    """A call that the model made."""

    call_id: str
    name: str
    arguments: str


class CallOutputItem(msgspec.Struct):
    """What came of a call."""

    call_id: str
    output: str | list[InputPart]


class ReasoningItem(msgspec.Struct):
    """What the model thought; not given to it again."""


InputItem: TypeAlias = MessageItem | CallItem | CallOutputItem | ReasoningItem


class FunctionTool(msgspec.Struct, omit_defaults=True):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedChoice(msgspec.Struct, tag_field="type", tag="function"):
    """The one function that must be called."""

    name: str


class OutputText(msgspec.Struct, tag_field="type", tag="output_text"):
    """The text of an answer."""

    text: str = ""
    annotations: list[Any] = []
    logprobs: list[dict[str, Any]] = []


class ReasoningText(msgspec.Struct, tag_field="type", tag="reasoning_text"):
    """The text of a reasoning."""

    text: str = ""


ItemStatus: TypeAlias = Literal["in_progress", "completed", "incomplete"]


class OutputMessage(msgspec.Struct, tag_field="type", tag="message"):
    """A message that is being generated."""

    id: str
    status: ItemStatus = "in_progress"
    role: Literal["assistant"] = "assistant"
    content: list[OutputText] = []


class OutputReasoning(msgspec.Struct, tag_field="type", tag="reasoning"):
    """A reasoning that is being generated."""

    id: str
    status: ItemStatus = "in_progress"
    summary: list[Any] = []
    content: list[ReasoningText] = []


class OutputCall(msgspec.Struct, tag_field="type", tag="function_call"):
    """A call that is being generated."""

    id: str
    call_id: str
    name: str
    arguments: str = ""
    status: ItemStatus = "in_progress"


OutputItem: TypeAlias = OutputMessage | OutputReasoning | OutputCall


class InputDetails(msgspec.Struct):
    """Where the prompt's tokens came from."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(msgspec.Struct):
    """What the generated tokens were; reasoning is not counted apart."""

    reasoning_tokens: int = 0


class ResponsesUsage(msgspec.Struct):
    """Tokens of one response."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int
    energy_j: float | UnsetType = UNSET


class FailureBody(msgspec.Struct):
    """Why a response failed."""

    code: str
    message: str


class IncompleteDetails(msgspec.Struct):
    """Why a response is not complete."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponseObject(msgspec.Struct, kw_only=True):
    """A response; everything that the request left open says what was used."""

    id: str
    created_at: int
    model: str
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    reasoning: dict[str, Any]
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    object: Literal["response"] = "response"
    status: Literal["in_progress", "completed", "incomplete", "failed"] = "in_progress"
    output: list[OutputItem] = []
    usage: ResponsesUsage | None = None
    error: FailureBody | None = None
    incomplete_details: IncompleteDetails | None = None
    completed_at: int | None = None
    background: bool = False
    store: bool = False
    truncation: Literal["disabled"] = "disabled"
    service_tier: Literal["default"] = "default"
    previous_response_id: None = None
    max_tool_calls: None = None
    user: None = None
    safety_identifier: None = None
    prompt_cache_key: None = None


class InputTokens(msgspec.Struct):
    """The answer to `POST /v1/responses/input_tokens`."""

    input_tokens: int
    object: Literal["response.input_tokens"] = "response.input_tokens"


class ResponseEvent(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """An event of a streamed response; its type says which fields it has."""

    type: Literal[
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    sequence_number: int
    response: ResponseObject | UnsetType = UNSET
    output_index: int | UnsetType = UNSET
    item: OutputItem | UnsetType = UNSET
    item_id: str | UnsetType = UNSET
    content_index: int | UnsetType = UNSET
    part: OutputText | ReasoningText | UnsetType = UNSET
    delta: str | UnsetType = UNSET
    text: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET
    logprobs: list[dict[str, Any]] | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET
    prompt_progress: PromptProgress | UnsetType = UNSET
