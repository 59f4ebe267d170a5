"""Anthropic's `/v1/messages` and its count of tokens."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.routing import Route

from llmedge.core.errors import UnsupportedError, UsageError
from llmedge.serve import anthropic_schema as schema
from llmedge.serve.answer import ChatCall, NamedTool, Responder, ToolChoice
from llmedge.serve.anthropic_stream import MessageFrame, refuse, stream_events, whole_message
from llmedge.serve.call_fields import (
    function_tools,
    is_effort_ignored,
    refuse_media,
    require_count,
    require_messages,
    require_named_tool,
    require_small,
    sampling_options,
    schema_constraint,
    stop_texts,
    thinking_arguments,
)
from llmedge.serve.exchange import (
    json_response,
    read_request,
    shaped,
    start_all,
    whole,
)
from llmedge.serve.prompt_tokens import count_tokens
from llmedge.serve.requests import ignored_header
from llmedge.serve.stream import event_stream, unless_client_leaves

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_PING = b'event: ping\ndata: {"type":"ping"}\n\n'


def routes(responder: Responder) -> list[Route]:
    """Return the routes of the dialect."""
    handlers = _Handlers(responder)
    return [
        Route("/v1/messages", shaped(handlers.create, refuse), methods=["POST"]),
        Route("/v1/messages/count_tokens", shaped(handlers.count, refuse), methods=["POST"]),
    ]


class _Handlers:
    def __init__(self, responder: Responder) -> None:
        self._responder = responder

    async def create(self, request: Request) -> Response:
        wanted, ignored = await read_request(request, schema.MessagesRequest)
        call = chat_call(wanted)
        engine = await unless_client_leaves(request, self._responder.model(wanted.model))
        effort = wanted.output_config.effort if wanted.output_config else None
        if is_effort_ignored(engine.info.chat_template, effort):
            ignored.append("output_config.effort")
        parts = self._responder.chat(engine, call)
        frame = MessageFrame(engine.info.id, call.stop)
        if not wanted.stream:
            answer = await whole(request, parts)
            return json_response(whole_message(frame, answer), headers=ignored_header(ignored))
        (started,) = await start_all(request, [parts])
        return event_stream(
            stream_events(frame, started.n_prompt, parts), ignored_header(ignored), _PING
        )

    async def count(self, request: Request) -> Response:
        wanted, ignored = await read_request(request, schema.CountRequest)
        call = prompt_call(wanted)
        engine = await unless_client_leaves(request, self._responder.model(wanted.model))
        n_tokens = await count_tokens(self._responder, engine, call)
        return json_response(schema.TokenCount(n_tokens), headers=ignored_header(ignored))


def chat_call(wanted: schema.MessagesRequest) -> ChatCall:
    """Turn a request into a chat call.

    Raises:
        UsageError: A value that cannot be meant.
        UnsupportedError: Something that this endpoint cannot do.
    """
    return dataclasses.replace(
        prompt_call(wanted),
        max_tokens=require_count(wanted.max_tokens, "max_tokens"),
        stop=stop_texts(wanted.stop_sequences, "stop_sequences"),
        sampling=sampling_options(
            temperature=wanted.temperature,
            top_k=wanted.top_k,
            top_p=wanted.top_p,
            min_p=wanted.min_p,
            seed=wanted.seed,
        ),
    )


def prompt_call(wanted: schema.CountRequest) -> ChatCall:
    """Turn what a request says of its prompt into a chat call; raises as `chat_call` does."""
    require_messages(wanted.messages)
    messages: list[dict[str, Any]] = []
    if wanted.system:
        messages.append({"role": "system", "content": _text(wanted.system)})
    for message in wanted.messages:
        messages += _messages(message)
    tools = _tools(wanted.tools or [])
    config = wanted.output_config or schema.OutputConfig()
    thinks, budget = _thinking(wanted.thinking)
    last = messages[-1]
    return ChatCall(
        messages=messages,
        tools=tools,
        tool_choice=_tool_choice(wanted, tools),
        parallel_tool_calls=not getattr(wanted.tool_choice, "disable_parallel_tool_use", False),
        constraint=(
            schema_constraint(config.format.schema, "output_config.format.schema")
            if config.format
            else None
        ),
        template_arguments=thinking_arguments(thinks=thinks, effort=config.effort),
        reasoning_budget=budget,
        continues=last["role"] == "assistant" and "tool_calls" not in last,
    )


def _messages(message: schema.Message) -> list[dict[str, Any]]:
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    if message.role == "assistant":
        return [_assistant_message(message.content)]
    results: list[dict[str, Any]] = []
    texts: list[str] = []
    for block in message.content:
        match block:
            case schema.TextBlock(text):
                texts.append(text)
            case schema.ToolResultBlock(id_, content):
                result = {"role": "tool", "tool_call_id": id_, "content": _text(content)}
                results.append(result)
            case _:
                raise _misplaced(block, message.role)
    # Templates want the results right after the calls, whatever is said beside them.
    rest = [{"role": message.role, "content": "".join(texts)}] if texts or not results else []
    return [*results, *rest]


def _assistant_message(blocks: list[schema.Block]) -> dict[str, Any]:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for block in blocks:
        match block:
            case schema.TextBlock(text):
                texts.append(text)
            case schema.ThinkingBlock(text):
                thoughts.append(text)
            case schema.ToolUseBlock(id_, name, arguments):
                require_small(arguments, "the input of a tool_use block")
                function = {"name": name, "arguments": msgspec.json.encode(arguments).decode()}
                calls.append({"id": id_, "type": "function", "function": function})
            case schema.RedactedBlock():
                pass
            case _:
                raise _misplaced(block, "assistant")
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def _misplaced(block: schema.Block, role: str) -> Exception:
    kind = block.__struct_config__.tag
    if isinstance(block, schema.ImageBlock | schema.DocumentBlock):
        return refuse_media(f"a block of the type {kind!r}")
    return UsageError(
        f"a block of the type {kind!r} cannot stand in a message of the role {role!r}"
    )


def _text(content: str | list[Any]) -> str:
    if isinstance(content, str):
        return content
    for block in content:
        if not isinstance(block, schema.TextBlock):
            raise refuse_media(f"a block of the type {block.__struct_config__.tag!r}")
    return "".join(block.text for block in content)


def _tools(tools: list[schema.Tool]) -> list[dict[str, Any]]:
    functions: list[dict[str, Any]] = []
    for tool in tools:
        if tool.type not in (None, "custom"):
            raise UnsupportedError(f"the tool type {tool.type[:80]!r} is not supported")
        if tool.input_schema is None:
            raise UsageError(f"the tool {tool.name[:80]!r} has no input_schema")
        function: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema}
        if tool.description is not None:
            function["description"] = tool.description
        functions.append(function)
    return function_tools(functions)


def _tool_choice(wanted: schema.CountRequest, tools: list[dict[str, Any]]) -> ToolChoice:
    match wanted.tool_choice:
        case schema.NamedChoice(name):
            require_named_tool(name, tools)
            return NamedTool(name)
        case schema.AnyChoice():
            if not tools:
                raise UsageError("tool_choice is 'any', but there are no tools")
            return "required"
        case schema.NoChoice():
            return "none"
        case _:
            return "auto"


def _thinking(
    thinking: schema.ThinkingOn | schema.ThinkingOff | schema.ThinkingAdaptive | None,
) -> tuple[bool | None, int | None]:
    match thinking:
        case schema.ThinkingOn(budget):
            return True, require_count(budget, "thinking.budget_tokens")
        case schema.ThinkingAdaptive():
            return True, None
        case schema.ThinkingOff():
            return False, 0
        case None:
            return None, None
