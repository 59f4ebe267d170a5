"""The objects of one text completion, whole or in chunks."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

from msgspec import UNSET, UnsetType

from llmedge.engine.generation import Progress
from llmedge.serve import answer_schema as wire
from llmedge.serve.answer import Answer, ChatPart, Content, Ended, Measured
from llmedge.serve.completion import finite, new_common, progress_of, timings_of, usage_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmedge.engine.generation import GenerationReport, TokenChances


class TextAnswer:
    """Builds the objects of one answer; they share an id, a time and a model.

    Args:
        model: The model's id.
        fingerprint: Names the software.
        n: Choices, over all prompts.
        n_per_prompt: Choices of each prompt.
    """

    def __init__(self, model: str, fingerprint: str, n: int, *, n_per_prompt: int) -> None:
        self._common = new_common("cmpl", model, fingerprint)
        self._n = n
        self._n_per_prompt = n_per_prompt
        self._offsets = [_Offsets() for _ in range(n)]
        self._reports: dict[int, GenerationReport] = {}
        self._times: wire.Timings | UnsetType = UNSET

    def whole(self, answers: Sequence[Answer]) -> wire.TextCompletion:
        """Return the answer that is not streamed."""
        reports = [answer.report for answer in answers]
        return wire.TextCompletion(
            **self._common,
            choices=[
                wire.TextChoice(
                    index,
                    answer.content,
                    answer.reason,
                    self._offsets[index].logprobs(answer.chances),
                )
                for index, answer in enumerate(answers)
            ],
            usage=usage_of(reports, self._n_per_prompt),
            timings=timings_of(reports[0]) if self._n == 1 else UNSET,
        )

    def first(self) -> list[wire.TextCompletion]:
        """Return the chunks that begin the stream: none."""
        return []

    def chunk(self, index: int, part: ChatPart) -> wire.TextCompletion | None:
        """Return the chunk that a part of a choice makes, if it makes one."""
        if isinstance(part, Ended):
            self._reports[index] = part.report
            chunk = self._chunk(wire.TextChoice(index, "", part.reason))
            if self._n == 1:
                chunk.timings = timings_of(part.report)
            return chunk
        if isinstance(part, Progress):
            chunk = self._chunk(wire.TextChoice(index, ""))
            chunk.prompt_progress = progress_of(part)
            return chunk
        if isinstance(part, Measured):
            self._times = timings_of(part.report)
        if not isinstance(part, Content):
            return None
        logprobs = self._offsets[index].logprobs(part.chances)
        chunk = self._chunk(wire.TextChoice(index, part.text, None, logprobs))
        chunk.timings, self._times = self._times, UNSET
        return chunk

    def usage(self) -> wire.TextCompletion:
        """Return the chunk that counts the tokens: no choices."""
        chunk = self._chunk()
        reports = [self._reports[index] for index in range(self._n)]
        chunk.usage = usage_of(reports, self._n_per_prompt)
        if self._n == 1:
            chunk.timings = timings_of(reports[0])
        return chunk

    def _chunk(self, *choices: wire.TextChoice) -> wire.TextCompletion:
        return wire.TextCompletion(**self._common, choices=list(choices))


class _Offsets:
    """Knows where in the text each token begins, in characters."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._n_chars = 0

    def logprobs(self, chances: Sequence[TokenChances]) -> wire.TextLogprobs | None:
        """Return the log probabilities of the next tokens."""
        if not chances:
            return None
        offsets: list[int] = []
        for step in chances:
            offsets.append(self._n_chars)
            self._n_chars += len(self._decoder.decode(step.chosen.piece))
        return wire.TextLogprobs(
            [_name(step.chosen.piece) for step in chances],
            [finite(step.chosen.logprob) for step in chances],
            [{_name(c.piece): finite(c.logprob) for c in step.top} for step in chances],
            offsets,
        )


def _name(piece: bytes) -> str:
    """Return a token as OpenAI's older API writes it."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)
