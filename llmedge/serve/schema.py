"""The wire types of the endpoint, as OpenAI's API defines them.

Source: OpenAI API reference, Chat Completions and Completions. Fields that this endpoint does not
know are reported as ignored; fields that it knows and cannot do are refused by `requests.py`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

FinishReason = Literal["stop", "length"]


class TextPart(msgspec.Struct, tag_field="type", tag="text"):
    """A part of a message's content that is text."""

    text: str


class ImagePart(msgspec.Struct, tag_field="type", tag="image_url"):
    """A part of a message's content that is an image; refused."""

    image_url: Any


class AudioPart(msgspec.Struct, tag_field="type", tag="input_audio"):
    """A part of a message's content that is sound; refused."""

    input_audio: Any


class ChatMessage(msgspec.Struct):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart | ImagePart | AudioPart] | None = None
    name: str | None = None
    tool_calls: Any = None
    tool_call_id: str | None = None


class StreamOptions(msgspec.Struct):
    """Options of a streamed answer."""

    include_usage: bool | None = None


class SamplingFields(msgspec.Struct, kw_only=True):
    """What both kinds of request say about sampling; `None` leaves it to the server."""

    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    user: str | None = None
    logit_bias: Any = None


class ChatRequest(SamplingFields, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: list[ChatMessage]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: Any = None
    tools: Any = None
    tool_choice: Any = None


class CompletionRequest(SamplingFields, kw_only=True):
    """`POST /v1/completions`."""

    prompt: str | list[Any]
    logprobs: int | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None


class PromptDetails(msgspec.Struct):
    """Where the prompt's tokens came from."""

    cached_tokens: int


class Usage(msgspec.Struct):
    """Tokens of one request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class Timings(msgspec.Struct):
    """Speed of one request, with llama-server's field names."""

    prompt_n: int
    prompt_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_second: float


class AnswerMessage(msgspec.Struct):
    """The answer."""

    content: str
    role: Literal["assistant"] = "assistant"


class ChatChoice(msgspec.Struct):
    """The only choice of a chat completion."""

    message: AnswerMessage
    finish_reason: FinishReason
    index: int = 0
    logprobs: None = None


class ChatCompletion(msgspec.Struct, kw_only=True):
    """The answer to a chat request."""

    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    timings: Timings
    system_fingerprint: str
    object: Literal["chat.completion"] = "chat.completion"


class ChunkDelta(msgspec.Struct, omit_defaults=True):
    """What a chunk adds."""

    role: str | None = None
    content: str | None = None


class ChunkChoice(msgspec.Struct):
    """The only choice of a chunk."""

    delta: ChunkDelta
    finish_reason: FinishReason | None = None
    index: int = 0
    logprobs: None = None


class ChatChunk(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A part of a streamed answer to a chat request."""

    id: str
    created: int
    model: str
    choices: list[ChunkChoice]
    system_fingerprint: str
    object: str
    usage: Usage | None = None
    timings: Timings | None = None


class TextChoice(msgspec.Struct):
    """The only choice of a text completion."""

    text: str
    finish_reason: FinishReason | None = None
    index: int = 0
    logprobs: None = None


class TextCompletion(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The answer to a completion request, or a part of it."""

    id: str
    created: int
    model: str
    choices: list[TextChoice]
    system_fingerprint: str
    object: str
    usage: Usage | None = None
    timings: Timings | None = None


class ModelMeta(msgspec.Struct):
    """What the model is, beyond OpenAI's fields."""

    description: str
    n_ctx: int
    n_ctx_train: int
    n_params: int
    size_bytes: int


class ModelCard(msgspec.Struct, kw_only=True):
    """A model in the list."""

    id: str
    created: int
    meta: ModelMeta
    object: Literal["model"] = "model"
    owned_by: str = "llmedge"


class ModelList(msgspec.Struct):
    """`GET /v1/models`."""

    data: list[ModelCard]
    object: Literal["list"] = "list"


class ErrorBody(msgspec.Struct):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(msgspec.Struct):
    """An error in OpenAI's shape."""

    error: ErrorBody
