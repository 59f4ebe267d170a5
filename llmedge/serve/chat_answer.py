"""The objects of one chat completion, whole or in chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import UNSET, UnsetType

from llmedge.engine.generation import Progress
from llmedge.serve import answer_schema as wire
from llmedge.serve.answer import (
    Answer,
    CallArguments,
    CallStarted,
    ChatPart,
    Content,
    Ended,
    Measured,
    Reasoning,
)
from llmedge.serve.completion import finite, new_common, progress_of, timings_of, usage_of
from llmedge.serve.schema import CalledFunction, ToolCall

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmedge.engine.generation import GenerationReport, TokenChance, TokenChances


class ChatAnswer:
    """Builds the objects of one answer; they share an id, a time and a model.

    Args:
        model: The model's id.
        fingerprint: Names the software.
        n: Choices.

    Attributes:
        verbose: What the model was asked, where that is to be said.
    """

    def __init__(self, model: str, fingerprint: str, n: int) -> None:
        self._common = new_common("chatcmpl", model, fingerprint)
        self._n = n
        self._reports: dict[int, GenerationReport] = {}
        self.verbose: wire.Verbose | UnsetType = UNSET
        self._times: wire.Timings | UnsetType = UNSET

    def whole(self, answers: Sequence[Answer]) -> wire.ChatCompletion:
        """Return the answer that is not streamed."""
        reports = [answer.report for answer in answers]
        return wire.ChatCompletion(
            **self._common,
            choices=[_choice(index, answer) for index, answer in enumerate(answers)],
            usage=usage_of(reports, self._n),
            timings=timings_of(reports[0]) if self._n == 1 else UNSET,
            verbose=self.verbose,
        )

    def first(self) -> list[wire.ChatChunk]:
        """Return the chunks that begin the stream."""
        return [
            self._chunk(wire.ChunkChoice(i, wire.ChunkDelta(role="assistant", content="")))
            for i in range(self._n)
        ]

    def chunk(self, index: int, part: ChatPart) -> wire.ChatChunk | None:
        """Return the chunk that a part of a choice makes, if it makes one."""
        if isinstance(part, Ended):
            self._reports[index] = part.report
            chunk = self._chunk(wire.ChunkChoice(index, wire.ChunkDelta(), part.reason))
            if self._n == 1:
                chunk.timings = timings_of(part.report)
            return chunk
        if isinstance(part, Progress):
            chunk = self._chunk(wire.ChunkChoice(index, wire.ChunkDelta()))
            chunk.prompt_progress = progress_of(part)
            return chunk
        if isinstance(part, Measured):
            self._times = timings_of(part.report)
        delta = _delta(part)
        if delta is None:
            return None
        choice = wire.ChunkChoice(index, delta)
        if isinstance(part, Content):
            choice.logprobs = _logprobs(part.chances)
        chunk = self._chunk(choice)
        chunk.timings, self._times = self._times, UNSET
        return chunk

    def usage(self) -> wire.ChatChunk:
        """Return the chunk that counts the tokens: no choices."""
        chunk = self._chunk()
        chunk.usage = usage_of([self._reports[index] for index in range(self._n)], self._n)
        if self._n == 1:
            chunk.timings = timings_of(self._reports[0])
        return chunk

    def _chunk(self, *choices: wire.ChunkChoice) -> wire.ChatChunk:
        return wire.ChatChunk(**self._common, choices=list(choices))


def _choice(index: int, answer: Answer) -> wire.ChatChoice:
    message = wire.AnswerMessage(answer.content)
    if answer.reasoning:
        message.reasoning_content = answer.reasoning
    if answer.calls:
        message.content = answer.content or None
        message.tool_calls = [
            ToolCall(CalledFunction(call.name, call.arguments), call.id) for call in answer.calls
        ]
    return wire.ChatChoice(index, message, answer.reason, _logprobs(answer.chances))


def _delta(part: ChatPart) -> wire.ChunkDelta | None:
    match part:
        case Content(text):
            return wire.ChunkDelta(content=text)
        case Reasoning(text):
            return wire.ChunkDelta(reasoning_content=text)
        case CallStarted(index, id_, name):
            function = wire.FunctionDelta(name, "")
            call = wire.CallDelta(index, function, id_, "function")
        case CallArguments(index, text):
            call = wire.CallDelta(index, wire.FunctionDelta(arguments=text))
        case _:
            return None
    return wire.ChunkDelta(tool_calls=[call])


def _logprobs(chances: Sequence[TokenChances]) -> wire.ChatLogprobs | None:
    if not chances:
        return None
    return wire.ChatLogprobs(
        [
            wire.ChosenToken(
                **_token(step.chosen),
                top_logprobs=[wire.LikelyToken(**_token(chance)) for chance in step.top],
            )
            for step in chances
        ]
    )


def _token(chance: TokenChance) -> dict[str, Any]:
    return {
        "token": chance.piece.decode("utf-8", "replace"),
        "bytes": list(chance.piece),
        "logprob": finite(chance.logprob),
    }
