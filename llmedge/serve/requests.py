"""Requests from the wire: decoded, checked, and turned into what an engine runs."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from llmedge.core.errors import NotFoundError, UnsupportedError, UsageError
from llmedge.runtime.generation import GenerationOptions
from llmedge.runtime.sampler import SamplingOptions
from llmedge.serve.engine import ChatPrompt, Generation, TextPrompt
from llmedge.serve.schema import (
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    SamplingFields,
    TextPart,
)

RequestT = TypeVar("RequestT", bound=SamplingFields)

_MAX_STOPS = 16
_MAX_MESSAGES = 4096
_DEFAULTS = SamplingOptions()
_RANGES = {
    "temperature": (0.0, 100.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "top_k": (0, 1 << 30),
    "repeat_penalty": (0.01, 100.0),
    "frequency_penalty": (-2.0, 2.0),
    "presence_penalty": (-2.0, 2.0),
    "seed": (-(1 << 63), (1 << 63) - 1),
}


def decode_request(body: bytes, kind: type[RequestT]) -> tuple[RequestT, list[str]]:
    """Decode a request's body.

    Returns:
        The request, and the names of its fields that are not known and thus ignored.

    Raises:
        UsageError: The body is not JSON, or a field has the wrong type.
    """
    try:
        request = msgspec.json.decode(body, type=kind)
        names = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"the request is not valid: {error}") from None
    known = {field.encode_name for field in msgspec.structs.fields(kind)}
    return request, sorted(name for name in names if name not in known)


def require_model(name: str | None, served: str) -> None:
    """Make sure that a request means the model that is served.

    Raises:
        NotFoundError: It names another one; it is not answered by the wrong model.
    """
    if name and name != served:
        raise NotFoundError(f"the model {name[:80]!r} is not served here; {served!r} is")


def chat_generation(request: ChatRequest) -> Generation:
    """Turn a chat request into a generation.

    Raises:
        UsageError: A value out of its range.
        UnsupportedError: Something that this endpoint cannot do.
    """
    if request.logprobs or request.top_logprobs:
        raise UnsupportedError("logprobs are not supported")
    if request.tools and request.tool_choice != "none":
        raise UnsupportedError("tools are not supported")
    if not _is_plain_text(request.response_format):
        raise UnsupportedError("response_format other than text is not supported")
    if not 1 <= len(request.messages) <= _MAX_MESSAGES:
        raise UsageError(f"messages has {len(request.messages)} items, not 1 to {_MAX_MESSAGES}")
    messages = [{"role": _role(m), "content": _text(m)} for m in request.messages]
    max_tokens = request.max_completion_tokens
    return Generation(
        ChatPrompt(messages),
        _options(request, request.max_tokens if max_tokens is None else max_tokens),
    )


def text_generation(request: CompletionRequest) -> Generation:
    """Turn a completion request into a generation.

    Raises:
        UsageError: A value out of its range.
        UnsupportedError: Something that this endpoint cannot do.
    """
    prompt = request.prompt
    if isinstance(prompt, list):
        if len(prompt) != 1 or not isinstance(prompt[0], str):
            raise UnsupportedError("a prompt that is not one text is not supported")
        prompt = prompt[0]
    if request.logprobs is not None:
        raise UnsupportedError("logprobs are not supported")
    if request.echo or request.suffix or request.best_of not in (None, 1):
        raise UnsupportedError("echo, suffix and best_of are not supported")
    # OpenAI's default of 16 tokens.
    max_tokens = 16 if request.max_tokens is None else request.max_tokens
    return Generation(TextPrompt(prompt), _options(request, max_tokens))


def _options(request: SamplingFields, max_tokens: int | None) -> GenerationOptions:
    if request.n not in (None, 1):
        raise UnsupportedError(f"n = {request.n} is not supported, only 1")
    if request.logit_bias:
        raise UnsupportedError("logit_bias is not supported")
    if max_tokens is not None and max_tokens < 1:
        raise UsageError(f"max_tokens is {max_tokens}, not at least 1")
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    if len(stops) > _MAX_STOPS or not all(stops):
        raise UsageError(f"stop must have at most {_MAX_STOPS} texts, and none of them empty")
    return GenerationOptions(
        max_tokens=max_tokens,
        stop=tuple(stops),
        sampling=SamplingOptions(
            temperature=_within(request, "temperature", _DEFAULTS.temperature),
            top_k=int(_within(request, "top_k", _DEFAULTS.top_k)),
            top_p=_within(request, "top_p", _DEFAULTS.top_p),
            min_p=_within(request, "min_p", _DEFAULTS.min_p),
            repeat_penalty=_within(request, "repeat_penalty", _DEFAULTS.repeat_penalty),
            frequency_penalty=_within(request, "frequency_penalty", 0.0),
            presence_penalty=_within(request, "presence_penalty", 0.0),
            seed=None if request.seed is None else int(_within(request, "seed", 0)),
        ),
    )


def _within(request: SamplingFields, name: str, default: float) -> float:
    value: float | None = getattr(request, name)
    if value is None:
        return default
    low, high = _RANGES[name]
    if not low <= value <= high:
        raise UsageError(f"{name} is {value}, not from {low} to {high}")
    return value


def _role(message: ChatMessage) -> str:
    # Templates know OpenAI's newer word for the system role by its old name only.
    return "system" if message.role == "developer" else message.role


def _text(message: ChatMessage) -> str:
    content = message.content
    if message.tool_calls:
        raise UnsupportedError("tool calls in messages are not supported")
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = [part.text for part in content if isinstance(part, TextPart)]
    if len(parts) != len(content):
        raise UnsupportedError("images and sound in messages are not supported")
    return "".join(parts)


def _is_plain_text(response_format: object) -> bool:
    return response_format is None or response_format == {"type": "text"}
