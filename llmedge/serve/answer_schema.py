"""What clients get: chat completions, text completions and models, as OpenAI's API defines them.

Source: OpenAI API reference; `timings` has llama-server's field names.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from llmedge.serve.schema import ToolCall  # noqa: TC001 - msgspec reads annotations at run time

FinishReason = Literal["stop", "length", "tool_calls"]


class PromptDetails(msgspec.Struct):
    """Where the prompt's tokens came from."""

    cached_tokens: int


class Usage(msgspec.Struct):
    """Tokens of one request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    energy_j: float | UnsetType = UNSET


class Timings(msgspec.Struct):
    """Speed of one request."""

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_second: float
    draft_n: int | UnsetType = UNSET
    draft_n_accepted: int | UnsetType = UNSET


class LikelyToken(msgspec.Struct):
    """A token that could have been chosen."""

    token: str
    bytes: list[int]
    logprob: float


class ChosenToken(msgspec.Struct):
    """A token of the answer, and the likeliest ones in its place."""

    token: str
    bytes: list[int]
    logprob: float
    top_logprobs: list[LikelyToken]


class ChatLogprobs(msgspec.Struct):
    """Log probabilities of an answer's tokens."""

    content: list[ChosenToken]
    refusal: None = None


class TextLogprobs(msgspec.Struct):
    """Log probabilities in the older form: parallel lists."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class AnswerMessage(msgspec.Struct):
    """The answer."""

    content: str | None
    role: Literal["assistant"] = "assistant"
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChatChoice(msgspec.Struct):
    """One of the answers that were asked for."""

    index: int
    message: AnswerMessage
    finish_reason: FinishReason
    logprobs: ChatLogprobs | None = None


class Verbose(msgspec.Struct):
    """What the model was really asked."""

    prompt: str
    generation_settings: dict[str, Any]


class ChatCompletion(msgspec.Struct, kw_only=True):
    """The answer to a chat request."""

    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    timings: Timings | UnsetType = UNSET
    system_fingerprint: str
    object: Literal["chat.completion"] = "chat.completion"
    verbose: Verbose | UnsetType = msgspec.field(default=UNSET, name="__verbose")


class FunctionDelta(msgspec.Struct, omit_defaults=True):
    """What a chunk adds to a call."""

    name: str | None = None
    arguments: str | None = None


class CallDelta(msgspec.Struct, omit_defaults=True):
    """A call that begins or goes on."""

    index: int
    function: FunctionDelta
    id: str | None = None
    type: str | None = None


class ChunkDelta(msgspec.Struct, omit_defaults=True):
    """What a chunk adds."""

    role: str | None = None
    content: str | UnsetType = UNSET
    reasoning_content: str | None = None
    tool_calls: list[CallDelta] | None = None


class PromptProgress(msgspec.Struct):
    """How far a prompt is, in tokens."""

    total: int
    cache: int
    processed: int
    time_ms: float


class ChunkChoice(msgspec.Struct):
    """What a chunk adds to one of the answers."""

    index: int
    delta: ChunkDelta
    finish_reason: FinishReason | None = None
    logprobs: ChatLogprobs | None = None


class ChatChunk(msgspec.Struct, kw_only=True):
    """A part of a streamed answer to a chat request."""

    id: str
    created: int
    model: str
    choices: list[ChunkChoice]
    system_fingerprint: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    usage: Usage | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET
    prompt_progress: PromptProgress | UnsetType = UNSET


class TextChoice(msgspec.Struct):
    """One of the texts that were asked for, or a part of it."""

    index: int
    text: str
    finish_reason: FinishReason | None = None
    logprobs: TextLogprobs | None = None


class TextCompletion(msgspec.Struct, kw_only=True):
    """The answer to a completion request, or a part of it."""

    id: str
    created: int
    model: str
    choices: list[TextChoice]
    system_fingerprint: str
    object: Literal["text_completion"] = "text_completion"
    usage: Usage | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET
    prompt_progress: PromptProgress | UnsetType = UNSET


class ModelMeta(msgspec.Struct):
    """What the model is, beyond OpenAI's fields; much of it is not known before it is loaded."""

    state: str
    description: str
    architecture: str
    quant: str
    languages: list[str]
    n_ctx: int
    n_ctx_train: int
    n_vocab: int
    n_params: int
    size_bytes: int
    n_slots: int


class ModelCard(msgspec.Struct, kw_only=True):
    """A model in the list."""

    id: str
    created: int
    meta: ModelMeta
    aliases: list[str]
    object: Literal["model"] = "model"
    owned_by: str = "llmedge"


class ModelList(msgspec.Struct):
    """`GET /v1/models`."""

    data: list[ModelCard]
    object: Literal["list"] = "list"


class Health(msgspec.Struct):
    """`GET /health`."""

    status: Literal["ok", "error"]
    lowered_for: list[Literal["memory", "heat"]] | UnsetType = UNSET
