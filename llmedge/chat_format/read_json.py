"""Calls written as JSON: Hermes and Qwen, Llama 3, Mistral, Granite 3, and the generic form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.chat_format import json_stream
from llmedge.chat_format.reading import (
    MAX_NAME,
    Reader,
    Tools,
    attempt,
    json_calls,
    plain,
    skip_marker,
)
from llmedge.chat_format.scanner import NotACallError, Scanner, Steps

if TYPE_CHECKING:
    from llmedge.chat_format.parts import Sink


def tagged(opening: str, closing: str) -> Reader:
    """Make a reader of calls after a mark: a JSON object or a list of them, closed or not."""

    def read_call(scan: Scanner, sink: Sink) -> Steps[None]:
        yield from json_calls(scan, sink)
        if not (yield from skip_marker(scan, closing)):
            # Small models close one brace too many.
            yield from skip_marker(scan, "}" + closing, "}\n" + closing)

    def read(scan: Scanner, sink: Sink, tools: Tools) -> Steps[None]:
        del tools
        while (yield from scan.until((opening,), sink.content)):
            yield from attempt(scan, sink, read_call(scan, sink), marker=opening)

    return read


def after_mark(opening: str) -> Reader:
    """Make a reader of calls after a mark that nothing closes."""

    def read(scan: Scanner, sink: Sink, tools: Tools) -> Steps[None]:
        del tools
        while (yield from scan.until((opening,), sink.content)):
            yield from attempt(scan, sink, json_calls(scan, sink), marker=opening)

    return read


def bare(scan: Scanner, sink: Sink, tools: Tools) -> Steps[None]:
    """Read an answer that is nothing but calls of offered tools, as JSON; or one without calls."""
    yield from attempt(scan, sink, json_calls(scan, sink, tools, (",", ";")))
    yield from plain(scan, sink, tools)


def llama(scan: Scanner, sink: Sink, tools: Tools) -> Steps[None]:
    """Read Llama 3: bare JSON, or anything after the mark for code."""
    mark = "<|python_tag|>"
    yield from attempt(scan, sink, json_calls(scan, sink, tools, (",", ";")))
    while (yield from scan.until((mark,), sink.content)):
        calls = json_calls(scan, sink, tools, (",", ";"))
        yield from attempt(scan, sink, calls, marker=mark)


def mistral(scan: Scanner, sink: Sink, tools: Tools) -> Steps[None]:
    """Read Mistral: a list after the mark, or since version 11 a name and arguments after each."""
    del tools
    mark = "[TOOL_CALLS]"
    while (yield from scan.until((mark,), sink.content)):
        yield from attempt(scan, sink, _mistral_call(scan, sink), marker=mark)


def _mistral_call(scan: Scanner, sink: Sink) -> Steps[None]:
    first = yield from scan.skip_space()
    if first and first in "[{":
        yield from json_calls(scan, sink)
        return
    name, marker = yield from scan.text_until(("[CALL_ID]", "[ARGS]", "{"), limit=MAX_NAME)
    if marker == "[CALL_ID]":
        yield from scan.text_until(("[ARGS]",), limit=MAX_NAME)
    if marker == "{" or not is_name(name):
        raise NotACallError
    index = sink.start_call(name.strip())
    yield from json_stream.arguments(scan, sink, index)


def deepseek(scan: Scanner, sink: Sink, tools: Tools) -> Steps[None]:
    """Read DeepSeek R1, V3 and V3.1: `function`, mark, name and a fenced object, or both bare."""
    del tools
    opening, one = "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"
    while mark := (yield from scan.until((opening, one), sink.content)):
        if mark == opening and not (yield from skip_marker(scan, one)):
            sink.content(mark)
            continue
        if (yield from attempt(scan, sink, _deepseek_call(scan, sink), marker=mark)):
            yield from skip_marker(scan, "<｜tool▁call▁end｜>")
            yield from skip_marker(scan, "<｜tool▁calls▁end｜>")


def _deepseek_call(scan: Scanner, sink: Sink) -> Steps[None]:
    name, _ = yield from scan.text_until(("<｜tool▁sep｜>",), limit=MAX_NAME)
    if (yield from scan.skip_space()) != "{":
        name, _ = yield from scan.text_until(("\n",), limit=MAX_NAME)
        yield from skip_marker(scan, "```json")
    if not is_name(name):
        raise NotACallError
    index = sink.start_call(name.strip())
    if (yield from json_stream.arguments(scan, sink, index)):
        yield from skip_marker(scan, "```")


def is_name(text: str) -> bool:
    """Tell whether a text can be a tool's name: one word, with white space around it at most."""
    return len(text.split()) == 1
