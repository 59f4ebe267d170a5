"""A model's text, as it is generated, into content, reasoning and tool calls.

The text comes with its control tokens shown. However it is split, the parts are the same once
joined. A parser never fails and never loses text:

- What looks like a call and is none comes out as content, its marks included. In forms without
  marks of their own (Llama, Gemma, the generic one) a call is one only if it names an offered tool.
- A call whose arguments break off or are malformed comes out as far as it goes, and its `CallEnded`
  says that it is not whole. What follows it is content.
- Layout is left out: marks of whole calls and of reasoning, and the white space around them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.chat_format.parts import Part, Sink
from llmedge.chat_format.read_gemma import fenced, marked
from llmedge.chat_format.read_harmony import harmony
from llmedge.chat_format.read_json import after_mark, bare, deepseek, llama, mistral, tagged
from llmedge.chat_format.read_tags import (
    DEEPSEEK_V3_2,
    DEEPSEEK_V4,
    GLM,
    QWEN3_CODER,
    SEED_OSS,
    tags,
)
from llmedge.chat_format.reading import Reader, Tools, plain
from llmedge.chat_format.scanner import Scanner, Steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmedge.chat_format.detect import ChatFormat, FamilyName, ReasoningMarks
    from llmedge.chat_format.tools import Tool

_READERS: dict[FamilyName, Reader] = {
    "hermes": tagged("<tool_call>", "</tool_call>"),
    "qwen3_coder": tags(QWEN3_CODER),
    "seed_oss": tags(SEED_OSS),
    "glm": tags(GLM),
    "llama": llama,
    "gemma": fenced,
    "function_gemma": marked("<start_function_call>", "<end_function_call>", "<escape>"),
    "gemma4": marked("<|tool_call>", "<tool_call|>", '<|"|>'),
    "mistral": mistral,
    "mistral_v11": mistral,
    "mistral_call_id": mistral,
    "nemotron_v2": tagged("<TOOLCALL>", "</TOOLCALL>"),
    "apriel": tagged("<tool_calls>", "</tool_calls>"),
    "granite": after_mark("<|tool_call|>"),
    "gpt_oss": harmony,
    "deepseek_r1": deepseek,
    "deepseek": deepseek,
    "deepseek_v3_2": tags(DEEPSEEK_V3_2),
    "deepseek_v4": tags(DEEPSEEK_V4),
    "none": bare,
}


class ChatParser:
    """Parses one answer.

    Args:
        chat_format: What the model writes.
        tools: Tools that were offered; without them nothing is a call.
        is_reasoning: The prompt ended inside of reasoning.
    """

    def __init__(
        self, chat_format: ChatFormat, tools: Sequence[Tool] = (), *, is_reasoning: bool = False
    ) -> None:
        self._format = chat_format
        self._scan, self._sink = Scanner(), Sink()
        if is_reasoning:
            self._sink.enter_reasoning()
        self._steps = self._read({tool.name: tool for tool in tools})
        self._is_done = False
        self._advance()

    @property
    def is_reasoning(self) -> bool:
        """Whether what comes next is reasoning."""
        return self._sink.is_reasoning

    @property
    def end_text(self) -> str:
        """What closes this family's reasoning; "" where it has none."""
        marks = self._format.reasoning
        return marks.end_text if marks else ""

    def feed(self, text: str) -> list[Part]:
        """Take the next text and return what it completes."""
        if text:
            self._scan.add(text)
            self._advance()
        return self._sink.take()

    def finish(self) -> list[Part]:
        """Take the end of the text and return what is left; twice is harmless."""
        self._scan.end()
        self._advance()
        self._sink.finish()
        return self._sink.take()

    def _advance(self) -> None:
        if not self._is_done:
            self._is_done = next(self._steps, True) is True

    def _read(self, tools: Tools) -> Steps[None]:
        scan, sink, family = self._scan, self._sink, self._format.family
        if family == "gpt_oss":
            yield from harmony(scan, sink, tools)
            return
        marks = self._format.reasoning
        if marks:
            yield from _reasoning(scan, sink, marks)
        yield from (_READERS[family] if tools else plain)(scan, sink, tools)


def _reasoning(scan: Scanner, sink: Sink, marks: ReasoningMarks) -> Steps[None]:
    """Read the reasoning before an answer, if there is any."""
    if not sink.is_reasoning:
        mark = scan.mark()
        yield from scan.skip_space()
        if not (yield from scan.has(marks.start)):
            scan.rewind(mark)
            return
        scan.release(mark)
        sink.enter_reasoning()
    if (yield from scan.until((marks.end,), sink.reasoning)):
        sink.leave_reasoning()
