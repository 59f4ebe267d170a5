"""Grammars that make a model write calls in its family's form, with arguments by their schemas.

The grammar is text in llguidance's Lark. Which marks are single control tokens is the vocabulary's
business, so they are given: llguidance tells such a token from the same letters.

Source: llguidance `docs/syntax.md`.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from llmedge.chat_format.forced_values import gemma_object, tagged_arguments
from llmedge.chat_format.forms import FORMS, PLACES, Form

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmedge.chat_format.detect import ChatFormat
    from llmedge.chat_format.tools import Tool, ToolChoice, ToolMode

_MARK = re.compile(r"<[^<>\n]{1,40}>|\[/?[A-Z_]{3,20}\]")


def marks(chat_format: ChatFormat) -> tuple[str, ...]:
    """Return the texts of a family that may be single tokens in a vocabulary."""
    form, reasoning = FORMS[chat_format.family], chat_format.reasoning
    texts = [form.first, form.call, form.between or "", form.last, form.quote]
    texts += [reasoning.start, reasoning.end, reasoning.end_text] if reasoning else []
    if not isinstance(form.notation, str):
        style = form.notation
        texts += [style.key, style.text_key_end, style.json_key_end, style.value_end]
    found = {
        mark for text in texts for piece in PLACES.split(text) for mark in _MARK.findall(piece)
    }
    return tuple(sorted(found))


def call_grammar(
    chat_format: ChatFormat,
    tools: Sequence[Tool],
    choice: ToolChoice,
    *,
    tokens: Mapping[str, int] | None = None,
    is_reasoning: bool = False,
) -> str | None:
    """Return the grammar of an answer with calls.

    With `required` the answer is reasoning, where the family has it, and calls. With `auto` it is
    free until a call begins, and from there what a call must be.

    Args:
        chat_format: What the model writes.
        tools: Those that were offered.
        choice: Which may or must be called.
        tokens: Those of `marks` that are control tokens, with their ids.
        is_reasoning: The prompt ended inside of reasoning.

    Returns:
        The grammar; `None` where nothing is to be constrained: no calls are wanted, or they are
        optional and the family has no clear beginning of a call.
    """
    form = FORMS[chat_format.family]
    chosen = [tool for tool in tools if choice.name in (None, tool.name)]
    if choice.mode == "none" or not chosen or (choice.mode == "auto" and not form.trigger):
        return None
    grammar = _Grammar(tokens or {})
    is_parallel = choice.parallel and form.between is not None
    start = grammar.reasoning(chat_format, choice.mode, is_open=is_reasoning)
    if choice.mode == "auto":
        grammar.add_free_text(form)
        is_repeated = is_parallel and not form.first
        start += "(before calls)* rest" if is_repeated else "(rest | before calls)"
    else:
        start += "calls"
    grammar.add_calls(form, chosen, is_parallel=is_parallel, is_begun=choice.mode == "auto")
    return grammar.text(start)


class _Grammar:
    """Rules of a grammar while it is written."""

    def __init__(self, tokens: Mapping[str, int]) -> None:
        self._tokens = tokens
        self._split = re.compile("|".join(map(re.escape, tokens))) if tokens else None
        self._rules: list[str] = []

    def text(self, start: str) -> str:
        """Return the whole grammar."""
        return "\n".join(["%llguidance {}", f"start: {start}", *self._rules, ""])

    def rule(self, name: str, body: str) -> str:
        """Add a rule and return its name."""
        self._rules.append(f"{name}: {body}")
        return name

    def literal(self, text: str) -> str:
        """Return a text as terms: strings, and tokens by their numbers."""
        terms: list[str] = []
        at = 0
        for match in self._split.finditer(text) if self._split else ():
            terms += _quoted(text[at : match.start()])
            terms.append(f"<[{self._tokens[match.group()]}]>")
            at = match.end()
        return " ".join([*terms, *_quoted(text[at:])])

    def until(self, name: str, end: str) -> str:
        """Add a rule of any text up to its first end, and return its name."""
        token = self._split.search(end) if self._split else None
        if token:  # no text contains a token, so it needs no lazy match
            return self.rule(name, f"TEXT {self.literal(end[token.start() :])}")
        self.rule(f"{name}_end[lazy]", f"TEXT {self.literal(end)}")
        return self.rule(name, f"{name}_end")

    def reasoning(self, chat_format: ChatFormat, mode: ToolMode, *, is_open: bool) -> str:
        """Add what may come before calls, and return it as terms.

        Before free text a mark of letters cannot be told from that text: it is then part of it.
        """
        given = chat_format.reasoning
        if given is None:
            return ""
        is_token = bool(self._split and self._split.match(given.start))
        if mode == "auto" and not is_open and not is_token:
            return ""
        self._text_terminal()
        self.rule("SPACE", r"/[ \n]{0,4}/")
        end = "<|end|><|start|>assistant" if chat_format.family == "gpt_oss" else given.end
        self.until("thought", end)
        if is_open:
            return "thought SPACE "
        self.rule("reasoning", f"{self.literal(given.start)} thought SPACE")
        return "reasoning? "

    def add_free_text(self, form: Form) -> None:
        """Add what comes before a call that need not come, its beginning included."""
        self._text_terminal()
        self.until("before", form.trigger)
        self.rule("rest", "TEXT")

    def add_calls(
        self, form: Form, tools: Sequence[Tool], *, is_parallel: bool, is_begun: bool
    ) -> None:
        """Add the calls; where they are begun, without the trigger that began them."""
        trigger = form.trigger if is_begun else ""
        first = form.first.removeprefix(trigger) if form.first else ""
        many = is_parallel and not (is_begun and not form.first)
        more = f" ({self.literal(form.between or '')} call)*" if many else ""
        self.rule("calls", f"{self.literal(first)} call{more} {self.literal(form.last)}".strip())
        self.rule("call", " | ".join(f"call_{place}" for place in range(len(tools))))
        call = form.call if form.first else form.call.removeprefix(trigger)
        for place, tool in enumerate(tools):
            self._add_call(place, tool, form, call)

    def _add_call(self, place: int, tool: Tool, form: Form, call: str) -> None:
        terms: list[str] = []
        literal = ""
        for piece in PLACES.split(call):
            if piece in ("{id}", "{arguments}"):
                terms.append(self.literal(literal))
                literal = ""
                terms.append(self._place(piece, place, tool, form))
            else:
                literal += tool.name if piece == "{name}" else piece
        terms.append(self.literal(literal))
        self.rule(f"call_{place}", " ".join(term for term in terms if term))

    def _place(self, piece: str, place: int, tool: Tool, form: Form) -> str:
        if piece == "{id}":
            if not any(rule.startswith("CALL_ID:") for rule in self._rules):
                self.rule("CALL_ID", "/[a-zA-Z0-9]{9}/")
            return "CALL_ID"
        name = f"arguments_{place}"
        if form.notation == "json":
            schema = json.dumps(tool.parameters, ensure_ascii=False)
            return self.rule(name, f"%json {schema}")
        self._text_terminal()
        if form.notation == "gemma":
            return gemma_object(self, name, tool.parameters, form.quote)
        return tagged_arguments(self, name, tool.parameters, form.notation)

    def _text_terminal(self) -> None:
        if "TEXT: /(.|\\n)*/" not in self._rules:
            self.rule("TEXT", "/(.|\\n)*/")


def _quoted(text: str) -> list[str]:
    return [json.dumps(text, ensure_ascii=False)] if text else []
