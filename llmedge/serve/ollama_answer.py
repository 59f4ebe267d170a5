"""Answers in Ollama's form: one object, or a line of JSON for each part."""

from __future__ import annotations

import hashlib
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from llmedge.core.errors import LlmedgeError
from llmedge.engine.generation import Progress, Started
from llmedge.serve.answer import (
    Call,
    CallArguments,
    CallEnded,
    CallStarted,
    Content,
    Ended,
    Measured,
    Reasoning,
)
from llmedge.serve.call_fields import call_object, logprob_entries
from llmedge.serve.exchange import refusal
from llmedge.serve.ollama_schema import Details, ErrorResponse, ModelEntry, ModelFacts
from llmedge.serve.stream import close

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from starlette.responses import Response

    from llmedge.engine.engine import ModelInfo
    from llmedge.engine.generation import GenerationReport, TokenChances
    from llmedge.serve.answer import Answer, ChatPart, EndReason

# The release whose API is spoken here: clients ask for it before they use thinking or tools.
API_VERSION = "0.12.6"


def refuse(error: LlmedgeError) -> Response:
    """Return the response for an error, with the status and headers that it has everywhere."""
    return refusal(error, ErrorResponse(error.message))


class OllamaAnswer:
    """Builds the objects of one answer.

    Args:
        model: Its id.
        began_s: When the request came, by the monotonic clock; the model is loaded by now.
        is_chat: A message, or else a response.
    """

    def __init__(self, model: str, began_s: float, *, is_chat: bool) -> None:
        self._model = model
        self._began_s = began_s
        self._load_ns = _nanoseconds(time.monotonic() - began_s)
        self._is_chat = is_chat

    def loaded(self) -> dict[str, Any]:
        """Return the answer to a request that asked nothing."""
        return self._object() | {"done": True, "done_reason": "load"}

    def whole(self, answer: Answer) -> dict[str, Any]:
        """Return the answer that is not streamed."""
        content = answer.content
        calls: list[dict[str, Any]] = []
        for call in answer.calls:
            called = _called(call, len(calls))
            if called is None:
                content += call.arguments
            else:
                calls.append(called)
        body = self._object(content, answer.reasoning, calls, answer.chances)
        return body | self._end(answer.report, answer.reason)

    async def lines(self, parts: AsyncIterator[ChatPart]) -> AsyncIterator[bytes]:
        """Yield the lines of a streamed answer, whose parts come after its start."""
        calls: dict[int, Call] = {}
        try:
            async for part in parts:
                for payload in self._objects(part, calls):
                    yield _line(payload)
        except LlmedgeError as error:
            # The status was sent long ago: the error is the stream's last line.
            yield _line(ErrorResponse(error.message))
        finally:
            await close(parts)

    def _objects(self, part: ChatPart, calls: dict[int, Call]) -> Iterator[dict[str, Any]]:
        """Yield the objects of one part; `calls` are those that have begun and not ended."""
        match part:
            case Content(text, chances):
                yield self._part(text, chances=chances)
            case Reasoning(text):
                yield self._part(thinking=text)
            case CallStarted(index, id_, name):
                calls[index] = Call(id_, name)
            case CallArguments(index, text):
                calls[index].arguments += text
            case CallEnded(index):
                yield self._call(calls.pop(index), index)
            case Ended(report, reason):
                # A call that was cut off has no end of its own.
                for index, call in calls.items():
                    yield self._call(call, index)
                yield self._object() | self._end(report, reason)
            case Started() | Progress() | Measured():
                pass

    def _part(
        self, content: str = "", thinking: str = "", chances: Sequence[TokenChances] = ()
    ) -> dict[str, Any]:
        return self._object(content, thinking, chances=chances) | {"done": False}

    def _call(self, call: Call, index: int) -> dict[str, Any]:
        called = _called(call, index)
        # A call that was cut off cannot be made; what there is of it is not lost.
        if called is None:
            return self._part(call.arguments)
        return self._object(calls=[called]) | {"done": False}

    def _object(
        self,
        content: str = "",
        thinking: str = "",
        calls: Sequence[dict[str, Any]] = (),
        chances: Sequence[TokenChances] = (),
    ) -> dict[str, Any]:
        thought = {"thinking": thinking} if thinking else {}
        if self._is_chat:
            called = {"tool_calls": calls} if calls else {}
            body: dict[str, Any] = {
                "message": {"role": "assistant", "content": content, **thought, **called}
            }
        else:
            body = {"response": content, **thought}
        if chances:
            body["logprobs"] = logprob_entries(list(chances))
        return {"model": self._model, "created_at": _time(time.time()), **body}

    def _end(self, report: GenerationReport, reason: EndReason) -> dict[str, Any]:
        return {
            "done": True,
            "done_reason": "length" if reason == "length" else "stop",
            "total_duration": _nanoseconds(time.monotonic() - self._began_s),
            "load_duration": self._load_ns,
            "prompt_eval_count": report.n_prompt,
            "prompt_eval_duration": _nanoseconds(report.prompt_s),
            "eval_count": report.n_generated,
            "eval_duration": _nanoseconds(report.generation_s),
        }


def model_entry(info: ModelInfo, *, is_running: bool = False) -> ModelEntry:
    """Return a model as lists have it."""
    entry = ModelEntry(
        name=info.id,
        model=info.id,
        modified_at=_time(info.created),
        size=info.size_bytes,
        digest=_digest(info),
        details=_details(info),
    )
    if is_running:
        entry.context_length = info.n_ctx
        entry.size_vram = 0
    return entry


def show_model(info: ModelInfo) -> ModelFacts:
    """Return all that is said of one model."""
    name = info.architecture
    return ModelFacts(
        template=info.chat_template,
        modified_at=_time(info.created),
        details=_details(info),
        model_info={
            "general.architecture": name,
            "general.parameter_count": info.n_params,
            f"{name}.context_length": info.n_ctx_train,
            f"{name}.embedding_length": info.n_embd,
        },
        capabilities=_capabilities(info),
    )


def _capabilities(info: ModelInfo) -> list[str]:
    template = info.chat_template
    has = {
        "completion": info.can_generate,
        "tools": info.can_generate and "tools" in template,
        "thinking": info.can_generate and ("enable_thinking" in template or "<think>" in template),
        "embedding": info.can_embed,
    }
    return [name for name, is_there in has.items() if is_there]


def _details(info: ModelInfo) -> Details:
    n_millions = info.n_params / 1e6
    size = f"{n_millions / 1000:.1f}B" if n_millions >= 1000 else f"{n_millions:.2f}M"
    return Details(info.architecture, [info.architecture], size, info.quant)


def _digest(info: ModelInfo) -> str:
    """Return what tells models apart in lists; it names the facts, not the bytes of a file."""
    facts = f"{info.id} {info.created} {info.size_bytes}"
    return hashlib.sha256(facts.encode()).hexdigest()


def _called(call: Call, index: int) -> dict[str, Any] | None:
    arguments = call_object(call.arguments)
    if arguments is None:
        return None
    return {
        "id": call.id,
        "function": {"index": index, "name": call.name, "arguments": arguments},
    }


def _line(payload: object) -> bytes:
    return msgspec.json.encode(payload) + b"\n"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _nanoseconds(seconds: float) -> int:
    return int(1e9 * seconds)
