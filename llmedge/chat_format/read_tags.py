"""Calls with each argument between tags: Qwen3-Coder, Seed-OSS, GLM, DeepSeek V3.2 and V4.

A tag says nothing of a value's type, the tool's schema does: what may be text is text, and all else
is JSON if it reads as JSON.
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.chat_format import schemas
from llmedge.chat_format.reading import MAX_NAME, Reader, Tools, attempt, skip_marker
from llmedge.chat_format.scanner import NotACallError, Scanner, Steps

if TYPE_CHECKING:
    from llmedge.chat_format.parts import Sink
    from llmedge.chat_format.schemas import JsonObject

_MAX_PYTHON = 1 << 14
_LITERALS = {"True": "true", "False": "false", "None": "null"}


@dataclass(frozen=True, slots=True)
class Tags:
    """How a family writes a call.

    Attributes:
        openings: What a call begins with. The first is written; none begins with another.
        name_end: What follows its name.
        closings: What it ends with, in this order; some may be missing.
        key: What stands before an argument's name.
        text_key_end: What stands between the name and a value that is text.
        json_key_end: The same where the value is JSON; the same text, or one that tells them apart.
        value_end: What stands after the value.
    """

    openings: tuple[str, ...]
    name_end: str
    closings: tuple[str, ...]
    key: str
    text_key_end: str
    json_key_end: str
    value_end: str


QWEN3_CODER = Tags(
    openings=("<tool_call>\n<function=", "<tool_call><function=", "<function="),
    name_end=">\n",
    closings=("</function>\n", "</tool_call>"),
    key="<parameter=",
    text_key_end=">\n",
    json_key_end=">\n",
    value_end="\n</parameter>\n",
)
SEED_OSS = Tags(
    openings=("<seed:tool_call>\n<function=", "<seed:tool_call><function="),
    name_end=">\n",
    closings=("</function>\n", "</seed:tool_call>"),
    key="<parameter=",
    text_key_end=">",
    json_key_end=">",
    value_end="</parameter>\n",
)
GLM = Tags(
    openings=("<tool_call>",),
    name_end="\n",
    closings=("</tool_call>",),
    key="<arg_key>",
    text_key_end="</arg_key>\n<arg_value>",
    json_key_end="</arg_key>\n<arg_value>",
    value_end="</arg_value>\n",
)


def _dsml(block: str) -> Tags:
    return Tags(
        openings=(f'<｜DSML｜{block}>\n<｜DSML｜invoke name="', '<｜DSML｜invoke name="'),
        name_end='">\n',
        closings=("</｜DSML｜invoke>\n", f"</｜DSML｜{block}>"),
        key='<｜DSML｜parameter name="',
        text_key_end='" string="true">',
        json_key_end='" string="false">',
        value_end="</｜DSML｜parameter>\n",
    )


DEEPSEEK_V3_2 = _dsml("function_calls")
DEEPSEEK_V4 = _dsml("tool_calls")


def tags(style: Tags) -> Reader:
    """Make a reader of calls in a style; white space between tags is free."""

    def read(scan: Scanner, sink: Sink, tools: Tools) -> Steps[None]:
        while opening := (yield from scan.until(style.openings, sink.content)):
            steps = _Call(scan, sink, tools, style).read()
            yield from attempt(scan, sink, steps, marker=opening)

    return read


class _Call:
    def __init__(self, scan: Scanner, sink: Sink, tools: Tools, style: Tags) -> None:
        self._scan, self._sink, self._tools, self._style = scan, sink, tools, style
        self._index = 0

    def read(self) -> Steps[None]:
        scan, style = self._scan, self._style
        closing, key = style.closings[0].rstrip(), style.key
        ends = (style.name_end.rstrip() or style.name_end, key, closing)
        name, end = yield from scan.text_until(ends, limit=MAX_NAME)
        if end in (key, closing):
            scan.give_back(end)
        name = name.strip()
        if len(name.split()) != 1 or name.startswith(("{", "[")):
            raise NotACallError
        self._index = self._sink.start_call(name)
        tool = self._tools.get(name)
        is_whole = yield from self._arguments({} if tool is None else tool.parameters)
        self._sink.end_call(self._index, is_whole=is_whole)
        if is_whole:
            for mark in style.closings:
                yield from skip_marker(scan, mark.rstrip())

    def _arguments(self, schema: JsonObject) -> Steps[bool]:
        scan, style = self._scan, self._style
        known = schemas.properties(schema)
        before = "{"
        while (yield from skip_marker(scan, style.key)):
            try:
                key, end = yield from self._key()
            except NotACallError:
                self._emit(before)
                return False
            self._emit(f"{before}{json.dumps(key, ensure_ascii=False)}: ")
            if not (yield from self._value(schemas.types(schemas.as_object(known.get(key))), end)):
                return False
            before = ", "
        self._emit(before if before == "{" else "")
        mark = scan.mark()
        is_closed = False
        for closing in style.closings:
            is_closed = is_closed or (yield from skip_marker(scan, closing.rstrip()))
        scan.rewind(mark)
        self._emit("}" if is_closed else "")
        return is_closed

    def _key(self) -> Steps[tuple[str, str]]:
        """Read an argument's name and what stands between it and its value."""
        text_end, json_end = self._style.text_key_end, self._style.json_key_end
        first, _, last = text_end.partition("\n")
        if text_end != json_end:
            return (yield from self._scan.text_until((text_end, json_end), limit=MAX_NAME))
        key, _ = yield from self._scan.text_until((first,), limit=MAX_NAME)
        if last and not (yield from skip_marker(self._scan, last)):
            raise NotACallError
        return key, text_end

    def _value(self, types: frozenset[str], end: str) -> Steps[bool]:
        scan, style = self._scan, self._style
        is_marked = style.text_key_end != style.json_key_end
        ends = tuple({style.value_end.rstrip(), style.value_end.strip()})
        if end.endswith("\n"):
            yield from scan.has("\n")
        if types == frozenset({"string"}) or (is_marked and end == style.text_key_end):
            self._emit('"')
            if not (yield from scan.until(ends, self._emit_text)):
                return False
            self._emit('"')
            return True
        parts: list[str] = []
        is_closed = bool((yield from scan.until(ends, parts.append)))
        text = "".join(parts)
        self._emit(_as_json(text, types) if is_closed else text)
        return is_closed

    def _emit(self, text: str) -> None:
        self._sink.arguments(self._index, text)

    def _emit_text(self, text: str) -> None:
        self._sink.arguments(self._index, json.dumps(text, ensure_ascii=False)[1:-1])


def _as_json(text: str, types: frozenset[str]) -> str:
    """Return a value as JSON: as it is, where it may be that, and else as a string."""
    bare = _LITERALS.get(text.strip(), text.strip())
    kind = schemas.type_of_text(bare)
    if kind and (not types or kind in types or "string" not in types):
        return bare
    if types & {"object", "array"} and len(text) <= _MAX_PYTHON:
        try:  # Seed-OSS is shown objects as Python writes them
            return json.dumps(ast.literal_eval(bare), ensure_ascii=False, allow_nan=False)
        except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
            pass
    return json.dumps(text, ensure_ascii=False)
