"""What every dialect of the endpoint asks of a model, and the parts that its answer comes in.

A dialect turns its own requests into a `ChatCall` and `ChatPart`s into its own answers; how a model
family writes tool calls and reasoning, and how an engine is found, is behind `Responder`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from llmedge.engine.generation import (
    ChatPrompt,
    Constraint,
    Delta,
    Finished,
    Generation,
    GenerationReport,
    Progress,
    Started,
    TokenChances,
)
from llmedge.runtime.sampler import SamplingOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from llmedge.engine.engine import Engine, ModelInfo

EndReason: TypeAlias = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class NamedTool:
    """The one tool that must be called."""

    name: str


ToolChoice: TypeAlias = Literal["auto", "none", "required"] | NamedTool


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatCall:
    """One chat request, whatever dialect it was asked in.

    Attributes:
        messages: In OpenAI's form: `role`, `content` as text, `tool_calls` with arguments as JSON
            text, `tool_call_id`, `reasoning_content`.
        tools: In OpenAI's form: `{"type": "function", "function": {…}}`.
        tool_choice: Whether and which of them must be called.
        parallel_tool_calls: Several may be called in one answer.
        sampling: How tokens are chosen.
        max_tokens: Most tokens to generate; `None` goes on to the end of the context.
        stop: Texts that end the answer and are not part of it.
        constraint: What the answer must be, where it is content.
        template_arguments: Further variables of the chat template.
        reasoning_budget: Most tokens of reasoning; -1 has no bound, `None` is the endpoint's own.
        continues: The last message is the beginning of the answer.
        n_logprobs: Likeliest tokens to report beside each token; `None` reports none.
        cache_key: Only requests with the same key share cached prefixes.
        stop_tokens: Tokens that end the answer.
        ignore_end: Go on after the model ends its text; for measurements.
        adapters: LoRA adapters by name or number, with their scales.
        caches: Use cached prefixes, and leave one.
        tells_progress: Say how far the prompt is.
        tells_times: Say with each part what the answer took so far.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    sampling: SamplingOptions = SamplingOptions()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    constraint: Constraint | None = None
    template_arguments: dict[str, Any] = field(default_factory=dict[str, Any])
    reasoning_budget: int | None = None
    continues: bool = False
    n_logprobs: int | None = None
    cache_key: str = ""
    stop_tokens: tuple[int, ...] = ()
    ignore_end: bool = False
    adapters: tuple[tuple[str | int, float], ...] = ()
    caches: bool = True
    tells_progress: bool = False
    tells_times: bool = False


@dataclass(frozen=True, slots=True)
class Content:
    """The next part of the answer's text.

    Attributes:
        text: Whole characters.
        chances: The tokens behind it, where they were wanted.
    """

    text: str
    chances: tuple[TokenChances, ...] = ()


@dataclass(frozen=True, slots=True)
class Reasoning:
    """The next part of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStarted:
    """A tool call begins; the previous one has ended."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next part of a call's arguments; joined they are JSON, unless they were cut off."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A call has all its arguments."""

    index: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The answer's end, with what it took."""

    report: GenerationReport
    reason: EndReason


@dataclass(frozen=True, slots=True)
class Measured:
    """What the answer took up to the end of the next part, where that was wanted."""

    report: GenerationReport


ChatPart: TypeAlias = (
    Started
    | Progress
    | Measured
    | Content
    | Reasoning
    | CallStarted
    | CallArguments
    | CallEnded
    | Ended
)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that can be asked for.

    Attributes:
        info: As far as it is known while the model is not loaded.
        is_loaded: Whether an answer can begin without loading it.
    """

    info: ModelInfo
    is_loaded: bool


class Responder(Protocol):
    """Finds models and lets them answer; the dialects know nothing below it.

    Each method raises an `LlmedgeError`: of the request where that is at fault.
    """

    async def model(self, name: str | None) -> Engine:
        """Return the engine of a model, loaded if need be; `None` is the only one there is.

        Raises:
            NotFoundError: No such model is served here; it is never answered by another one.
        """
        ...

    def models(self) -> Sequence[ServedModel]:
        """Return all models that can be asked for."""
        ...

    async def prompt(self, engine: Engine, call: ChatCall) -> ChatPrompt:
        """Return the prompt that `chat` would give to an engine."""
        ...

    def chat(self, engine: Engine, call: ChatCall) -> AsyncIterator[ChatPart]:
        """Answer: one `Started`, any number of parts, one `Ended`.

        Closing the iterator, or cancelling who waits for it, stops the computation at once.
        """
        ...


async def text_parts(engine: Engine, generation: Generation) -> AsyncIterator[ChatPart]:
    """Run a generation without a chat around it; all that it yields is content."""
    async for event in engine.generate(generation):
        match event:
            case Started() | Progress():
                yield event
            case Delta(text, chances, report=report):
                if report is not None:
                    yield Measured(report)
                yield Content(text, tuple(chances))
            case Finished(report):
                yield Ended(report, "length" if report.finish_reason == "length" else "stop")


@dataclass(slots=True)
class Call:
    """A tool call of an answer; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str = ""


@dataclass(slots=True)
class Answer:
    """A whole answer, as `collect` puts it together."""

    report: GenerationReport
    reason: EndReason
    content: str
    reasoning: str
    calls: list[Call]
    chances: list[TokenChances]


async def collect(parts: AsyncIterator[ChatPart]) -> Answer:
    """Put an answer together from its parts."""
    content: list[str] = []
    reasoning: list[str] = []
    calls: list[Call] = []
    chances: list[TokenChances] = []
    async for part in parts:
        match part:
            case Content(text, some):
                content.append(text)
                chances += some
            case Reasoning(text):
                reasoning.append(text)
            case CallStarted(_, id_, name):
                calls.append(Call(id_, name))
            case CallArguments(index, text):
                calls[index].arguments += text
            case Ended(report, reason):
                texts = "".join(content), "".join(reasoning)
                return Answer(report, reason, *texts, calls, chances)
            case Started() | Progress() | Measured() | CallEnded():
                pass
    raise RuntimeError("the answer has no end")
