"""Ollama's requests as chat calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from llmedge.core.errors import UnsupportedError, UsageError
from llmedge.engine.generation import Constraint, Generation, TextPrompt
from llmedge.serve.answer import ChatCall
from llmedge.serve.call_fields import (
    function_tools,
    refuse_media,
    require_count,
    require_logprobs,
    require_messages,
    require_small,
    sampling_options,
    schema_constraint,
    stop_texts,
    thinking_arguments,
)

if TYPE_CHECKING:
    from llmedge.runtime.sampler import SamplingOptions
    from llmedge.serve import ollama_schema as schema


def chat_call(wanted: schema.ChatRequest, options: schema.Options) -> ChatCall:
    """Turn a chat request into a chat call.

    Raises:
        UsageError: A value that cannot be meant.
        UnsupportedError: Something that this endpoint cannot do.
    """
    given = wanted.messages or []
    require_messages(given)
    messages = _messages(given)
    last = messages[-1]
    tools = [msgspec.to_builtins(tool.function) for tool in wanted.tools or []]
    continues = last["role"] == "assistant" and "tool_calls" not in last
    return _call(wanted, options, messages, tools=tools, continues=continues)


def text_call(wanted: schema.GenerateRequest, options: schema.Options) -> ChatCall:
    """Turn a generate request into a chat call of one question; raises as `chat_call` does."""
    messages = [{"role": "system", "content": wanted.system}] if wanted.system else []
    messages.append({"role": "user", "content": wanted.prompt or ""})
    return _call(wanted, options, messages, tools=[], continues=False)


def raw_generation(prompt: str, call: ChatCall) -> Generation:
    """Return the generation that continues a text as it is, with the settings of a call."""
    return Generation(
        TextPrompt(prompt),
        max_tokens=call.max_tokens,
        stop=call.stop,
        sampling=call.sampling,
        constraint=call.constraint,
        n_logprobs=call.n_logprobs,
    )


def require_text_only(wanted: schema.GenerateRequest) -> None:
    """Refuse what a generate request can say and nothing here can do.

    Raises:
        UnsupportedError: It says that.
    """
    if wanted.images:
        raise refuse_media("images")
    for name in ("template", "suffix", "context"):
        if getattr(wanted, name):
            raise UnsupportedError(
                f"{name} is not supported", "send a prompt with raw, or messages to /api/chat"
            )
    if wanted.raw and wanted.system:
        raise UsageError("system cannot be added to a raw prompt")


def _call(
    wanted: schema.AnswerRequest,
    options: schema.Options,
    messages: list[dict[str, Any]],
    *,
    tools: list[dict[str, Any]],
    continues: bool,
) -> ChatCall:
    n_logprobs = require_logprobs(wanted.top_logprobs or 0) if wanted.logprobs else None
    return ChatCall(
        messages=messages,
        tools=function_tools(tools),
        sampling=_sampling(options),
        max_tokens=_max_tokens(options.num_predict),
        stop=stop_texts(options.stop, "options.stop"),
        constraint=_constraint(wanted.format),
        template_arguments=_thinking(wanted.think),
        reasoning_budget=0 if wanted.think is False else None,
        continues=continues,
        n_logprobs=n_logprobs,
    )


def _sampling(options: schema.Options) -> SamplingOptions:
    return sampling_options(
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        repeat_penalty=options.repeat_penalty,
        frequency_penalty=options.frequency_penalty,
        presence_penalty=options.presence_penalty,
        # Ollama's word for "choose one".
        seed=None if options.seed == -1 else options.seed,
    )


def _max_tokens(num_predict: int | None) -> int | None:
    # -1 goes on for ever, -2 to the end of the context; nothing goes on for longer here.
    if num_predict in (None, -1, -2):
        return None
    return require_count(num_predict, "options.num_predict")


def _constraint(wanted: str | dict[str, Any] | None) -> Constraint | None:
    if isinstance(wanted, dict):
        return schema_constraint(wanted, "format")
    match wanted:
        case None | "":
            return None
        case "json":
            return Constraint("json_object")
        case _:
            raise UsageError(f"format is {wanted[:80]!r}, neither 'json' nor a JSON schema")


def _thinking(think: bool | str | None) -> dict[str, Any]:  # noqa: FBT001 - the wire's own word
    if isinstance(think, str):
        return thinking_arguments(thinks=None, effort=think)
    return thinking_arguments(thinks=think)


def _messages(given: list[schema.Message]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    open_calls: list[tuple[str, str]] = []  # the id and name of each call without a result
    n_calls = 0
    for message in given:
        if message.images:
            raise refuse_media("images")
        turned: dict[str, Any] = {"role": message.role, "content": message.content or ""}
        if message.thinking:
            turned["reasoning_content"] = message.thinking
        if message.role == "tool":
            turned["tool_call_id"] = _answered(message, open_calls)
        if message.tool_calls:
            tool_calls: list[dict[str, Any]] = []
            for call in message.tool_calls:
                id_ = call.id or f"call_{n_calls}"
                n_calls += 1
                open_calls.append((id_, call.function.name))
                tool_calls.append(_tool_call(id_, call.function))
            turned["tool_calls"] = tool_calls
        messages.append(turned)
    return messages


def _tool_call(id_: str, called: schema.CalledFunction) -> dict[str, Any]:
    require_small(called.arguments, "the arguments of a tool call")
    function = {"name": called.name, "arguments": msgspec.json.encode(called.arguments).decode()}
    return {"id": id_, "type": "function", "function": function}


def _answered(message: schema.Message, open_calls: list[tuple[str, str]]) -> str:
    """Return the id of the call that a tool message answers; many clients only name the tool."""
    for index, (id_, name) in enumerate(open_calls):
        if message.tool_call_id == id_ or (
            message.tool_call_id is None and message.tool_name in (None, name)
        ):
            del open_calls[index]
            return id_
    return message.tool_call_id or "call_unknown"
