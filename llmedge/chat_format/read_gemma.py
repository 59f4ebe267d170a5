"""Gemma: fenced calls up to version 3, marks with a notation of their own since FunctionGemma."""

from __future__ import annotations

import ast
import json
from typing import TYPE_CHECKING

from llmedge.chat_format import json_stream
from llmedge.chat_format.reading import MAX_NAME, Reader, Tools, attempt, json_calls, skip_marker
from llmedge.chat_format.scanner import Emit, NotACallError, Scanner, Steps
from llmedge.chat_format.schemas import is_object

if TYPE_CHECKING:
    from llmedge.chat_format.parts import Sink

_MAX_PYTHON = 1 << 14
_LITERALS = {"None": "null", "True": "true", "False": "false"}
_FENCE = "```"
_LANGUAGES = ("json", "tool_code", "tool_call", "python")


def fenced(scan: Scanner, sink: Sink, tools: Tools) -> Steps[None]:
    """Read Gemma 2 and 3: JSON or Python calls of offered tools, in a fence or at the beginning."""
    yield from attempt(scan, sink, _fenced_calls(scan, sink, tools))
    while (yield from scan.until((_FENCE,), sink.content)):
        if (yield from attempt(scan, sink, _fence(scan, sink, tools), marker=_FENCE)):
            yield from skip_marker(scan, _FENCE)


def _fence(scan: Scanner, sink: Sink, tools: Tools) -> Steps[None]:
    if not (yield from scan.has(*_LANGUAGES)):
        raise NotACallError
    yield from _fenced_calls(scan, sink, tools)


def _fenced_calls(scan: Scanner, sink: Sink, tools: Tools) -> Steps[None]:
    mark = scan.mark()
    yield from skip_marker(scan, "[")
    first = yield from scan.skip_space()
    scan.rewind(mark)
    if first == "{":
        yield from json_calls(scan, sink, tools)
    else:
        yield from _python_calls(scan, sink, tools)


def _python_calls(scan: Scanner, sink: Sink, tools: Tools) -> Steps[None]:
    """Read `[name(key=value), …]`, each call once it is whole."""
    is_list = yield from skip_marker(scan, "[")
    is_first = True
    while True:
        mark = scan.mark()
        try:
            name, arguments = yield from _python_call(scan, tools)
        except NotACallError:
            scan.rewind(mark)
            if is_first:
                raise
            return
        scan.release(mark)
        is_first = False
        index = sink.start_call(name)
        sink.arguments(index, arguments)
        sink.end_call(index, is_whole=True)
        if not (yield from skip_marker(scan, ",", "\n")):
            break
    if is_list:
        yield from skip_marker(scan, "]")


def _python_call(scan: Scanner, tools: Tools) -> Steps[tuple[str, str]]:
    yield from scan.skip_space()
    is_printed = bool((yield from scan.has("print(")))
    name = ""
    while (char := (yield from scan.peek())) and (char.isalnum() or char in "_.-"):
        name += yield from scan.take()
        if len(name) > MAX_NAME:
            raise NotACallError
    if name not in tools or (yield from scan.peek()) != "(":
        raise NotACallError
    source = yield from _to_closing(scan)
    if is_printed and not (yield from skip_marker(scan, ")")):
        raise NotACallError
    return name, _evaluated(source)


def _to_closing(scan: Scanner) -> Steps[str]:
    """Return the text from this bracket to the one that closes it."""
    text, depth, quote = "", 0, ""
    while char := (yield from scan.take()):
        text += char
        if len(text) > _MAX_PYTHON:
            break
        if quote:
            if char == "\\":
                text += yield from scan.take()
            elif char == quote:
                quote = ""
        elif char in "'\"":
            quote = char
        else:
            depth += (char in "([{") - (char in ")]}")
            if not depth:
                return text
    raise NotACallError


def _evaluated(source: str) -> str:
    """Return the keyword arguments of a call, all literals, as JSON."""
    try:
        node = ast.parse(f"f{source}", mode="eval").body
        if not isinstance(node, ast.Call) or node.args:
            raise NotACallError
        values = {str(word.arg): ast.literal_eval(word.value) for word in node.keywords if word.arg}
        return json.dumps(values, ensure_ascii=False, allow_nan=False)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise NotACallError from None


def marked(opening: str, closing: str, quote: str) -> Reader:
    """Make a reader of `call:name{key:value,…}` between marks, with a mark for quotes."""

    def read(scan: Scanner, sink: Sink, tools: Tools) -> Steps[None]:
        del tools
        while (yield from scan.until((opening,), sink.content)):
            if (yield from attempt(scan, sink, _call(scan, sink, quote), marker=opening)):
                yield from skip_marker(scan, closing)

    return read


def _call(scan: Scanner, sink: Sink, quote: str) -> Steps[None]:
    yield from skip_marker(scan, "call:")
    name, _ = yield from scan.text_until(("{",), limit=MAX_NAME)
    if len(name.split()) != 1:
        raise NotACallError
    scan.give_back("{")
    index = sink.start_call(name.strip())
    parts: list[str] = []

    def emit(text: str) -> None:
        parts.append(text)
        sink.arguments(index, text)

    is_closed = yield from _value(scan, emit, quote, 0)
    sink.end_call(index, is_whole=is_closed and is_object("".join(parts)))


def _value(scan: Scanner, emit: Emit, quote: str, depth: int) -> Steps[bool]:
    """Hand on a value as JSON; False where it breaks off or is malformed."""
    yield from scan.skip_space()
    if (yield from scan.has(quote)):
        return (yield from _text(scan, emit, quote))
    first = yield from scan.peek()
    if first and first in "{[":
        nested = _members if first == "{" else _items
        return depth < json_stream.MAX_DEPTH and (yield from nested(scan, emit, quote, depth))
    if first == '"':
        return (yield from json_stream.value(scan, emit))
    return (yield from _scalar(scan, emit))


def _text(scan: Scanner, emit: Emit, quote: str) -> Steps[bool]:
    emit('"')
    if not (yield from scan.until((quote,), lambda text: emit(_escaped(text)))):
        return False
    emit('"')
    return True


def _members(scan: Scanner, emit: Emit, quote: str, depth: int) -> Steps[bool]:
    emit((yield from scan.take()))
    while (yield from scan.skip_space()) not in ("}", ""):
        if (yield from scan.has(quote)):
            if not (yield from _text(scan, emit, quote)):
                return False
            if not (yield from skip_marker(scan, ":")):
                return False
        else:
            try:
                key, _ = yield from scan.text_until((":",), limit=MAX_NAME)
            except NotACallError:
                return False
            emit(json.dumps(key.strip().strip('"'), ensure_ascii=False))
        emit(": ")
        if not (yield from _value(scan, emit, quote, depth + 1)):
            return False
        if (yield from skip_marker(scan, ",")):
            emit(", ")
    emit((yield from scan.take()))
    return True


def _items(scan: Scanner, emit: Emit, quote: str, depth: int) -> Steps[bool]:
    emit((yield from scan.take()))
    while (yield from scan.skip_space()) not in ("]", ""):
        if not (yield from _value(scan, emit, quote, depth + 1)):
            return False
        if (yield from skip_marker(scan, ",")):
            emit(", ")
    emit((yield from scan.take()))
    return True


def _scalar(scan: Scanner, emit: Emit) -> Steps[bool]:
    text = ""
    while (char := (yield from scan.peek())) and char not in ",}]<\n" and len(text) <= MAX_NAME:
        text += yield from scan.take()
    bare = text.strip()
    emit(_LITERALS.get(bare, bare))
    return bool(bare)


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
