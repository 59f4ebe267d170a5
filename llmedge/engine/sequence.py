"""One request's tokens, and how far they are computed."""

from __future__ import annotations

import math
from bisect import insort
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from llmedge.core.errors import LlmedgeError
    from llmedge.engine.backend import Adapters, Sampler
    from llmedge.engine.draft import PromptLookup
    from llmedge.engine.generation import FinishReason


PrefixKey: TypeAlias = "tuple[str, Adapters, int | None]"


@dataclass(slots=True, eq=False)
class Sequence:
    """What the scheduler works on; its fields below `drafts` are the scheduler's to change.

    Attributes:
        id: The request's.
        tokens: The prompt; what is generated is appended.
        sampler: Chooses its tokens, and keeps its state while the sequence is paused.
        max_tokens: Most tokens to generate; `None` goes on to the end of the context.
        end_tokens: Tokens that end it.
        cache_key: Only sequences with the same key share prefixes.
        adapters: LoRA adapters by name, with their scales; prefixes are shared with the same only.
        caches: Share prefixes at all; another that does not is none of its kind.
        drafts: Guesses tokens ahead; `None` does not.
        n_prompt: Tokens of the prompt.
        n_cached: Of these, tokens that were in the kv cache when it began.
        n_computed: Tokens in the kv cache.
        n_drafted: Tokens guessed ahead.
        n_accepted: Of these, tokens that the sampler chose, too.
        n_pauses: Times that it was set aside.
        seq_id: Its place in the kv cache; -1 while it has none.
        order: When it came, in relation to others.
        leader: A sequence whose prompt is being computed and begins alike: waited for.
        n_awaited: So many tokens of the leader are to be shared.
        stops: Lengths at which a part of the prompt ends, so that others can go on from there or
            its state can be saved; ascending.
        added_s: When it came, by the scheduler's clock.
        started_s: When its prompt was begun; `None` before.
        first_s: When its first token was there; `None` before.
        last_s: When its last token was there.
        energy_j: Its share of the energy of the steps that it was in; not a number where that is
            not measured.
    """

    id: int
    tokens: list[int]
    sampler: Sampler
    max_tokens: int | None = None
    end_tokens: frozenset[int] = frozenset()
    cache_key: str = ""
    adapters: Adapters = ()
    caches: bool = True
    drafts: PromptLookup | None = None
    n_prompt: int = field(init=False)
    n_cached: int = 0
    n_computed: int = 0
    n_drafted: int = 0
    n_accepted: int = 0
    n_pauses: int = 0
    seq_id: int = -1
    order: int = 0
    leader: Sequence | None = None
    n_awaited: int = 0
    stops: list[int] = field(default_factory=list[int])
    added_s: float = 0.0
    started_s: float | None = None
    first_s: float | None = None
    last_s: float = 0.0
    energy_j: float = math.nan

    def __post_init__(self) -> None:
        self.n_prompt = len(self.tokens)

    @property
    def prefix_key(self) -> PrefixKey:
        """What is equal where prefixes may be shared."""
        return self.cache_key, self.adapters, None if self.caches else self.id

    @property
    def n_generated(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.n_prompt

    @property
    def n_left(self) -> int:
        """Tokens to compute until the next one can be sampled; 1 while it generates."""
        return len(self.tokens) - self.n_computed

    @property
    def is_led(self) -> bool:
        """Whether what it waits for is still to come."""
        leader = self.leader
        return leader is not None and leader.seq_id >= 0 and leader.n_computed < self.n_awaited

    def add_stop(self, length: int) -> None:
        """Let a part of the prompt end when so many tokens are computed."""
        if length > self.n_computed and length not in self.stops:
            insort(self.stops, length)

    def next_stop(self) -> int:
        """Return the length at which the next part of the prompt ends at the latest."""
        while self.stops and self.stops[0] <= self.n_computed:
            del self.stops[0]
        return self.stops[0] if self.stops else len(self.tokens)


class Outcome(NamedTuple):
    """What a step did to a sequence: a token, its end, or both.

    The token that ends a sequence is told of, too. An error is an end without a reason.
    """

    sequence: Sequence
    token: int | None = None
    finish_reason: FinishReason | None = None
    error: LlmedgeError | None = None

    @property
    def is_end(self) -> bool:
        """Whether nothing follows."""
        return self.finish_reason is not None or self.error is not None
