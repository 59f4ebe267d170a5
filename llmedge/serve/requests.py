"""Requests from the wire: decoded, checked, and turned into what a model is asked."""

from __future__ import annotations

import dataclasses
import math
import re
import secrets
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec

from llmedge.core.errors import UnsupportedError, UsageError
from llmedge.engine.generation import Generation, TextPrompt, TokenPrompt
from llmedge.runtime.lora import MAX_LORAS, MAX_SCALE
from llmedge.runtime.sampler import SamplingOptions
from llmedge.serve import schema
from llmedge.serve.answer import ChatCall, NamedTool, ToolChoice
from llmedge.serve.constraints import request_constraint, require_depth

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from llmedge.engine.engine import ModelInfo

RequestT = TypeVar("RequestT", bound=msgspec.Struct)

MAX_CHOICES = 64
MAX_STOPS = 16
MAX_MESSAGES = 4096
MAX_TOOLS = 128
MAX_LOGPROBS = 20

_MAX_STOP_CHARS = 1024
_MAX_BIASES = 1024
_MAX_TEMPLATE_ARGUMENTS = 64
_TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SAFE_FIELD = re.compile(r"[\w.\[\]-]{1,64}", re.ASCII)
_DEFAULTS = SamplingOptions()

# Fields of requests, with those of SamplingOptions and the values that they may have.
SAMPLING: dict[str, tuple[str, float, float]] = {
    "temperature": ("temperature", 0.0, 100.0),
    "top_k": ("top_k", 0, 1 << 30),
    "top_p": ("top_p", 0.0, 1.0),
    "min_p": ("min_p", 0.0, 1.0),
    "typical_p": ("typical_p", 0.0, 1.0),
    "xtc_probability": ("xtc_probability", 0.0, 1.0),
    "xtc_threshold": ("xtc_threshold", 0.0, 1.0),
    "dry_multiplier": ("dry_multiplier", 0.0, 100.0),
    "dry_base": ("dry_base", 0.0, 100.0),
    "dry_allowed_length": ("dry_allowed_length", 0, 1 << 20),
    "dry_penalty_last_n": ("dry_penalty_last_n", -1, 1 << 20),
    "top_n_sigma": ("top_n_sigma", 0.0, 100.0),
    "repeat_penalty": ("repeat_penalty", 0.01, 100.0),
    "repeat_last_n": ("penalty_last_n", -1, 1 << 20),
    "frequency_penalty": ("frequency_penalty", -2.0, 2.0),
    "presence_penalty": ("presence_penalty", -2.0, 2.0),
    "seed": ("seed", -(1 << 63), (1 << 63) - 1),
}
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")


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


def ignored_header(names: Sequence[str]) -> dict[str, str]:
    """Return the header that names ignored fields; none where there are none."""
    # The names are the client's: only what is safe in a header goes there.
    safe = [name for name in names if _SAFE_FIELD.fullmatch(name)][:32]
    rest = [f"{len(names) - len(safe)} more"] if len(safe) < len(names) else []
    return {"X-Llmedge-Ignored": ", ".join(safe + rest)} if names else {}


def chat_calls(request: schema.ChatRequest) -> list[ChatCall]:
    """Turn a chat request into one call for each answer that it wants.

    Raises:
        UsageError: A value out of its range.
        UnsupportedError: Something that this endpoint cannot do.
    """
    if not 1 <= len(request.messages) <= MAX_MESSAGES:
        raise UsageError(f"messages has {len(request.messages)} items, not 1 to {MAX_MESSAGES}")
    max_tokens = request.max_completion_tokens
    tools = _tools(request.tools or [])
    choice = _tool_choice(request.tool_choice, tools)
    constraint = request_constraint(request, request.response_format)
    if constraint is not None and tools and (choice == "required" or isinstance(choice, NamedTool)):
        raise UsageError("a forced tool_choice and a format of the answer contradict each other")
    call = ChatCall(
        messages=[_message(message) for message in request.messages],
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=request.parallel_tool_calls is not False,
        sampling=sampling_options(request),
        max_tokens=_max_tokens(request.max_tokens if max_tokens is None else max_tokens),
        stop=_stops(request.stop),
        constraint=constraint,
        template_arguments=_template_arguments(request),
        reasoning_budget=_reasoning_budget(request),
        continues=_continues(request),
        n_logprobs=_chat_logprobs(request),
        stop_tokens=tuple(request.stop_token_ids or ()),
        ignore_end=bool(request.ignore_eos),
        adapters=lora_adapters(request),
        caches=request.cache_prompt is not False,
        tells_progress=bool(request.return_progress and request.stream),
        tells_times=bool(request.timings_per_token and request.stream),
    )
    seeds = _seeded(call.sampling, _n(request))
    return [dataclasses.replace(call, sampling=sampling) for sampling in seeds]


