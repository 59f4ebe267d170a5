"""What clients send and errors look like, as OpenAI's API defines it.

Source: OpenAI API reference, Chat Completions and Completions; names beyond it are llama-server's
and vLLM's. Fields that are not known are reported as ignored; fields that are known and cannot be
done are refused by `requests.py`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType


class TextPart(msgspec.Struct, tag_field="type", tag="text"):
    """A part of a message's content that is text."""

    text: str


class RefusalPart(msgspec.Struct, tag_field="type", tag="refusal"):
    """A part of an earlier answer that is a refusal; text as any other."""

    refusal: str


class ImagePart(msgspec.Struct, tag_field="type", tag="image_url"):
    """A part of a message's content that is an image; refused."""

    image_url: Any


class AudioPart(msgspec.Struct, tag_field="type", tag="input_audio"):
    """A part of a message's content that is sound; refused."""

    input_audio: Any


class FilePart(msgspec.Struct, tag_field="type", tag="file"):
    """A part of a message's content that is a file; refused."""

    file: Any


class CalledFunction(msgspec.Struct):
    """What was called; the arguments are JSON text."""

    name: str
    arguments: str = "{}"


class ToolCall(msgspec.Struct):
    """A call in an earlier answer."""

    function: CalledFunction
    id: str = ""
    type: Literal["function"] = "function"


class ChatMessage(msgspec.Struct):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart | RefusalPart | ImagePart | AudioPart | FilePart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class StreamOptions(msgspec.Struct):
    """Options of a streamed answer."""

    include_usage: bool | None = None


class PlainFormat(msgspec.Struct, tag_field="type", tag="text"):
    """Any text."""


class JsonObjectFormat(msgspec.Struct, tag_field="type", tag="json_object"):
    """Any JSON object, or what a schema says."""

    schema: dict[str, Any] | None = None


class NamedSchema(msgspec.Struct):
    """A JSON schema with a name."""

    schema: dict[str, Any]
    name: str = ""
    strict: bool | None = None
    description: str | None = None


class JsonSchemaFormat(msgspec.Struct, tag_field="type", tag="json_schema"):
    """JSON by a schema."""

    json_schema: NamedSchema


class Adapter(msgspec.Struct):
    """A LoRA adapter that was loaded with the model, by its number or its name."""

    id: int | None = None
    name: str | None = None
    scale: float = 1.0


class SamplingFields(msgspec.Struct, kw_only=True):
    """What both kinds of request say; `None` leaves it to the server."""

    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    dry_sequence_breakers: list[str] | None = None
    top_n_sigma: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    logit_bias: dict[str, float] | list[tuple[int | str, float | bool]] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    user: str | None = None
    grammar: str | None = None
    regex: str | None = None
    json_schema: dict[str, Any] | None = None
    lora: list[Adapter] | None = None
    cache_prompt: bool | None = None
    timings_per_token: bool | None = None
    return_progress: bool | None = None


class ChatRequest(SamplingFields, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: list[ChatMessage]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: PlainFormat | JsonObjectFormat | JsonSchemaFormat | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    reasoning_budget: int | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    verbose: bool | None = None


class CompletionRequest(SamplingFields, kw_only=True):
    """`POST /v1/completions`."""

    prompt: str | list[str | int | list[int]]
    logprobs: int | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None


class ErrorBody(msgspec.Struct):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None
    n_prompt_tokens: int | UnsetType = UNSET
    n_ctx: int | UnsetType = UNSET


class ErrorResponse(msgspec.Struct):
    """An error in OpenAI's shape."""

    error: ErrorBody
