"""Turns waiting requests into batches, and batches into tokens.

Knows tokens, not texts; one thread calls everything but `wants_abort`.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.core.errors import (
    ContextLengthError,
    EngineError,
    LlmedgeError,
    ResourceError,
    UsageError,
)
from llmedge.engine.backend import BatchItem, DecodeStatus
from llmedge.engine.drafter import Wish
from llmedge.engine.engine import EngineStats
from llmedge.engine.kv_cache import KvCache
from llmedge.engine.pace import Pace
from llmedge.engine.plan import Plan
from llmedge.engine.sequence import Outcome
from llmedge.engine.slots import Slots

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from llmedge.engine.backend import Adapters, Backend
    from llmedge.engine.drafter import Drafter
    from llmedge.engine.generation import FinishReason
    from llmedge.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class SchedulerOptions:
    """How to schedule.

    Attributes:
        n_slots: Sequences that run at once.
        max_state_bytes: See `KvCache`; 0 saves none.
        n_idle: See there.
    """

    n_slots: int = 4
    max_state_bytes: int = 64 << 20
    n_idle: int | None = None


class Scheduler:
    """Runs sequences over one backend, in the order in which they came.

    Args:
        backend: What computes.
        options: How to schedule.
        pace: How much of a prompt a step takes along.
        clock: Seconds from any beginning.
        take_joules: Returns the energy used since it was called last; `None` measures none.
        drafter: Guesses tokens ahead for all sequences; `None` leaves it to each one's `drafts`.
    """

    def __init__(
        self,
        backend: Backend,
        options: SchedulerOptions | None = None,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.perf_counter,
        take_joules: Callable[[], float | None] | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        """Begin with nothing to do.

        Raises:
            UsageError: More slots than sequences or tokens of a batch.
        """
        chosen = options or SchedulerOptions()
        if not 1 <= chosen.n_slots <= min(backend.n_seq_max, backend.n_batch):
            raise UsageError(
                f"{chosen.n_slots} slots over {backend.n_seq_max} sequences and batches of "
                f"{backend.n_batch} tokens",
                "use fewer slots, or a larger --batch",
            )
        self._backend = backend
        self.kv = KvCache(backend, chosen.max_state_bytes, chosen.n_idle)
        self._slots = Slots(self.kv, chosen.n_slots, clock)
        self._pace = pace or Pace(backend.n_batch)
        self._clock = clock
        self._drafter = drafter
        self._in_decode: frozenset[int] = frozenset()
        self._adapters: Adapters = ()
        self._n_generated = 0
        self._n_computed = 0
        self._n_steps = 0
        self._step_s = 0.0
        self._sampling_s = 0.0
        self._take_joules = take_joules
        self._energy_j = 0.0
        self._charged: list[tuple[Sequence, int]] = []
        self._draft_s = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether a step would do nothing."""
        return not self._slots

    @property
    def stats(self) -> EngineStats:
        """The counters of this moment; the process's memory is not among them."""
        slots = self._slots
        return EngineStats(
            n_running=len(slots.running),
            n_waiting=slots.n_waiting,
            n_paused=slots.n_paused,
            n_cells=self._backend.n_cells,
            n_cells_used=self.kv.n_used,
            n_cells_cached=self.kv.n_cached,
            n_prompt_tokens=slots.n_prompt,
            n_cached_tokens=slots.n_cached,
            n_generated_tokens=self._n_generated,
            n_computed_tokens=self._n_computed,
            n_steps=self._n_steps,
            n_pauses=slots.n_pauses,
            n_slots=slots.n_slots,
            step_s=self._step_s,
            sampling_s=self._sampling_s,
            energy_j=None if self._take_joules is None else self._energy_j,
            draft_s=self._draft_s,
        )

    def add(self, sequence: Sequence) -> None:
        """Put a new sequence in line.

        Raises:
            UsageError: Its prompt is empty, or no token is wanted.
            ContextLengthError: Its prompt leaves no room for a token.
        """
        if not sequence.tokens:
            raise UsageError("the prompt is empty")
        if sequence.max_tokens is not None and sequence.max_tokens < 1:
            raise UsageError(f"{sequence.max_tokens} tokens are none to generate")
        if sequence.n_prompt >= self._backend.n_cells:
            raise ContextLengthError(
                f"the prompt has {sequence.n_prompt} tokens, the context holds "
                f"{self._backend.n_cells}",
                "shorten the prompt, or start with a larger --ctx",
                n_prompt=sequence.n_prompt,
                n_ctx=self._backend.n_cells,
            )
        sequence.energy_j = math.nan if self._take_joules is None else 0.0
        self._slots.add(sequence)

    def cancel(self, sequence_id: int) -> None:
        """End a sequence at once; nothing more is said of it. One that is not there is ignored."""
        self._slots.end(sequence_id)
        if self._drafter is not None:
            self._drafter.end(sequence_id)

    finish = cancel  # what ended well frees the same as what did not

    def limit_slots(self, n_slots: int) -> None:
        """Change how many sequences run at once; those that run go on."""
        self._slots.n_slots = max(1, min(n_slots, self._backend.n_seq_max, self._backend.n_batch))

    def wants_abort(self, sequence_ids: Collection[int]) -> bool:
        """Tell, from any thread, whether the decode call that runs serves only these sequences."""
        in_decode = self._in_decode
        return bool(in_decode) and in_decode.issubset(sequence_ids)

    def forget(self) -> None:
        """Give up everything that is kept for later requests."""
        self.kv.clear()
        if self._drafter is not None:
            self._drafter.clear()

    def step(self) -> list[Outcome]:
        """Compute one batch and sample from it.

        Raises:
            EngineError: Nothing can be computed any more.
        """
        if self._take_joules is None:
            return self._compute()
        self._take_joules()  # what was used between two steps is nobody's
        self._charged.clear()
        outcomes = self._compute()
        self._charge(self._take_joules())
        return outcomes

    def check_integrity(self) -> None:
        """Raise `AssertionError` where the books do not agree; for tests."""
        self.kv.check_integrity()
        self._slots.check_integrity()

    def _compute(self) -> list[Outcome]:
        self._slots.fill()
        most = self._backend.n_batch
        while True:
            plan = self._plan(most)
            if not plan.items:
                return []
            status = self._decode(plan)
            if status is DecodeStatus.OK:
                return self._advance(plan)
            if status is DecodeStatus.ABORTED:
                for sequence in plan.sequences:
                    self.kv.roll_back(sequence)
                return []
            if self.kv.evict(covered=True):
                continue
            n_more = plan.n_streams + plan.n_prompt - len(plan.items)
            if n_more:
                most = max(1, n_more // 2)
            elif not self._slots.pause_youngest():
                return [self._give_up(plan.sequences[0])]

    def _plan(self, most: int) -> Plan:
        """Choose the next batch: one token of each stream, and a share of the prompts."""
        while True:
            plan = Plan()
            ready = self._turn()
            streams = [sequence for sequence in ready if sequence.n_left == 1]
            prompts = [sequence for sequence in ready if sequence.n_left > 1]
            n_left = sum(sequence.n_left for sequence in prompts)
            share = self._pace.alone(len(streams), len(prompts), n_left)
            streams = [] if share else streams
            n_streams = len(streams)
            share = min(most, n_left, share or self._pace.limit(n_streams))
            free = self.kv.make_room(n_streams + share) if ready else 0
            if free >= n_streams + min(share, 1):
                break
            if not self._slots.pause_youngest():
                share = min(share, free - n_streams)
                break
        n_batch = self._backend.n_batch
        spare = min(free, n_batch) - n_streams - share if most == n_batch else 0
        for sequence, guess in zip(streams, self._guesses(streams, max(0, spare)), strict=True):
            plan.n_streams += 1 + len(guess)
            plan.add(sequence, [sequence.tokens[-1], *guess], 1 + len(guess))
        self._add_prompts(plan, prompts, min(share, free - n_streams))
        return plan

    def _turn(self) -> list[Sequence]:
        """Return the sequences with cells; where adapters differ, those of one kind in turn."""
        ready = [sequence for sequence in self._slots.running if sequence.seq_id >= 0]
        kinds = list(dict.fromkeys(sequence.adapters for sequence in ready))
        if kinds in ([], [self._adapters]):
            return ready
        next_kind = kinds.index(self._adapters) + 1 if self._adapters in kinds else 0
        self._adapters = kinds[next_kind % len(kinds)]
        self._backend.use_adapters(self._adapters)
        return [sequence for sequence in ready if sequence.adapters == self._adapters]

    def _add_prompts(self, plan: Plan, prompts: list[Sequence], share: int) -> None:
        for sequence in prompts:
            if share <= 0:
                return
            first = sequence.n_computed
            last = min(sequence.next_stop(), first + share)
            tokens = sequence.tokens[first:last]
            plan.add(sequence, tokens, int(last == len(sequence.tokens)))
            plan.n_prompt += len(tokens)
            share -= len(tokens)

    def _guesses(self, streams: list[Sequence], spare: int) -> list[list[int]]:
        """Guess ahead for each stream, at most so many tokens in all."""
        if self._backend.cuts != "anywhere":
            return [[] for _ in streams]
        if self._drafter is not None:
            return self._ask_drafter(self._drafter, streams, spare)
        guesses: list[list[int]] = []
        for sequence in streams:
            n_max = min(spare, self._n_of_use(sequence))
            guess = sequence.drafts.draft(sequence.tokens, n_max) if sequence.drafts else []
            spare -= len(guess)
            guesses.append(guess)
        return guesses

    def _ask_drafter(
        self, drafter: Drafter, streams: list[Sequence], spare: int
    ) -> list[list[int]]:
        wishes: list[Wish] = []
        for sequence in streams:
            n_max = min(spare, self._n_of_use(sequence), drafter.n_max)
            spare -= n_max
            wishes.append(Wish(sequence, n_max))
        start = self._clock()
        guesses = drafter.draft(wishes)
        self._draft_s += self._clock() - start
        return guesses

    def _n_of_use(self, sequence: Sequence) -> int:
        """Return how many guesses a sequence could take before it ends anyway."""
        left = self._backend.n_cells - len(sequence.tokens)
        if sequence.max_tokens is not None:
            left = min(left, sequence.max_tokens - sequence.n_generated - 1)
        return max(0, left)

    def _give_up(self, sequence: Sequence) -> Outcome:
        """End the only sequence, which the kv cache has no room for."""
        self.finish(sequence.id)
        if sequence.n_generated:
            return Outcome(sequence, finish_reason="length")
        return Outcome(
            sequence,
            error=ResourceError(
                f"the kv cache has no room for a prompt of {sequence.n_prompt} tokens",
                "shorten the prompt, or start with a larger --ctx",
            ),
        )

    def _decode(self, plan: Plan) -> DecodeStatus:
        self._in_decode = frozenset(sequence.id for sequence in plan.sequences)
        if self._take_joules is not None:
            for item, sequence in zip(plan.items, plan.sequences, strict=True):
                self._charged.append((sequence, len(item.tokens)))
        start = self._clock()
        try:
            status = self._backend.decode(plan.items)
        finally:
            self._in_decode = frozenset()
        seconds = self._clock() - start
        self._n_steps += 1
        self._step_s += seconds
        if status is DecodeStatus.OK:
            self._n_computed += plan.n_streams + plan.n_prompt
            self._pace.learn(plan.n_streams, plan.n_prompt, seconds)
        return status

    def _advance(self, plan: Plan) -> list[Outcome]:
        """Note what was computed, and sample from it."""
        for item, sequence in zip(plan.items, plan.sequences, strict=True):
            self.kv.commit(sequence, len(item.tokens))
            if sequence.n_computed in sequence.stops and self.kv.can_save(sequence.n_computed):
                self.kv.save(sequence)
        outcomes: list[Outcome] = []
        start = self._clock()
        n_before = 0
        for item, sequence in zip(plan.items, plan.sequences, strict=True):
            n_before += len(item.tokens)
            if item.n_outputs:
                self._sample(sequence, item, n_before - item.n_outputs, outcomes)
        self._sampling_s += self._clock() - start
        return outcomes

    def _sample(
        self, sequence: Sequence, item: BatchItem, index: int, outcomes: list[Outcome]
    ) -> None:
        """Append a sequence's next token; more where its guesses turn out right."""
        guess = item.tokens[len(item.tokens) - item.n_outputs + 1 :]
        sequence.n_drafted += len(guess)
        for n_right in range(item.n_outputs):
            try:
                token = sequence.sampler.sample(index + n_right)
            except EngineError:
                raise
            except LlmedgeError as error:
                self._cut(sequence, len(guess) - n_right)
                self.finish(sequence.id)
                outcomes.append(Outcome(sequence, error=error))
                return
            sequence.n_accepted += bool(n_right)
            reason = self._append(sequence, token)
            outcomes.append(Outcome(sequence, token, reason))
            is_right = n_right < len(guess) and token == guess[n_right]
            if reason is not None:
                self._cut(sequence, len(guess) - n_right)
                self.finish(sequence.id)
                return
            if not is_right:
                self._cut(sequence, len(guess) - n_right)
                return

    def _append(self, sequence: Sequence, token: int) -> FinishReason | None:
        now = self._clock()
        if sequence.first_s is None:
            sequence.first_s = now
        sequence.last_s = now
        sequence.tokens.append(token)
        self._n_generated += 1
        if token in sequence.end_tokens:
            return "stop"
        is_enough = sequence.max_tokens is not None and sequence.n_generated >= sequence.max_tokens
        if is_enough or len(sequence.tokens) > self._backend.n_cells:
            return "length"
        return None

    def _charge(self, joules: float | None) -> None:
        """Share a step's energy out by tokens; a share that is not known makes all unknown."""
        n_tokens = sum(n for _, n in self._charged)
        self._energy_j += joules or 0.0
        for sequence, n in self._charged:
            sequence.energy_j += math.nan if joules is None else joules * n / n_tokens

    def _cut(self, sequence: Sequence, n_wrong: int) -> None:
        """Remove the guesses that were computed for nothing."""
        if n_wrong > 0:
            self.kv.cut(sequence, sequence.n_computed - n_wrong)
