"""What a chat template can show and what it wants to be given, learnt by rendering small examples.

Rendering is someone else's business, near or far: `probes` yields an example, is sent what the
template made of it, and returns what was learnt in the end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

Message: TypeAlias = dict[str, object]

_NAME = "measure_probe"
_CALLED = re.compile(r"""(?<![\\'])\bneedle\b(?![\\']).{0,60}?\bhay-0\b""", re.DOTALL)
_USER: Message = {"role": "user", "content": "A question"}
_ANSWER: Message = {"role": "assistant", "content": "An answer"}
_SYSTEM: Message = {"role": "system", "content": "hazel"}
_TOOL: Message = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "Measures.",
        "parameters": {
            "type": "object",
            "properties": {"needle": {"type": "string", "description": "What to find."}},
            "required": ["needle"],
        },
    },
}


@dataclass(frozen=True, slots=True)
class Probe:
    """Messages to render with the start of an answer, and tools to show."""

    messages: list[Message]
    tools: list[Message] | None = None


@dataclass(frozen=True, slots=True)
class TemplateTraits:
    """What a template does with what it is given.

    Attributes:
        has_system: It shows a system message that comes first.
        keeps_system: It does so after a tool's message, too.
        has_late_system: It shows one that comes later.
        can_repeat: Two messages of a user may follow each other.
        has_tools: It shows tools.
        has_calls: It shows the calls of an assistant's message.
        has_results: It shows a tool's message.
        wants_objects: Arguments of calls are given as objects, otherwise as JSON text.
        wants_no_content: A message with calls and no text has `None` for content, otherwise "".
        wants_short_ids: Ids of calls have nine letters and digits.
        has_parallel_calls: A message may have several calls.
    """

    has_system: bool = True
    keeps_system: bool = True
    has_late_system: bool = True
    can_repeat: bool = True
    has_tools: bool = True
    has_calls: bool = True
    has_results: bool = True
    wants_objects: bool = True
    wants_no_content: bool = False
    wants_short_ids: bool = False
    has_parallel_calls: bool = True


def probes() -> Generator[Probe, str | None, TemplateTraits]:
    """Yield examples; each must be answered with its rendered text, `None` where it was refused."""
    first: dict[str, bool] = {}
    first["has_tools"] = _NAME in ((yield Probe([_USER], [_TOOL])) or "")
    tools = [_TOOL] if first["has_tools"] else None
    first["has_system"] = "hazel" in ((yield Probe([_SYSTEM, _USER], tools)) or "")
    late = yield Probe([_USER, _ANSWER, _SYSTEM, _USER], tools)
    first["has_late_system"] = "hazel" in (late or "")
    first["can_repeat"] = ((yield Probe([_USER, _USER], tools)) or "").count("A question") == 2
    for wants_objects, wants_no_content in product((True, False), (False, True)):
        form = _Arguments(wants_objects, wants_no_content)
        text = yield Probe(_calls(form), tools)
        if _shows_call(text):
            break
    else:
        text = (yield Probe([_USER, _ANSWER, _result("result"), _USER], tools)) or ""
        return TemplateTraits(**first, has_calls=False, has_results="result" in text)
    kept = yield Probe([_SYSTEM, *_calls(form)], tools)
    long_ids = yield Probe(_calls(form, ids=("call_0123456789abcdef",)), tools)
    two = yield Probe(_calls(form, ids=("aaaaaaaa1", "aaaaaaaa2")), tools)
    return TemplateTraits(
        **first,
        wants_objects=form.as_objects,
        wants_no_content=form.without_content,
        keeps_system="hazel" in (kept or ""),
        has_results="result-0" in (text or ""),
        wants_short_ids=not _shows_call(long_ids),
        has_parallel_calls=all(f"hay-{place}" in (two or "") for place in (0, 1)),
    )


def learn_traits(render: Callable[[Probe], str | None]) -> TemplateTraits:
    """Learn a template's traits with a function that renders, or returns `None` where it cannot."""
    steps = probes()
    probe = next(steps)
    while True:
        try:
            probe = steps.send(render(probe))
        except StopIteration as done:
            traits: TemplateTraits = done.value
            return traits


@dataclass(frozen=True, slots=True)
class _Arguments:
    as_objects: bool
    without_content: bool


def _calls(form: _Arguments, ids: tuple[str, ...] = ("aaaaaaaa1",)) -> list[Message]:
    calls: list[Message] = []
    for place, name in enumerate(ids):
        as_object = {"needle": f"hay-{place}"}
        arguments: object = as_object if form.as_objects else f'{{"needle": "hay-{place}"}}'
        function = {"name": _NAME, "arguments": arguments}
        calls.append({"id": name, "type": "function", "function": function})
    content = None if form.without_content else ""
    asked: Message = {"role": "assistant", "content": content, "tool_calls": calls}
    results = [_result(f"result-{place}", name) for place, name in enumerate(ids)]
    return [_USER, asked, *results]


def _result(text: str, name: str = "aaaaaaaa1") -> Message:
    return {"role": "tool", "tool_call_id": name, "name": _NAME, "content": text}


def _shows_call(text: str | None) -> bool:
    """Tell whether a text shows the example's call: not as Python, not as JSON within a string."""
    return text is not None and _NAME in text and bool(_CALLED.search(text))
