"""OpenAI's `/v1/responses`, without a memory: the whole conversation comes with each request."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.routing import Route

from llmedge.core.errors import LlmedgeError, UnsupportedError, UsageError
from llmedge.engine.generation import Constraint
from llmedge.serve import responses_schema as schema
from llmedge.serve.answer import ChatCall, ChatPart, NamedTool, Responder, ToolChoice
from llmedge.serve.call_fields import (
    function_tools,
    is_effort_ignored,
    refuse_media,
    require_count,
    require_logprobs,
    require_messages,
    require_named_tool,
    require_small,
    sampling_options,
    schema_constraint,
    stop_texts,
    thinking_arguments,
)
from llmedge.serve.errors import error_response
from llmedge.serve.exchange import (
    convert,
    ending,
    event_bytes,
    json_response,
    read_request,
    shaped,
    start_all,
)
from llmedge.serve.prompt_tokens import count_tokens
from llmedge.serve.requests import ignored_header
from llmedge.serve.response_writer import ResponseWriter, new_id
from llmedge.serve.stream import close, event_stream, unless_client_leaves

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.responses import Response

_ITEMS: dict[str, type[schema.InputItem]] = {
    "message": schema.MessageItem,
    "function_call": schema.CallItem,
    "function_call_output": schema.CallOutputItem,
    "reasoning": schema.ReasoningItem,
}
_LOGPROBS = "message.output_text.logprobs"


def routes(responder: Responder) -> list[Route]:
    """Return the routes of the dialect."""
    handlers = _Handlers(responder)
    create = shaped(handlers.create, error_response)
    count = shaped(handlers.count, error_response)
    return [
        Route(prefix + path, endpoint, methods=["POST"])
        for prefix in ("/v1", "")
        for path, endpoint in (("/responses", create), ("/responses/input_tokens", count))
    ]


class _Handlers:
    def __init__(self, responder: Responder) -> None:
        self._responder = responder

    async def create(self, request: Request) -> Response:
        wanted, ignored = await read_request(request, schema.ResponsesRequest)
        # Nothing is ever cut here, also not for who allows it.
        ignored += ["truncation"] if wanted.truncation == "auto" else []
        call = chat_call(wanted)
        engine = await unless_client_leaves(request, self._responder.model(wanted.model))
        effort = wanted.reasoning.effort if wanted.reasoning else None
        if is_effort_ignored(engine.info.chat_template, effort):
            ignored.append("reasoning.effort")
        writer = ResponseWriter(response_object(wanted, call, engine.info.id))
        parts = self._responder.chat(engine, call)
        if not wanted.stream:
            work = ending(parts, _write_all(writer, parts))
            await unless_client_leaves(request, work)
            return json_response(writer.response, headers=ignored_header(ignored))
        await start_all(request, [parts])
        return event_stream(_stream(writer, parts), ignored_header(ignored))

    async def count(self, request: Request) -> Response:
        wanted, ignored = await read_request(request, schema.ResponsesRequest)
        call = chat_call(wanted)
        engine = await unless_client_leaves(request, self._responder.model(wanted.model))
        n_tokens = await count_tokens(self._responder, engine, call)
        return json_response(schema.InputTokens(n_tokens), headers=ignored_header(ignored))


async def _write_all(writer: ResponseWriter, parts: AsyncIterator[ChatPart]) -> None:
    writer.begin()
    async for part in parts:
        writer.feed(part)


async def _stream(writer: ResponseWriter, parts: AsyncIterator[ChatPart]) -> AsyncIterator[bytes]:
    for event in writer.begin():
        yield event_bytes(event["type"], event)
    try:
        async for part in parts:
            for event in writer.feed(part):
                yield event_bytes(event["type"], event)
    except LlmedgeError as error:
        # The status was sent long ago: the failure is the stream's last event.
        for event in writer.fail(error):
            yield event_bytes(event["type"], event)
    finally:
        await close(parts)


def chat_call(wanted: schema.ResponsesRequest) -> ChatCall:
    """Turn a request into a chat call.

    Raises:
        UsageError: A value that cannot be meant.
        UnsupportedError: Something that this endpoint cannot do.
    """
    _require_stateless(wanted)
    tools = _tools(wanted.tools or [])
    effort = wanted.reasoning.effort if wanted.reasoning else None
    arguments = wanted.chat_template_kwargs or {}
    require_small(arguments, "chat_template_kwargs")
    return ChatCall(
        messages=_messages(wanted),
        tools=tools,
        tool_choice=_tool_choice(wanted.tool_choice, tools),
        parallel_tool_calls=wanted.parallel_tool_calls is not False,
        sampling=sampling_options(
            temperature=wanted.temperature,
            top_k=wanted.top_k,
            top_p=wanted.top_p,
            min_p=wanted.min_p,
            repeat_penalty=wanted.repeat_penalty,
            frequency_penalty=wanted.frequency_penalty,
            presence_penalty=wanted.presence_penalty,
            seed=wanted.seed,
        ),
        max_tokens=require_count(wanted.max_output_tokens, "max_output_tokens"),
        stop=stop_texts(wanted.stop),
        constraint=_constraint(wanted.text),
        template_arguments={**thinking_arguments(thinks=None, effort=effort), **arguments},
        reasoning_budget=0 if effort == "none" else None,
        n_logprobs=_n_logprobs(wanted),
        tells_progress=bool(wanted.return_progress and wanted.stream),
        tells_times=bool(wanted.timings_per_token and wanted.stream),
    )


def response_object(
    wanted: schema.ResponsesRequest, call: ChatCall, model: str
) -> schema.ResponseObject:
    """Return the response as it is before anything is generated."""
    text_format = wanted.text.format if wanted.text else None
    effort = wanted.reasoning.effort if wanted.reasoning else None
    return schema.ResponseObject(
        id=new_id("resp"),
        created_at=int(time.time()),
        model=model,
        instructions=wanted.instructions,
        max_output_tokens=wanted.max_output_tokens,
        metadata=wanted.metadata or {},
        parallel_tool_calls=call.parallel_tool_calls,
        reasoning={"effort": effort, "summary": None},
        temperature=call.sampling.temperature,
        text={"format": msgspec.to_builtins(text_format or schema.PlainFormat())},
        tool_choice=wanted.tool_choice or "auto",
        tools=[
            {"description": None, "parameters": None, "strict": None, **tool}
            for tool in wanted.tools or []
        ],
        top_logprobs=call.n_logprobs or 0,
        top_p=call.sampling.top_p,
        presence_penalty=call.sampling.presence_penalty,
        frequency_penalty=call.sampling.frequency_penalty,
    )


def _require_stateless(wanted: schema.ResponsesRequest) -> None:
    for name in ("previous_response_id", "conversation", "prompt"):
        if getattr(wanted, name) is not None:
            raise UnsupportedError(
                f"{name} is not supported: nothing is kept here between requests",
                "send the whole conversation as input",
            )
    if wanted.background:
        raise UnsupportedError("background responses are not supported: nothing is kept here")


def _n_logprobs(wanted: schema.ResponsesRequest) -> int | None:
    if wanted.top_logprobs is None and _LOGPROBS not in (wanted.include or []):
        return None
    return require_logprobs(wanted.top_logprobs or 0)


def _constraint(text: schema.TextOptions | None) -> Constraint | None:
    match text.format if text else None:
        case schema.ObjectFormat():
            return Constraint("json_object")
        case schema.SchemaFormat(_, json_schema):
            return schema_constraint(json_schema, "text.format.schema")
        case _:
            return None


def _tools(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for tool in tools:
        if tool.get("type") != "function":
            raise UnsupportedError(f"the tool type {str(tool.get('type'))[:80]!r} is not supported")
    functions = [convert(tool, schema.FunctionTool, f"tools[{i}]") for i, tool in enumerate(tools)]
    return function_tools([msgspec.to_builtins(function) for function in functions])


def _tool_choice(choice: str | dict[str, Any] | None, tools: list[dict[str, Any]]) -> ToolChoice:
    if isinstance(choice, dict):
        if choice.get("type") != "function":
            raise UnsupportedError(
                f"the tool_choice {str(choice.get('type'))[:80]!r} is not supported"
            )
        name = convert(choice, schema.NamedChoice, "tool_choice").name
        require_named_tool(name, tools)
        return NamedTool(name)
    match choice:
        case None | "auto" | "none":
            return choice or "auto"
        case "required" if tools:
            return "required"
        case "required":
            raise UsageError("tool_choice is 'required', but there are no tools")
        case _:
            raise UsageError(f"tool_choice is {choice[:80]!r}, not auto, none or required")


def _messages(wanted: schema.ResponsesRequest) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if wanted.instructions:
        messages.append({"role": "system", "content": wanted.instructions})
    if isinstance(wanted.input, str):
        return [*messages, {"role": "user", "content": wanted.input}]
    require_messages(wanted.input)
    for index, raw in enumerate(wanted.input):
        where = f"input[{index}]"
        kind = raw.get("type", "message")
        if not isinstance(kind, str) or kind not in _ITEMS:
            raise UnsupportedError(
                f"{where} has the type {str(kind)[:80]!r}, which is not supported"
            )
        _add(messages, convert(raw, _ITEMS[kind], where))
    return messages


def _add(messages: list[dict[str, Any]], item: schema.InputItem) -> None:
    match item:
        case schema.MessageItem(role, content):
            role = "system" if role == "developer" else role
            messages.append({"role": role, "content": _text(content)})
        case schema.CallItem(call_id, name, arguments):
            function = {"name": name, "arguments": arguments}
            call = {"id": call_id, "type": "function", "function": function}
            # Text and calls of one turn are several items here, and one message elsewhere.
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": ""})
            messages[-1].setdefault("tool_calls", []).append(call)
        case schema.CallOutputItem(call_id, output):
            messages.append({"role": "tool", "tool_call_id": call_id, "content": _text(output)})
        case schema.ReasoningItem():
            pass


def _text(content: str | list[schema.InputPart]) -> str:
    if isinstance(content, str):
        return content
    for part in content:
        if part.type not in ("input_text", "output_text", "text", "refusal"):
            raise refuse_media(f"a part of the type {part.type[:80]!r}")
    return "".join(part.text or part.refusal for part in content)