def text_generations(request: schema.CompletionRequest) -> list[Generation]:
    """Turn a completion request into one generation for each text that it wants.

    Raises:
        UsageError: A value out of its range.
        UnsupportedError: Something that this endpoint cannot do.
    """
    if request.echo or request.suffix:
        raise UnsupportedError("echo and suffix are not supported")
    if request.best_of not in (None, 1, request.n):
        raise UnsupportedError(f"best_of = {request.best_of} is not supported, only n")
    prompts, n = _prompts(request.prompt), _n(request)
    if len(prompts) * n > MAX_CHOICES:
        raise UsageError(f"prompt and n ask for {len(prompts) * n} texts, not up to {MAX_CHOICES}")
    if request.logprobs is not None and not 0 <= request.logprobs <= MAX_LOGPROBS:
        raise UsageError(f"logprobs is {request.logprobs}, not from 0 to {MAX_LOGPROBS}")
    base = Generation(
        TextPrompt(""),
        # OpenAI's default of 16 tokens.
        max_tokens=_max_tokens(16 if request.max_tokens is None else request.max_tokens),
        stop=_stops(request.stop),
        stop_tokens=tuple(request.stop_token_ids or ()),
        ignore_end=bool(request.ignore_eos),
        n_logprobs=request.logprobs,
        constraint=request_constraint(request),
        adapters=lora_adapters(request),
        caches=request.cache_prompt is not False,
        tells_progress=bool(request.return_progress and request.stream),
        tells_times=bool(request.timings_per_token and request.stream),
    )
    return [
        msgspec.structs.replace(base, prompt=prompt, sampling=sampling)
        for prompt in prompts
        for sampling in _seeded(sampling_options(request), n)
    ]


def sampling_options(request: schema.SamplingFields) -> SamplingOptions:
    """Return how to sample.

    Raises:
        UsageError: A value out of its range.
    """
    chosen: dict[str, Any] = {}
    for name, (option, low, high) in SAMPLING.items():
        value: float | None = getattr(request, name)
        if value is None:
            continue
        if not low <= value <= high:
            raise UsageError(f"{name} is {value}, not from {low} to {high}")
        chosen[option] = value
    breakers = request.dry_sequence_breakers
    if breakers is not None:
        if len(breakers) > 16 or any(not 1 <= len(text) <= 64 for text in breakers):
            raise UsageError("dry_sequence_breakers must be at most 16 texts of 1 to 64 characters")
        chosen["dry_sequence_breakers"] = tuple(breakers)
    chosen["logit_bias"] = _biases(request.logit_bias)
    return dataclasses.replace(_DEFAULTS, **chosen)


def check_tokens(generation: Generation, info: ModelInfo) -> None:
    """Make sure that a request names no token that the model does not have.

    Raises:
        UsageError: It does.
    """
    named: list[tuple[str, Iterable[int]]] = [
        ("logit_bias", (token for token, _ in generation.sampling.logit_bias)),
        ("stop_token_ids", generation.stop_tokens),
    ]
    if isinstance(generation.prompt, TokenPrompt):
        named.append(("prompt", generation.prompt.tokens))
    for name, tokens in named:
        for token in tokens:
            # A vocabulary of 0 is one that the engine does not tell the size of.
            if token < 0 or token >= (info.n_vocab or 1 << 31):
                raise UsageError(f"{name} names token {token}; there are {info.n_vocab} tokens")


