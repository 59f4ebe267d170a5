"""What is asked of an engine, and what comes of it: the words that both sides of the pipe speak.

Everything here is small, frozen and encodes to msgpack, tagged by its name. Prompts and answers are
the client's: nothing here is ever logged.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from llmedge.runtime.sampler import SamplingOptions

FinishReason: TypeAlias = Literal["stop", "length", "cancelled"]
ConstraintKind: TypeAlias = Literal["json_schema", "json_object", "regex", "lark", "gbnf"]


class ChatPrompt(msgspec.Struct, frozen=True, tag=True):
    """Messages for the model's chat template.

    Attributes:
        messages: As templates want them: `role`, `content`, `tool_calls` …
        tools: Tools offered to the model, as templates want them.
        arguments: Further variables of the template, such as `enable_thinking`.
        continues: The last message is the beginning of the answer: its turn is left open.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    arguments: dict[str, Any] = {}
    continues: bool = False


class TextPrompt(msgspec.Struct, frozen=True, tag=True):
    """Text to continue as it is."""

    text: str


class TokenPrompt(msgspec.Struct, frozen=True, tag=True):
    """Tokens to continue."""

    tokens: list[int]


Prompt: TypeAlias = ChatPrompt | TextPrompt | TokenPrompt


class Constraint(msgspec.Struct, frozen=True):
    """What the text must be; it is that, or an error.

    Attributes:
        kind: The language that it is said in.
        text: A JSON schema, a regular expression, a Lark grammar or llama.cpp's GBNF; empty for
            `json_object`.
    """

    kind: ConstraintKind
    text: str = ""


class ReasoningLimit(msgspec.Struct, frozen=True):
    """How much a model may reason before it answers, and how its family writes that.

    Attributes:
        n_max: Tokens of reasoning, its marks not counted; then `closing` is written.
        start: What opens it.
        end: What closes it.
        closing: What to write to close it: `end` with the layout around it.
        is_open: The prompt ends inside of reasoning; otherwise the text may begin with it.
    """

    n_max: int
    start: str
    end: str
    closing: str
    is_open: bool = False


class Generation(msgspec.Struct, frozen=True):
    """One request for one text.

    Attributes:
        prompt: What comes before it.
        max_tokens: Most tokens to generate; `None` goes on to the end of the context.
        stop: Texts that end it and are not part of it.
        stop_tokens: Tokens that do.
        sampling: How tokens are chosen.
        ignore_end: Go on after the model ends its text; for measurements.
        n_logprobs: Report each token's log probability beside so many of the likeliest; `None`
            reports none.
        constraint: What the text must be.
        shows_special: Control tokens that do not end the text appear in it, for parsers of tool
            calls.
        adapters: LoRA adapters by name or number, with their scales; those that are not named are
            not used. Empty uses all as they were loaded.
        cache_key: Only requests with the same key share cached prefixes.
        reasoning: How much of the text may be reasoning; `None` has no bound.
        caches: Use cached prefixes, and leave one.
        tells_chances_after: The chances are those after the samplers, of the tokens they leave.
        tells_tokens: Say the tokens of each part of the text.
        tells_progress: Say how far the prompt is.
        tells_times: Say with each part of the text what it took so far.
    """

    prompt: Prompt
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    sampling: SamplingOptions = SamplingOptions()
    ignore_end: bool = False
    n_logprobs: int | None = None
    constraint: Constraint | None = None
    shows_special: bool = False
    adapters: tuple[tuple[str | int, float], ...] = ()
    cache_key: str = ""
    reasoning: ReasoningLimit | None = None
    caches: bool = True
    tells_chances_after: bool = False
    tells_tokens: bool = False
    tells_progress: bool = False
    tells_times: bool = False


class TokenChance(msgspec.Struct, frozen=True, array_like=True):
    """A token and how likely it was: over the whole vocabulary, unless it was asked otherwise.

    Attributes:
        token: Its id.
        piece: Its bytes; they may be part of a character.
        logprob: The natural logarithm of its probability.
    """

    token: int
    piece: bytes
    logprob: float


class TokenChances(msgspec.Struct, frozen=True, array_like=True):
    """One step of a text with log probabilities: what was chosen, and what was likeliest."""

    chosen: TokenChance
    top: list[TokenChance] = []


class GenerationReport(msgspec.Struct, frozen=True):
    """What one generation took.

    Attributes:
        n_prompt: Tokens of the prompt.
        n_cached: Of these, tokens whose keys and values were there already.
        n_generated: Tokens generated, the ending one included.
        queue_s: Seconds until its prompt was begun.
        prompt_s: Seconds from there to its first token.
        generation_s: Seconds from there to its last.
        finish_reason: `stop` (ended by itself, or at a stop text or token), `length` or
            `cancelled`.
        stop_text: The stop text that ended it.
        n_drafted: Tokens that were guessed ahead.
        n_accepted: Of these, tokens that the model agreed to.
        energy_j: Joules, its share of those of the steps that it was in; `None`: not measured.
    """

    n_prompt: int
    n_cached: int
    n_generated: int
    queue_s: float
    prompt_s: float
    generation_s: float
    finish_reason: FinishReason
    stop_text: str | None = None
    n_drafted: int = 0
    n_accepted: int = 0
    energy_j: float | None = None


class Started(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The request was understood and can be answered; it may still wait for its turn."""

    n_prompt: int


class Progress(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """How far a prompt is, where that was wanted: told first when it begins, last when it is done.

    Attributes:
        n_prompt: Its tokens.
        n_cached: Of these, tokens that were there already.
        n_done: Of these, tokens that are there now.
        seconds: Since it was begun.
    """

    n_prompt: int
    n_cached: int
    n_done: int
    seconds: float


class Delta(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The next part of a text: whole characters, and the tokens behind it where they were wanted.

    The text may be empty where tokens were, and lag behind them while a stop text could begin.
    `report` is what the text took so far, where that was wanted.
    """

    text: str
    chances: list[TokenChances] = []
    tokens: list[int] = []
    report: GenerationReport | None = None


class Finished(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The end, with what it took."""

    report: GenerationReport


Event: TypeAlias = Started | Progress | Delta | Finished
