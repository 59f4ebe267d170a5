"""Answers in Anthropic's form, whole or as events, and its errors."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from llmedge.core.errors import LlmedgeError
from llmedge.engine.generation import Progress, Started
from llmedge.serve.answer import (
    CallArguments,
    CallEnded,
    CallStarted,
    Content,
    Ended,
    Measured,
    Reasoning,
)
from llmedge.serve.anthropic_schema import (
    AnswerBlock,
    AnswerMessage,
    ErrorResponse,
    MessageUsage,
    StopReason,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    error_of,
)
from llmedge.serve.call_fields import call_object
from llmedge.serve.errors import error_response
from llmedge.serve.exchange import event_bytes, refusal
from llmedge.serve.stream import close

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from starlette.responses import Response

    from llmedge.engine.generation import GenerationReport
    from llmedge.serve.answer import Answer, Call, ChatPart, EndReason


@dataclass(frozen=True, slots=True)
class MessageFrame:
    """What is known of an answer before it begins.

    Attributes:
        model: Its id.
        stop: Texts that end the answer.
        id: The answer's id.
    """

    model: str
    stop: tuple[str, ...]
    id: str = field(default_factory=lambda: f"msg_{secrets.token_hex(12)}")


def refuse(error: LlmedgeError) -> Response:
    """Return the response for an error, with the status and headers that it has everywhere."""
    return refusal(error, _error(error))


def whole_message(frame: MessageFrame, answer: Answer) -> AnswerMessage:
    """Return an answer that is not streamed."""
    content: list[AnswerBlock] = []
    if answer.reasoning:
        content.append(ThinkingBlock(answer.reasoning))
    if answer.content or not (answer.reasoning or answer.calls):
        content.append(TextBlock(answer.content))
    content += [_call_block(call) for call in answer.calls]
    reason, sequence = _stop_reason(frame, answer.report, answer.reason)
    return AnswerMessage(
        id=frame.id,
        model=frame.model,
        content=content,
        usage=_usage(answer.report),
        stop_reason=reason,
        stop_sequence=sequence,
    )


async def stream_events(
    frame: MessageFrame, n_prompt: int, parts: AsyncIterator[ChatPart]
) -> AsyncIterator[bytes]:
    """Yield an answer's events.

    Args:
        frame: What is known of it.
        n_prompt: Tokens of the prompt.
        parts: The answer, after its start.
    """
    message = AnswerMessage(
        id=frame.id, model=frame.model, content=[], usage=MessageUsage(n_prompt, 0)
    )
    yield event_bytes("message_start", {"type": "message_start", "message": message})
    yield event_bytes("ping", {"type": "ping"})
    blocks = _Blocks()
    try:
        async for part in parts:
            for event in _part_events(blocks, frame, part):
                yield event_bytes(event["type"], event)
    except LlmedgeError as error:
        # The status was sent long ago: the error is the stream's last event.
        yield event_bytes("error", _error(error))
    finally:
        await close(parts)


def _part_events(blocks: _Blocks, frame: MessageFrame, part: ChatPart) -> Iterator[dict[str, Any]]:
    match part:
        case Content(text):
            yield from blocks.enter("text", TextBlock(""))
            yield blocks.delta({"type": "text_delta", "text": text})
        case Reasoning(text):
            yield from blocks.enter("thinking", ThinkingBlock(""))
            yield blocks.delta({"type": "thinking_delta", "thinking": text})
        case CallStarted(_, id_, name):
            yield from blocks.enter(id_, ToolUseBlock(id_, name, {}))
        case CallArguments(_, text):
            yield blocks.delta({"type": "input_json_delta", "partial_json": text})
        case Ended(report, reason):
            if blocks.n_blocks == 0:
                yield from blocks.enter("text", TextBlock(""))
            yield from blocks.leave()
            stop_reason, sequence = _stop_reason(frame, report, reason)
            delta = {"stop_reason": stop_reason, "stop_sequence": sequence}
            yield {"type": "message_delta", "delta": delta, "usage": _usage(report)}
            yield {"type": "message_stop"}
        case Started() | Progress() | Measured() | CallEnded():
            pass


class _Blocks:
    """The blocks of a streamed answer: one is open at a time.

    Attributes:
        n_blocks: Blocks so far.
    """

    def __init__(self) -> None:
        self.n_blocks = 0
        self._open: str | None = None

    def enter(self, key: str, block: AnswerBlock) -> Iterator[dict[str, Any]]:
        """Open a block, and end the one before it; nothing where the key's is open already."""
        if self._open == key:
            return
        yield from self.leave()
        self._open = key
        self.n_blocks += 1
        yield {"type": "content_block_start", "index": self._index, "content_block": block}

    def delta(self, delta: dict[str, str]) -> dict[str, Any]:
        """Return the event that adds to the open block."""
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    def leave(self) -> Iterator[dict[str, Any]]:
        """End the open block, where there is one."""
        if self._open is None:
            return
        if self._open == "thinking":
            # Clients send a thought back with its signature; nobody signs here.
            yield self.delta({"type": "signature_delta", "signature": ""})
        yield {"type": "content_block_stop", "index": self._index}
        self._open = None

    @property
    def _index(self) -> int:
        return self.n_blocks - 1


def _call_block(call: Call) -> AnswerBlock:
    arguments = call_object(call.arguments)
    # A call that was cut off cannot be made; what there is of it is not lost.
    if arguments is None:
        return TextBlock(call.arguments)
    return ToolUseBlock(call.id, call.name, arguments)


def _stop_reason(
    frame: MessageFrame, report: GenerationReport, reason: EndReason
) -> tuple[StopReason, str | None]:
    if reason == "length":
        return "max_tokens", None
    if reason == "tool_calls":
        return "tool_use", None
    if report.stop_text in frame.stop:
        return "stop_sequence", report.stop_text
    return "end_turn", None


def _usage(report: GenerationReport) -> MessageUsage:
    n_read = report.n_cached
    return MessageUsage(
        report.n_prompt - n_read,
        report.n_generated,
        cache_read_input_tokens=n_read,
        energy_j=msgspec.UNSET if report.energy_j is None else report.energy_j,
    )


def _error(error: LlmedgeError) -> ErrorResponse:
    return error_of(error_response(error).status_code, error.message)
