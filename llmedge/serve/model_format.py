"""How a served model writes tool calls and reasoning: its template asked once, each answer parsed.

`chat_format` knows the families and no engine; this asks an engine for what that wants to know.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from llmedge.chat_format import parts as parsed
from llmedge.chat_format.detect import ChatFormat, detect
from llmedge.chat_format.forced import call_grammar, marks
from llmedge.chat_format.normalise import normalise
from llmedge.chat_format.parser import ChatParser
from llmedge.chat_format.template_traits import TemplateTraits, probes
from llmedge.chat_format.tools import ToolChoice, parse_tools
from llmedge.core.errors import EngineError, LlmedgeError, UsageError
from llmedge.engine.generation import ChatPrompt, Constraint, ReasoningLimit
from llmedge.serve.answer import (
    CallArguments,
    CallEnded,
    CallStarted,
    ChatCall,
    Content,
    NamedTool,
    Reasoning,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmedge.engine.engine import Engine

ParsedPart: TypeAlias = Content | Reasoning | CallStarted | CallArguments | CallEnded


class AnswerFormat:
    """What one answer is asked with, and how its text is read.

    Args:
        prompt: The call as the model's template wants it.
        parser: Reads the text; `None` where all of it is content.
        constraint: What makes the model write the calls that it has to.
        reasoning: How much of the text may be reasoning; `None` has no bound.
    """

    def __init__(
        self,
        prompt: ChatPrompt,
        parser: ChatParser | None = None,
        constraint: Constraint | None = None,
        reasoning: ReasoningLimit | None = None,
    ) -> None:
        self.prompt = prompt
        self.constraint = constraint
        self.reasoning = reasoning
        self._parser = parser

    @property
    def shows_special(self) -> bool:
        """Whether the parser wants to see control tokens."""
        return self._parser is not None

    def feed(self, text: str) -> Sequence[ParsedPart]:
        """Take the next part of the text as generated, and return what it means."""
        if self._parser is None:
            return (Content(text),) if text else ()
        return [_part(part) for part in self._parser.feed(text)]

    def finish(self) -> Sequence[ParsedPart]:
        """Return the rest once the text has ended."""
        return [_part(part) for part in self._parser.finish()] if self._parser else ()


class ModelFormats:
    """The formats of the models that were asked so far; each template is tried out once.

    Args:
        reasoning_budget: Most tokens of reasoning where a call does not say; `None` has no bound.
    """

    def __init__(self, reasoning_budget: int | None = None) -> None:
        self._reasoning_budget = reasoning_budget
        self._known: dict[tuple[str, str], ModelFormat] = {}

    async def learn(self, engine: Engine) -> ModelFormat:
        """Return what a model writes, and try its template out if that was not done yet.

        Raises:
            EngineError: The engine's process ended.
        """
        info = engine.info
        key = (info.id, info.chat_template)
        if key not in self._known:
            self._known[key] = await _learn(engine)
        return self._known[key]

    async def open(self, engine: Engine, call: ChatCall) -> AnswerFormat:
        """Return the format of one answer.

        Raises:
            UsageError: A message or a tool is malformed, or calls and another form are both wanted.
            EngineError: The engine's process ended.
        """
        budget = self._budget(call)
        tools = () if call.tool_choice == "none" else parse_tools(call.tools)
        if tools and call.constraint is not None:
            raise UsageError(
                "an answer of a given form cannot call tools",
                'leave the tools out, or send tool_choice "none"',
            )
        known = await self.learn(engine)
        prompt = ChatPrompt(
            messages=normalise(call.messages, tools, known.form, known.traits),
            tools=[tool.to_json() for tool in tools] if tools and known.traits.has_tools else None,
            arguments=_arguments(call, budget),
            continues=call.continues,
        )
        if call.constraint is not None or not (tools or known.form.reasoning):
            return AnswerFormat(prompt)
        is_reasoning = bool(known.form.reasoning) and known.form.opens_reasoning(
            await engine.render(prompt)
        )
        grammar = call_grammar(
            known.form, tools, _choice(call), tokens=known.tokens, is_reasoning=is_reasoning
        )
        return AnswerFormat(
            prompt,
            ChatParser(known.form, tools, is_reasoning=is_reasoning),
            Constraint("lark", grammar) if grammar else None,
            _reasoning_limit(known.form, budget, may_call=bool(tools), is_open=is_reasoning),
        )

    def _budget(self, call: ChatCall) -> int | None:
        """Return the most tokens of reasoning; `None` without a bound."""
        given = call.reasoning_budget
        budget = self._reasoning_budget if given is None else given
        return None if budget is None or budget < 0 else budget


@dataclass(frozen=True, slots=True)
class ModelFormat:
    """What is known of one model.

    Attributes:
        form: What it writes.
        traits: What its template shows.
        tokens: Its marks that are control tokens.
    """

    form: ChatFormat
    traits: TemplateTraits
    tokens: Mapping[str, int]


async def _learn(engine: Engine) -> ModelFormat:
    template = engine.info.chat_template
    form = detect(template)
    if not template:  # the engine refuses the chat itself, in words of its own
        return ModelFormat(form, TemplateTraits(), {})
    tokens: dict[str, int] = {}
    for mark in marks(form):
        ids = await engine.tokenize(mark, add_special=False, parse_special=True)
        letters = await engine.tokenize(mark, add_special=False, parse_special=False)
        if len(ids) == 1 and ids != letters:
            tokens[mark] = ids[0]
    return ModelFormat(form, await _learn_traits(engine), tokens)


async def _learn_traits(engine: Engine) -> TemplateTraits:
    steps = probes()
    probe = next(steps)
    while True:
        try:
            text = await engine.render(ChatPrompt(probe.messages, tools=probe.tools))
        except EngineError:
            raise
        except LlmedgeError:  # the template refuses such messages
            text = None
        try:
            probe = steps.send(text)
        except StopIteration as done:
            traits: TemplateTraits = done.value
            return traits


def _arguments(call: ChatCall, budget: int | None) -> dict[str, object]:
    # The name that templates of reasoning models share for it.
    thinks: dict[str, object] = {"enable_thinking": False} if budget == 0 else {}
    return {**thinks, **call.template_arguments}


def _reasoning_limit(
    form: ChatFormat, budget: int | None, *, may_call: bool, is_open: bool
) -> ReasoningLimit | None:
    marks = form.reasoning
    if marks is None or budget is None:
        return None
    closing = form.closing(may_call=may_call)
    return ReasoningLimit(budget, marks.start, marks.end, closing, is_open)


def _choice(call: ChatCall) -> ToolChoice:
    match call.tool_choice:
        case NamedTool(name):
            return ToolChoice("required", name, parallel=False)
        case mode:
            return ToolChoice(mode, parallel=call.parallel_tool_calls)


def _part(part: parsed.Part) -> ParsedPart:
    match part:
        case parsed.Content(text):
            return Content(text)
        case parsed.Reasoning(text):
            return Reasoning(text)
        case parsed.CallStarted(index, name):
            return CallStarted(index, f"call_{secrets.token_hex(12)}", name)
        case parsed.CallArguments(index, text):
            return CallArguments(index, text)
        case parsed.CallEnded(index):
            return CallEnded(index)
