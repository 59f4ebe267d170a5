"""What every dialect says of a chat in its own words: sampling, stops, schemas, tools."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import msgspec

from llmedge.chat_format.detect import detect
from llmedge.core.errors import UnsupportedError, UsageError
from llmedge.engine.generation import Constraint
from llmedge.runtime.sampler import SamplingOptions
from llmedge.serve.exchange import require_small
from llmedge.serve.requests import MAX_LOGPROBS, MAX_MESSAGES, MAX_STOPS, MAX_TOOLS, SAMPLING

if TYPE_CHECKING:
    from llmedge.engine.generation import TokenChance, TokenChances

# What templates of reasoning models know: three levels, or on and off under two names.
_EFFORTS = {
    "none": "low",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}


def sampling_options(**given: float | None) -> SamplingOptions:
    """Return how to choose tokens; `None` leaves it to the server.

    Raises:
        UsageError: A value out of its range.
    """
    chosen: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        option, low, high = SAMPLING[name]
        if not low <= value <= high:
            raise UsageError(f"{name} is {value}, not from {low} to {high}")
        chosen[option] = value
    return dataclasses.replace(SamplingOptions(), **chosen)


def require_messages(messages: list[Any]) -> None:
    """Refuse a conversation that is empty or endless."""
    if not 1 <= len(messages) <= MAX_MESSAGES:
        raise UsageError(f"messages has {len(messages)} items, not 1 to {MAX_MESSAGES}")


def require_count(value: int | None, name: str) -> int | None:
    """Return a number of tokens, which is at least one."""
    if value is not None and not 1 <= value < 1 << 31:
        raise UsageError(f"{name} is {value}, not at least 1")
    return value


def require_logprobs(value: int | None) -> int | None:
    """Return how many likeliest tokens to report."""
    if value is not None and not 0 <= value <= MAX_LOGPROBS:
        raise UsageError(f"top_logprobs is {value}, not from 0 to {MAX_LOGPROBS}")
    return value


def stop_texts(stop: str | list[str] | None, name: str = "stop") -> tuple[str, ...]:
    """Return the texts that end an answer."""
    stops = [stop] if isinstance(stop, str) else stop or []
    if len(stops) > MAX_STOPS or not all(stops):
        raise UsageError(f"{name} must have at most {MAX_STOPS} texts, and none of them empty")
    return tuple(stops)


def schema_constraint(schema: dict[str, Any], where: str) -> Constraint:
    """Return the constraint of a JSON schema; the engine says whether it can be held."""
    require_small(schema, where)
    return Constraint("json_schema", msgspec.json.encode(schema).decode())


def function_tools(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return tools in OpenAI's form from functions: `name`, `description`, `parameters`."""
    if len(tools) > MAX_TOOLS:
        raise UsageError(f"tools has {len(tools)} items, not at most {MAX_TOOLS}")
    require_small(tools, "tools")
    return [{"type": "function", "function": tool} for tool in tools]


def require_named_tool(name: str, tools: list[dict[str, Any]]) -> None:
    """Refuse a forced tool that is not among those offered."""
    if not any(tool["function"].get("name") == name for tool in tools):
        raise UsageError(f"tool_choice names {name[:80]!r}, which is not among the tools")


def thinking_arguments(*, thinks: bool | None, effort: str | None = None) -> dict[str, Any]:
    """Return what switches reasoning on, off or to a level, under every name that templates know.

    Args:
        thinks: Whether to reason; `None` leaves it to the model.
        effort: `none`, `minimal`, `low`, `medium`, `high`, `xhigh` or `max`.

    Raises:
        UsageError: No such effort.
    """
    if effort is not None and effort not in _EFFORTS:
        raise UsageError(f"the effort {effort[:80]!r} is none of {', '.join(_EFFORTS)}")
    if effort in ("none", "minimal"):
        thinks = False
    elif effort is not None and thinks is None:
        thinks = True
    arguments: dict[str, Any] = {}
    if thinks is not None:
        arguments |= {"enable_thinking": thinks, "thinking": thinks}
    if effort is not None:
        arguments["reasoning_effort"] = _EFFORTS[effort]
    return arguments


def is_effort_ignored(template: str, effort: str | None) -> bool:
    """Tell whether an effort to reason changes nothing with this chat template.

    None at all is kept to by the engine, too, where reasoning has marks.
    """
    if effort is None or "reasoning_effort" in template or "enable_thinking" in template:
        return False
    return effort != "none" or detect(template).reasoning is None


def refuse_media(kind: str) -> UnsupportedError:
    """Return the error for an image, a sound or a file in a message."""
    return UnsupportedError(f"{kind} in messages is not supported, only text")


def logprob_entries(
    chances: tuple[TokenChances, ...] | list[TokenChances], *, with_top: bool = True
) -> list[dict[str, Any]]:
    """Return log probabilities as OpenAI and Ollama write them."""
    return [
        _entry(step.chosen)
        | ({"top_logprobs": [_entry(chance) for chance in step.top]} if with_top else {})
        for step in chances
    ]


def _entry(chance: TokenChance) -> dict[str, Any]:
    token = chance.piece.decode(errors="replace")
    return {"token": token, "logprob": chance.logprob, "bytes": list(chance.piece)}


def call_object(arguments: str) -> dict[str, Any] | None:
    """Return a call's arguments as an object; `None` where they were cut off."""
    try:
        return msgspec.json.decode(arguments or "{}", type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):
        return None
