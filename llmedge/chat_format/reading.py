"""What the readers of all families share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from llmedge.chat_format import json_stream
from llmedge.chat_format.parts import Sink
from llmedge.chat_format.scanner import NotACallError, Scanner, Steps
from llmedge.chat_format.tools import Tool

Tools: TypeAlias = Mapping[str, Tool]
Reader: TypeAlias = Callable[[Scanner, Sink, Tools], Steps[None]]

MAX_NAME = 256


def attempt(scan: Scanner, sink: Sink, steps: Steps[None], *, marker: str = "") -> Steps[bool]:
    """Read a call, or go back to where it seemed to begin: its marker was content."""
    mark = scan.mark()
    try:
        yield from steps
    except NotACallError:
        scan.rewind(mark)
        sink.content(marker)
        return False
    scan.release(mark)
    return True


def skip_marker(scan: Scanner, *markers: str) -> Steps[bool]:
    """Take a marker, and white space before it, if it stands here; otherwise nothing."""
    mark = scan.mark()
    yield from scan.skip_space()
    if (yield from scan.has(*markers)):
        scan.release(mark)
        return True
    scan.rewind(mark)
    return False


def json_calls(
    scan: Scanner, sink: Sink, known: Tools | None = None, dividers: tuple[str, ...] = (",",)
) -> Steps[None]:
    """Read one call as a JSON object, or several in a list or one after the other.

    Raises:
        NotACallError: There is not even one.
    """
    is_list = yield from skip_marker(scan, "[")
    yield from json_stream.call(scan, sink, known)
    while (yield from attempt(scan, sink, _next_call(scan, sink, known, dividers))):
        pass
    if is_list:
        yield from skip_marker(scan, "]")


def _next_call(
    scan: Scanner, sink: Sink, known: Tools | None, dividers: tuple[str, ...]
) -> Steps[None]:
    yield from skip_marker(scan, *dividers)
    yield from json_stream.call(scan, sink, known)


def plain(scan: Scanner, sink: Sink, tools: Tools) -> Steps[None]:
    """Read an answer without calls."""
    del tools
    while (yield from scan.peek()):
        yield from scan.until(("\0",), sink.content)
