"""The wire types of Ollama's API.

Source: Ollama's API documentation; the types of the ollama package 0.6.3. `keep_alive` is not
here: how long a model stays loaded is the server's to say, so it is reported as ignored.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType


class CalledFunction(msgspec.Struct):
    """A function with the arguments of a call."""

    name: str
    arguments: dict[str, Any] = {}


class ToolCall(msgspec.Struct):
    """A call that the model made."""

    function: CalledFunction
    id: str | None = None


class Message(msgspec.Struct):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: list[Any] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class ToolFunction(msgspec.Struct, omit_defaults=True):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(msgspec.Struct):
    """A tool that the model may call."""

    function: ToolFunction
    type: Literal["function"] = "function"


class Options(msgspec.Struct):
    """The options that mean something here; the others are about how a model is loaded."""

    num_ctx: int | None = None
    num_predict: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None


class AnswerRequest(msgspec.Struct, kw_only=True):
    """What both kinds of request say."""

    model: str
    stream: bool | None = None
    format: str | dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class ChatRequest(AnswerRequest, kw_only=True):
    """`POST /api/chat`."""

    messages: list[Message] | None = None
    tools: list[Tool] | None = None


class GenerateRequest(AnswerRequest, kw_only=True):
    """`POST /api/generate`."""

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None
    suffix: str | None = None
    template: str | None = None
    context: list[int] | None = None
    images: list[Any] | None = None


class EmbedRequest(msgspec.Struct, kw_only=True):
    """`POST /api/embed`; a text that is too long is refused, never cut."""

    model: str
    input: str | list[str]
    dimensions: int | None = None


class EmbeddingsRequest(msgspec.Struct, kw_only=True):
    """`POST /api/embeddings`, which `/api/embed` replaced."""

    model: str
    prompt: str


class ShowRequest(msgspec.Struct, kw_only=True):
    """`POST /api/show`; `name` is the older word."""

    model: str | None = None
    name: str | None = None


class Details(msgspec.Struct):
    """What a model is."""

    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str
    format: Literal["gguf"] = "gguf"
    parent_model: str = ""


class ModelEntry(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A model in a list; the last three are of those that are loaded."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details
    context_length: int | None = None
    size_vram: int | None = None
    expires_at: str | None = None


class ModelListing(msgspec.Struct):
    """The answer to `GET /api/tags` and `GET /api/ps`."""

    models: list[ModelEntry]


class ModelFacts(msgspec.Struct, kw_only=True):
    """The answer to `POST /api/show`."""

    template: str
    modified_at: str
    details: Details
    model_info: dict[str, str | int]
    capabilities: list[str]
    modelfile: str = ""
    parameters: str = ""


class Version(msgspec.Struct):
    """The answer to `GET /api/version`."""

    version: str


class MadeFunction(msgspec.Struct):
    """A function with the arguments that the model gives it."""

    index: int
    name: str
    arguments: dict[str, Any]


class MadeCall(msgspec.Struct):
    """A call in an answer."""

    id: str
    function: MadeFunction


class AnswerMessage(msgspec.Struct, forbid_unknown_fields=True):
    """The answer to a chat, or a part of it."""

    role: Literal["assistant"]
    content: str
    thinking: str | UnsetType = UNSET
    tool_calls: list[MadeCall] | UnsetType = UNSET


class AnswerFields(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What both kinds of answers have; counts and times (in ns) are in the last part."""

    model: str
    created_at: str
    done: bool
    done_reason: Literal["stop", "length", "load"] | UnsetType = UNSET
    logprobs: list[dict[str, Any]] | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET


class ChatAnswer(AnswerFields, kw_only=True, forbid_unknown_fields=True):
    """The answer to `POST /api/chat`, or a part of it."""

    message: AnswerMessage


class TextAnswer(AnswerFields, kw_only=True, forbid_unknown_fields=True):
    """The answer to `POST /api/generate`, or a part of it."""

    response: str
    thinking: str | UnsetType = UNSET


class EmbedAnswer(msgspec.Struct, kw_only=True):
    """The answer to `POST /api/embed`."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class EmbeddingsAnswer(msgspec.Struct):
    """The answer to `POST /api/embeddings`."""

    embedding: list[float]


class ErrorResponse(msgspec.Struct):
    """An error in Ollama's form; also the last line of a stream that breaks off."""

    error: str