def _seeded(sampling: SamplingOptions, n: int) -> list[SamplingOptions]:
    if n == 1:
        return [sampling]
    if sampling.seed is None:
        # One seed for all, which the server may have, would make them all alike.
        return [dataclasses.replace(sampling, seed=secrets.randbits(32)) for _ in range(n)]
    return [dataclasses.replace(sampling, seed=sampling.seed + i) for i in range(n)]


def _n(request: schema.SamplingFields) -> int:
    n = 1 if request.n is None else request.n
    if not 1 <= n <= MAX_CHOICES:
        raise UsageError(f"n is {n}, not from 1 to {MAX_CHOICES}")
    return n


def _max_tokens(value: int | None) -> int | None:
    if value is not None and not 1 <= value < 1 << 31:
        raise UsageError(f"max_tokens is {value}, not at least 1")
    return value


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if len(stops) > MAX_STOPS or any(not 1 <= len(text) <= _MAX_STOP_CHARS for text in stops):
        raise UsageError(
            f"stop must have at most {MAX_STOPS} texts of 1 to {_MAX_STOP_CHARS} characters"
        )
    return tuple(stops)


def _biases(
    given: dict[str, float] | list[tuple[int | str, float | bool]] | None,
) -> tuple[tuple[int, float], ...]:
    if not given:
        return ()
    if len(given) > _MAX_BIASES:
        raise UsageError(f"logit_bias names {len(given)} tokens, not up to {_MAX_BIASES}")
    pairs: Iterable[tuple[str | int, float | bool]] = (
        given.items() if isinstance(given, dict) else given
    )
    biases: list[tuple[int, float]] = []
    for name, value in pairs:
        if isinstance(name, str) and not (name.isascii() and name.isdecimal() and len(name) < 10):
            raise UsageError(f"logit_bias names {name[:80]!r}, which is no token's number")
        # llama-server's form: [token, false] never lets the token appear.
        bias = -math.inf if value is False else float(value)
        if not (bias == -math.inf or -1000.0 <= bias <= 1000.0):
            raise UsageError(f"logit_bias of token {name} is {bias}, not from -1000 to 1000")
        biases.append((int(name), bias))
    return tuple(biases)


def lora_adapters(request: schema.SamplingFields) -> tuple[tuple[str | int, float], ...]:
    """Return the LoRA adapters that are wanted, by name or number, with their scales.

    Raises:
        UsageError: Too many, one that is named twice, or a scale that cannot be meant.
    """
    adapters: list[tuple[str | int, float]] = []
    for adapter in request.lora or ():
        key = adapter.name if adapter.id is None else adapter.id
        if key is None or (adapter.id is not None and adapter.name is not None):
            raise UsageError("lora must name each adapter by its id or its name")
        adapters.append((key, adapter.scale))
    if len(adapters) > MAX_LORAS or any(abs(scale) > MAX_SCALE for _, scale in adapters):
        raise UsageError(
            f"lora must have at most {MAX_LORAS} adapters with scales up to {MAX_SCALE:g}"
        )
    return tuple(adapters)


