"""One response as it grows: parts of an answer in, OpenAI's events out, in their exact order.

The response that is not streamed is this one at its end, so both say the same.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any

import msgspec

from llmedge.engine.generation import Progress, Started
from llmedge.serve.answer import (
    CallArguments,
    CallEnded,
    CallStarted,
    ChatPart,
    Content,
    Ended,
    Measured,
    Reasoning,
)
from llmedge.serve.call_fields import logprob_entries
from llmedge.serve.completion import progress_of, timings_of
from llmedge.serve.errors import stream_error
from llmedge.serve.responses_schema import (
    FailureBody,
    IncompleteDetails,
    InputDetails,
    ItemStatus,
    OutputCall,
    OutputDetails,
    OutputItem,
    OutputMessage,
    OutputReasoning,
    OutputText,
    ReasoningText,
    ResponseObject,
    ResponsesUsage,
)

if TYPE_CHECKING:
    from llmedge.core.errors import LlmedgeError
    from llmedge.engine.generation import GenerationReport

ResponseEvent = dict[str, Any]


def new_id(prefix: str) -> str:
    """Return an id that nothing else has."""
    return f"{prefix}_{secrets.token_hex(16)}"


class ResponseWriter:
    """Writes one response.

    Args:
        response: As it is before anything is generated.

    Attributes:
        response: As it is now.
    """

    def __init__(self, response: ResponseObject) -> None:
        self.response = response
        self._open: OutputItem | None = None
        self._events: list[ResponseEvent] = []
        self._n_events = 0
        self._times: dict[str, Any] = {}

    def begin(self) -> list[ResponseEvent]:
        """Return the events before the first part."""
        self._say("response.created", response=self._snapshot())
        self._say("response.in_progress", response=self._snapshot())
        return self._said()

    def feed(self, part: ChatPart) -> list[ResponseEvent]:
        """Take the next part and return its events."""
        match part:
            case Content():
                self._add_text(part)
                self._times = {}
            case Reasoning(text):
                self._add_reasoning(text)
            case CallStarted(_, id_, name):
                self._enter(OutputCall(new_id("fc"), id_, name))
            case CallArguments(_, text):
                self._add_arguments(text)
            case CallEnded():
                self._leave("completed")
            case Ended(report, reason):
                self._end(report, is_complete=reason != "length")
            case Progress():
                progress = msgspec.to_builtins(progress_of(part))
                self._say(
                    "response.in_progress", response=self._snapshot(), prompt_progress=progress
                )
            case Measured(report):
                self._times = {"timings": msgspec.to_builtins(timings_of(report))}
            case Started():
                pass
        return self._said()

    def fail(self, error: LlmedgeError) -> list[ResponseEvent]:
        """Return the events of a response that cannot be ended."""
        body = stream_error(error).error
        self.response.status = "failed"
        self.response.error = FailureBody(body.code or body.type, body.message)
        for item in self.response.output:
            if item.status == "in_progress":
                item.status = "incomplete"
        self._say("response.failed", response=self._snapshot())
        return self._said()

    def _add_text(self, part: Content) -> None:
        if not isinstance(self._open, OutputMessage):
            self._enter(OutputMessage(new_id("msg")))
        assert isinstance(self._open, OutputMessage)
        text = self._open.content[0]
        logprobs = logprob_entries(part.chances)
        text.text += part.text
        text.logprobs += logprobs
        self._say_here(
            "response.output_text.delta", delta=part.text, logprobs=logprobs, **self._times
        )

    def _add_reasoning(self, delta: str) -> None:
        if not isinstance(self._open, OutputReasoning):
            self._enter(OutputReasoning(new_id("rs")))
        assert isinstance(self._open, OutputReasoning)
        self._open.content[0].text += delta
        self._say_here("response.reasoning_text.delta", delta=delta)

    def _add_arguments(self, delta: str) -> None:
        assert isinstance(self._open, OutputCall), "arguments belong to the call that began last"
        self._open.arguments += delta
        self._say_item("response.function_call_arguments.delta", delta=delta)

    def _enter(self, item: OutputItem) -> None:
        self._leave("completed")
        self._open = item
        self.response.output.append(item)
        self._say("response.output_item.added", output_index=self._index(), item=_copy(item))
        if not isinstance(item, OutputCall):
            text = OutputText() if isinstance(item, OutputMessage) else ReasoningText()
            item.content = [text]  # pyright: ignore[reportAttributeAccessIssue]
            self._say_here("response.content_part.added", part=_copy(text))

    def _leave(self, status: ItemStatus) -> None:
        item = self._open
        match item:
            case None:
                return
            case OutputCall():
                self._say_item("response.function_call_arguments.done", arguments=item.arguments)
            case OutputMessage():
                (text,) = item.content
                done = {"text": text.text, "logprobs": text.logprobs}
                self._say_here("response.output_text.done", **done)
                self._say_here("response.content_part.done", part=_copy(text))
            case OutputReasoning():
                (text,) = item.content
                self._say_here("response.reasoning_text.done", text=text.text)
                self._say_here("response.content_part.done", part=_copy(text))
        item.status = status
        self._say("response.output_item.done", output_index=self._index(), item=_copy(item))
        self._open = None

    def _end(self, report: GenerationReport, *, is_complete: bool) -> None:
        if not self.response.output:
            self._enter(OutputMessage(new_id("msg")))
        status: ItemStatus = "completed" if is_complete else "incomplete"
        self._leave(status)
        response = self.response
        response.status = "completed" if is_complete else "incomplete"
        response.completed_at = int(time.time()) if is_complete else None
        response.incomplete_details = None if is_complete else IncompleteDetails()
        response.usage = ResponsesUsage(
            report.n_prompt,
            InputDetails(report.n_cached),
            report.n_generated,
            OutputDetails(),
            report.n_prompt + report.n_generated,
            msgspec.UNSET if report.energy_j is None else report.energy_j,
        )
        times = {"timings": msgspec.to_builtins(timings_of(report))}
        self._say(f"response.{response.status}", response=self._snapshot(), **times)

    def _index(self) -> int:
        return len(self.response.output) - 1

    def _snapshot(self) -> dict[str, Any]:
        return msgspec.to_builtins(self.response)

    def _say_here(self, kind: str, **fields: object) -> None:
        self._say_item(kind, content_index=0, **fields)

    def _say_item(self, kind: str, **fields: object) -> None:
        assert self._open is not None
        self._say(kind, item_id=self._open.id, output_index=self._index(), **fields)

    def _say(self, kind: str, **fields: object) -> None:
        self._events.append({"type": kind, "sequence_number": self._n_events, **fields})
        self._n_events += 1

    def _said(self) -> list[ResponseEvent]:
        said, self._events = self._events, []
        return said


def _copy(value: msgspec.Struct) -> dict[str, Any]:
    """Return a value as it is now: events may be encoded after it has changed."""
    return msgspec.to_builtins(value)
