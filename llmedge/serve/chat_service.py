"""Lets a model answer a chat: messages to a prompt, its text to content, reasoning and tool calls.

Implements `answer.Responder`, which all dialects speak to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

from llmedge.core.errors import UnsupportedError
from llmedge.engine.generation import ChatPrompt, Constraint, Delta, Finished, Generation, Started
from llmedge.serve.answer import (
    CallArguments,
    CallEnded,
    CallStarted,
    ChatCall,
    ChatPart,
    Content,
    Ended,
    NamedTool,
    Reasoning,
)
from llmedge.serve.requests import check_tokens

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from llmedge.engine.engine import Engine
    from llmedge.engine.generation import GenerationReport, TokenChances
    from llmedge.serve.answer import EndReason, ServedModel
    from llmedge.serve.pool import ModelPool

ParsedPart: TypeAlias = Content | Reasoning | CallStarted | CallArguments | CallEnded


class ChatFormat(Protocol):
    """How a model family writes what is not plain text; one for each answer."""

    @property
    def shows_special(self) -> bool:
        """Whether the parser wants to see control tokens."""
        ...

    @property
    def constraint(self) -> Constraint | None:
        """What makes the model write the calls that it has to."""
        ...

    @property
    def prompt(self) -> ChatPrompt:
        """The call as the model's template wants it."""
        ...

    def feed(self, text: str) -> Sequence[ParsedPart]:
        """Take the next part of the text as generated, and return what it means."""
        ...

    def finish(self) -> Sequence[ParsedPart]:
        """Return the rest once the text has ended."""
        ...


class ChatService:
    """Answers chats with the models of a pool.

    Args:
        pool: Where the engines are.
    """

    def __init__(self, pool: ModelPool) -> None:
        self._pool = pool

    async def model(self, name: str | None) -> Engine:
        """Return the engine of a model; see `Responder.model`."""
        return await self._pool.engine(name)

    def models(self) -> Sequence[ServedModel]:
        """Return all models that can be asked for."""
        return self._pool.models()

    async def prompt(self, engine: Engine, call: ChatCall) -> ChatPrompt:
        """Return the prompt that `chat` would give to an engine."""
        return (await open_format(engine, call)).prompt

    async def chat(self, engine: Engine, call: ChatCall) -> AsyncGenerator[ChatPart, None]:
        """Answer; see `Responder.chat`."""
        form = await open_format(engine, call)
        generation = Generation(
            prompt=form.prompt,
            max_tokens=call.max_tokens,
            stop=call.stop,
            stop_tokens=call.stop_tokens,
            sampling=call.sampling,
            ignore_end=call.ignore_end,
            n_logprobs=call.n_logprobs,
            constraint=form.constraint or call.constraint,
            shows_special=form.shows_special,
            adapters=call.adapters,
            cache_key=call.cache_key,
        )
        check_tokens(generation, engine.info)
        has_called = False
        events = engine.generate(generation)
        try:
            async for event in events:
                if isinstance(event, Started):
                    yield event
                    continue
                if isinstance(event, Delta):
                    parts = _with_chances(form.feed(event.text), event.chances)
                else:
                    parts = form.finish()
                for part in parts:
                    has_called = has_called or isinstance(part, CallStarted)
                    yield part
                if isinstance(event, Finished):
                    yield Ended(event.report, _reason(event.report, has_called=has_called))
        finally:
            if (close := getattr(events, "aclose", None)) is not None:
                await close()


class PlainFormat:
    """Text as it is: neither calls nor reasoning.

    Args:
        call: What is asked.

    Raises:
        UnsupportedError: A call is forced, or reasoning is bounded.
    """

    shows_special = False
    constraint = None

    def __init__(self, call: ChatCall) -> None:
        if call.tool_choice == "required" or isinstance(call.tool_choice, NamedTool):
            raise UnsupportedError("forced tool calls are not supported")
        if call.reasoning_budget:
            raise UnsupportedError("a reasoning budget is not supported")
        has_tools = bool(call.tools) and call.tool_choice != "none"
        self.prompt = ChatPrompt(
            # Templates know OpenAI's newer word for the system role by its old name only.
            messages=[
                {**message, "role": "system"} if message["role"] == "developer" else message
                for message in call.messages
            ],
            tools=call.tools if has_tools else None,
            arguments=call.template_arguments,
            continues=call.continues,
        )

    def feed(self, text: str) -> Sequence[ParsedPart]:
        """Return the text as content."""
        return (Content(text),) if text else ()

    def finish(self) -> Sequence[ParsedPart]:
        """Return nothing: nothing was held back."""
        return ()


async def open_format(engine: Engine, call: ChatCall) -> ChatFormat:
    """Return the format of a model's family, for one answer.

    Args:
        engine: Tells the model's template, and what it makes of messages.
        call: What is asked.

    Raises:
        UnsupportedError: A call is forced, or reasoning is bounded, which plain text cannot be.
    """
    del engine
    return PlainFormat(call)


def _with_chances(
    parts: Sequence[ParsedPart], chances: Sequence[TokenChances]
) -> Sequence[ParsedPart]:
    """Give the first content the tokens behind it; those behind markup are nobody's."""
    if not chances:
        return parts
    if not parts:
        return (Content("", tuple(chances)),)
    for index, part in enumerate(parts):
        if isinstance(part, Content):
            with_chances = Content(part.text, tuple(chances))
            return (*parts[:index], with_chances, *parts[index + 1 :])
    return parts


def _reason(report: GenerationReport, *, has_called: bool) -> EndReason:
    if report.finish_reason == "length":
        return "length"
    return "tool_calls" if has_called else "stop"
