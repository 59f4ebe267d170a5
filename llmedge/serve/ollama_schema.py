"""The wire types of Ollama's API.

Source: Ollama's API documentation; the types of the ollama package 0.6.3. `keep_alive` is not
here: how long a model stays loaded is the server's to say, so it is reported as ignored.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec


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
