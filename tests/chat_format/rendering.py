"""Conversations through templates, for tests."""

from __future__ import annotations

from pathlib import Path

from llmedge.chat_format.template_traits import Probe, TemplateTraits, learn_traits
from llmedge.core.errors import LlmedgeError
from llmedge.runtime.chat_template import ChatTemplate

DATA = Path(__file__).parent / "data"
SMALL = {path.stem: path.read_text("utf-8") for path in sorted(DATA.glob("*.jinja"))}


def render(source: str, messages, tools=None, **variables) -> str:
    template = ChatTemplate(source, bos="<s>", eos="</s>")
    given = {**variables, "tools": tools} if tools else variables
    return template.render(messages, variables=given)


def traits_of(source: str) -> TemplateTraits:
    def answer(probe: Probe) -> str | None:
        try:
            return render(source, probe.messages, probe.tools)
        except LlmedgeError:
            return None

    return learn_traits(answer)
