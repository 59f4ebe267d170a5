"""Lets a model answer a chat: messages to a prompt, its text to content, reasoning and tool calls.

Implements `answer.Responder`, which all dialects speak to.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from llmedge.core.errors import LlmedgeError, UnsupportedError
from llmedge.engine.generation import Delta, Finished, Generation, Progress, Started
from llmedge.serve.answer import CallStarted, ChatCall, ChatPart, Content, Ended, Measured
from llmedge.serve.model_format import ModelFormats
from llmedge.serve.requests import check_tokens

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from llmedge.engine.engine import Engine
    from llmedge.engine.generation import ChatPrompt, GenerationReport, TokenChances
    from llmedge.serve.answer import EndReason, ServedModel
    from llmedge.serve.model_format import ParsedPart
    from llmedge.serve.pool import ModelPool

_log = logging.getLogger("llmedge.serve")


class ChatService:
    """Answers chats with the models of a pool.

    Args:
        pool: Where the engines are.
    """

    def __init__(self, pool: ModelPool) -> None:
        self._pool = pool
        self._formats = ModelFormats(pool.defaults.reasoning_budget)

    async def model(self, name: str | None) -> Engine:
        """Return the engine of a model; see `Responder.model`."""
        return await self._pool.engine(name)

    def models(self) -> Sequence[ServedModel]:
        """Return all models that can be asked for."""
        return self._pool.models()

    async def learn(self) -> None:
        """Try out the templates of loaded models, before the first chat waits for it."""
        for engine in self._pool.engines.values():
            if engine.info.can_generate:
                try:
                    await self._formats.learn(engine)
                except LlmedgeError as error:  # the first chat will say so
                    _log.warning("the template of %s was not tried out: %s", engine.info.id, error)

    async def prompt(self, engine: Engine, call: ChatCall) -> ChatPrompt:
        """Return the prompt that `chat` would give to an engine."""
        require_text_model(engine)
        return (await self._formats.open(engine, call)).prompt

    async def chat(self, engine: Engine, call: ChatCall) -> AsyncGenerator[ChatPart, None]:
        """Answer; see `Responder.chat`."""
        require_text_model(engine)
        form = await self._formats.open(engine, call)
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
            reasoning=form.reasoning,
            adapters=call.adapters,
            cache_key=call.cache_key,
            caches=call.caches,
            tells_progress=call.tells_progress,
            tells_times=call.tells_times,
        )
        check_tokens(generation, engine.info)
        has_called = False
        events = engine.generate(generation)
        try:
            async for event in events:
                if isinstance(event, Started | Progress):
                    yield event
                    continue
                if isinstance(event, Delta):
                    if event.report is not None:
                        yield Measured(event.report)
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


def require_text_model(engine: Engine) -> None:
    """Refuse a model that continues no text, before its template is looked at.

    Raises:
        UnsupportedError: It makes embeddings, or scores documents.
    """
    info = engine.info
    if not info.can_generate:
        does = "scores documents: ask /v1/rerank" if info.can_rerank else "makes embeddings"
        raise UnsupportedError(f"{info.id} does not generate text, it {does}")


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
