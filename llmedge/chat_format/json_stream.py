"""JSON as it arrives: values handed on character by character, calls written as objects."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from llmedge.chat_format.scanner import Emit, NotACallError, Scanner, Steps
from llmedge.chat_format.schemas import is_object, type_of_text

if TYPE_CHECKING:
    from collections.abc import Collection

    from llmedge.chat_format.parts import Sink

MAX_DEPTH = 100
_MAX_NAME = 256
_ARGUMENTS = frozenset({"arguments", "parameters"})
_OTHERS = frozenset({"name", "id", "type"})
_CLOSER = {"{": "}", "[": "]"}
_ESCAPED = {chr(code): json.dumps(chr(code))[1:-1] for code in range(0x20)}


def value(scan: Scanner, emit: Emit) -> Steps[bool]:
    """Hand on one value; False where it breaks off or its brackets do not match.

    Line breaks and other control characters in strings, which JSON forbids and models write, are
    handed on escaped. What is between the brackets is not checked.
    """
    first = yield from scan.skip_space()
    if first not in _CLOSER:
        return (yield from (_string if first == '"' else _scalar)(scan, emit))
    return (yield from _nested(scan, emit))


def call(scan: Scanner, sink: Sink, known: Collection[str] | None = None) -> Steps[None]:
    """Read `{"name": …, "arguments": …}`, its keys in any order, `parameters` as good as arguments.

    What follows the arguments and is malformed is no part of the call: it is left to be read.

    Args:
        scan: Stands at the brace, or at white space before it.
        sink: Takes the call.
        known: Names that a call may have; any, without them.

    Raises:
        NotACallError: It is something else; nothing was given to the sink.
    """
    reader = _Call(scan, sink, known)
    yield from reader.read()


def arguments(scan: Scanner, sink: Sink, index: int) -> Steps[bool]:
    """Hand on a value as a call's arguments and end the call; False where it breaks off."""
    parts: list[str] = []

    def emit(text: str) -> None:
        parts.append(text)
        sink.arguments(index, text)

    is_closed = yield from value(scan, emit)
    sink.end_call(index, is_whole=is_closed and is_object("".join(parts)))
    return is_closed


def string(scan: Scanner) -> Steps[str]:
    """Read a string.

    Raises:
        NotACallError: None stands here, or it is malformed or longer than a name.
    """
    parts: list[str] = []
    if (yield from scan.skip_space()) != '"':
        raise NotACallError
    steps = _string(scan, parts.append)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            is_whole: bool = done.value
            break
        if len(parts) > _MAX_NAME:
            raise NotACallError
        yield
    try:
        text: object = json.loads("".join(parts)) if is_whole else None
    except ValueError:
        text = None
    if not isinstance(text, str) or len(parts) > _MAX_NAME:
        raise NotACallError
    return text


class _Call:
    def __init__(self, scan: Scanner, sink: Sink, known: Collection[str] | None) -> None:
        self._scan, self._sink, self._known = scan, sink, known
        self._name = ""
        self._early: str | None = None  # arguments that came before the name
        self._is_started = False
        self._mark = 0  # what follows it was not given out

    def read(self) -> Steps[None]:
        scan = self._scan
        if (yield from scan.skip_space()) != "{":
            raise NotACallError
        yield from scan.take()
        self._mark = scan.mark()
        try:
            while (yield from self._member()):
                scan.release(self._mark)
                self._mark = scan.mark()
            scan.release(self._mark)
        except NotACallError:
            scan.rewind(self._mark)
            if not self._is_started:
                raise
        if not self._is_started:
            self._mark = scan.mark()
            self._start("{}" if self._early is None else self._early)
            scan.release(self._mark)

    def _member(self) -> Steps[bool]:
        """Read one member and what divides it from the next; tell whether one follows."""
        scan = self._scan
        key = yield from string(scan)
        yield from scan.skip_space()
        if not (yield from scan.has(":")):
            raise NotACallError
        if key == "name" and not self._name:
            yield from self._read_name()
        elif key in _ARGUMENTS and not self._is_started and self._early is None:
            yield from self._read_arguments()
        elif key not in _OTHERS or not (yield from value(scan, _drop)):
            raise NotACallError
        yield from scan.skip_space()
        divider = yield from scan.has(",", "}")
        if not divider or (divider == "}" and not self._name):
            raise NotACallError
        return divider == ","

    def _read_name(self) -> Steps[None]:
        name = yield from string(self._scan)
        if not name or (self._known is not None and name not in self._known):
            raise NotACallError
        self._name = name
        if self._early is not None:
            self._start(self._early)

    def _read_arguments(self) -> Steps[None]:
        scan, first = self._scan, (yield from self._scan.skip_space())
        if self._name and first == "{":
            self._is_started = True
            index = self._sink.start_call(self._name)
            is_closed = yield from arguments(scan, self._sink, index)
            scan.release(self._mark)
            self._mark = scan.mark()
            if not is_closed:
                raise NotACallError
            return
        parts: list[str] = []
        if not (yield from value(scan, parts.append)):
            raise NotACallError
        self._early = "".join(parts)
        if self._name:
            self._start(self._early)

    def _start(self, text: str) -> None:
        """Begin a call whose arguments are all there: an object, null, or JSON within a string."""
        if text == "null":
            text = "{}"
        elif text.startswith('"'):
            text = _unquoted(text)
        self._is_started = True
        self._early = text
        index = self._sink.start_call(self._name)
        self._sink.arguments(index, text)
        self._sink.end_call(index, is_whole=is_object(text))
        self._scan.release(self._mark)
        self._mark = self._scan.mark()


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        return text


def _nested(scan: Scanner, emit: Emit) -> Steps[bool]:
    open_brackets: list[str] = []
    while char := (yield from scan.peek()):
        if char == '"':
            if not (yield from _string(scan, emit)):
                return False
            continue
        if char in _CLOSER:
            open_brackets.append(_CLOSER[char])
        elif char in "}]" and open_brackets.pop() != char:
            break
        if len(open_brackets) > MAX_DEPTH:
            break
        yield from scan.take()
        emit(char)
        if not open_brackets:
            return True
    return False


def _string(scan: Scanner, emit: Emit) -> Steps[bool]:
    emit((yield from scan.take()))
    while char := (yield from scan.take()):
        if char == "\\":
            emit(char + (yield from scan.take()))
            continue
        emit(_ESCAPED.get(char, char))
        if char == '"':
            return True
    return False


def _scalar(scan: Scanner, emit: Emit) -> Steps[bool]:
    parts: list[str] = []
    while (char := (yield from scan.peek())) and (char.isalnum() or char in "+-."):
        parts.append((yield from scan.take()))
        if len(parts) > _MAX_NAME:
            break
    text = "".join(parts)
    emit(text)
    return len(parts) <= _MAX_NAME and bool(type_of_text(text))


def _drop(text: str) -> None:
    """Take no notice of a text."""
