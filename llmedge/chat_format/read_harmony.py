"""GPT-OSS: messages with a channel and a receiver, one after the other."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from llmedge.chat_format import json_stream
from llmedge.chat_format.reading import Tools, attempt, skip_marker
from llmedge.chat_format.scanner import CutOffError, NotACallError, Scanner, Steps

if TYPE_CHECKING:
    from llmedge.chat_format.parts import Sink

END_REASONING = "<|end|><|start|>assistant<|channel|>final<|message|>"

_ENDS = ("<|end|>", "<|call|>", "<|return|>", "<|start|>assistant")
_RECEIVER = re.compile(r" to=([^\s<]+)")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_MAX_HEADER = 512


def harmony(scan: Scanner, sink: Sink, tools: Tools) -> Steps[None]:
    """Read messages until the text ends. Text without a header is the answer."""
    while (yield from scan.peek()):
        if sink.is_reasoning:  # the prompt ended inside
            yield from _reasoning(scan, sink)
            continue
        yield from scan.has("<|start|>assistant")
        if not (yield from attempt(scan, sink, _message(scan, sink, tools))):
            yield from scan.until(_ENDS, sink.content)


def _message(scan: Scanner, sink: Sink, tools: Tools) -> Steps[None]:
    mark = scan.mark()
    start = yield from scan.has("<|channel|>", " to=")
    scan.rewind(mark)
    if not start:
        raise NotACallError
    try:
        header, _ = yield from scan.text_until(("<|message|>",), limit=_MAX_HEADER)
    except CutOffError as error:
        if " to=" in error.text:
            raise
        yield from scan.until(("<|message|>",), _drop)
        return  # the beginning of a header says nothing
    receivers, channels = _RECEIVER.findall(header), _CHANNEL.findall(header)
    receiver = receivers[-1] if receivers else "assistant"
    if receiver != "assistant":
        before, _, name = receiver.partition("functions.")
        if not tools or before or not name:
            raise NotACallError
        index = sink.start_call(name)
        yield from json_stream.arguments(scan, sink, index)
        yield from skip_marker(scan, "<|call|>", "<|end|>")
    elif channels and channels[-1] == "analysis":
        sink.enter_reasoning()
        yield from _reasoning(scan, sink)
    else:
        yield from scan.until(_ENDS, sink.content)


def _reasoning(scan: Scanner, sink: Sink) -> Steps[None]:
    if (yield from scan.until(_ENDS, sink.reasoning)):
        sink.leave_reasoning()


def _drop(text: str) -> None:
    """Take no notice of a text."""