def _tools(given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if len(given) > MAX_TOOLS:
        raise UsageError(f"tools has {len(given)} items, not up to {MAX_TOOLS}")
    for index, tool in enumerate(given):
        function = tool.get("function")
        name = cast("dict[str, object]", function).get("name") if type(function) is dict else None
        if tool.get("type") != "function" or not isinstance(name, str):
            raise UsageError(f'tools[{index}] is not {{"type": "function", "function": {{…}}}}')
        if not _TOOL_NAME.fullmatch(name):
            raise UsageError(f"tools[{index}] has the name {name[:80]!r}")
        require_depth(tool, f"tools[{index}]")
    return given


def _tool_choice(given: str | dict[str, Any] | None, tools: list[dict[str, Any]]) -> ToolChoice:
    if given is None or given == "auto":
        return "auto"
    if given == "none":
        return "none"
    if given == "required":
        if not tools:
            raise UsageError("tool_choice is 'required', and there are no tools")
        return "required"
    function: Any = given.get("function") if isinstance(given, dict) else None
    name: Any = cast("dict[str, object]", function).get("name") if type(function) is dict else None
    if not isinstance(name, str) or name not in {tool["function"]["name"] for tool in tools}:
        raise UsageError(f"tool_choice {str(given)[:120]!r} names none of the tools")
    return NamedTool(name)


def _template_arguments(request: schema.ChatRequest) -> dict[str, Any]:
    arguments = dict(request.chat_template_kwargs or {})
    if len(arguments) > _MAX_TEMPLATE_ARGUMENTS:
        raise UsageError(f"chat_template_kwargs has more than {_MAX_TEMPLATE_ARGUMENTS} items")
    require_depth(arguments, "chat_template_kwargs")
    for reserved in ("messages", "tools", "add_generation_prompt"):
        if reserved in arguments:
            raise UsageError(f"chat_template_kwargs must not set {reserved}")
    effort = request.reasoning_effort
    if effort is None:
        return arguments
    if effort not in _EFFORTS:
        raise UsageError(f"reasoning_effort is {effort[:40]!r}, not one of {', '.join(_EFFORTS)}")
    return {"reasoning_effort": effort, "enable_thinking": effort != "none", **arguments}


def _reasoning_budget(request: schema.ChatRequest) -> int | None:
    budget = request.reasoning_budget
    if budget is None and request.reasoning_effort == "none":
        thinks = (request.chat_template_kwargs or {}).get("enable_thinking")
        return None if thinks else 0
    if budget is not None and not -1 <= budget < 1 << 31:
        raise UsageError(f"reasoning_budget is {budget}, not at least -1")
    return budget


def _chat_logprobs(request: schema.ChatRequest) -> int | None:
    top = request.top_logprobs
    if top is not None and not 0 <= top <= MAX_LOGPROBS:
        raise UsageError(f"top_logprobs is {top}, not from 0 to {MAX_LOGPROBS}")
    if top and not request.logprobs:
        raise UsageError("top_logprobs needs logprobs: true")
    return top or 0 if request.logprobs else None


def _continues(request: schema.ChatRequest) -> bool:
    """Return whether the last message is to be continued, as llama-server does unasked."""
    last = request.messages[-1]
    can = last.role == "assistant" and bool(last.content) and not last.tool_calls
    if request.continue_final_message and not can:
        raise UsageError("continue_final_message needs a last message of the assistant with text")
    if request.continue_final_message and request.add_generation_prompt:
        raise UsageError("continue_final_message and add_generation_prompt contradict each other")
    if request.add_generation_prompt is False and not request.continue_final_message:
        raise UnsupportedError("add_generation_prompt = false is not supported")
    if can and [message.role for message in request.messages[-2:]] == ["assistant"] * 2:
        raise UsageError("there are two messages of the assistant at the end")
    return can and request.continue_final_message is not False


def _prompts(given: str | list[str | int | list[int]]) -> list[TextPrompt | TokenPrompt]:
    if isinstance(given, str):
        return [TextPrompt(given)]
    if given and all(isinstance(item, int) for item in given):
        return [TokenPrompt(cast("list[int]", given))]
    if not 1 <= len(given) <= MAX_CHOICES or any(isinstance(item, int) for item in given):
        raise UsageError(f"prompt must be a text, tokens, or a list of 1 to {MAX_CHOICES} of them")
    return [
        TextPrompt(item) if isinstance(item, str) else TokenPrompt(cast("list[int]", item))
        for item in given
    ]


def _message(message: schema.ChatMessage) -> dict[str, Any]:
    plain: dict[str, Any] = {"role": message.role, "content": _text(message)}
    optional: Mapping[str, Any] = {
        "name": message.name,
        "tool_call_id": message.tool_call_id,
        "reasoning_content": message.reasoning_content,
        "tool_calls": msgspec.to_builtins(message.tool_calls) if message.tool_calls else None,
    }
    return {**plain, **{name: value for name, value in optional.items() if value is not None}}


def _text(message: schema.ChatMessage) -> str:
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    texts: list[str] = []
    for part in message.content:
        if isinstance(part, schema.TextPart):
            texts.append(part.text)
        elif isinstance(part, schema.RefusalPart):
            texts.append(part.refusal)
        else:
            raise UnsupportedError("images, sound and files in messages are not supported")
    return "".join(texts)
