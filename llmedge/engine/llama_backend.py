"""The scheduler's backend over llama.cpp: one context, one batch, a sampler for each sequence."""

from __future__ import annotations

from collections import deque
from heapq import nlargest
from operator import itemgetter
from typing import TYPE_CHECKING

from llmedge.core.closable import Closable
from llmedge.core.errors import UnsupportedError
from llmedge.engine.backend import Adapters, BatchItem, Cuts, DecodeStatus
from llmedge.engine.generation import TokenChance, TokenChances
from llmedge.runtime.batch import Batch
from llmedge.runtime.context import Context, DecodeResult
from llmedge.runtime.logprobs import LogProbs, log_probs
from llmedge.runtime.lora import Lora, set_loras
from llmedge.runtime.sampler import SamplerChain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmedge.engine.reasoning import ReasoningWatch
    from llmedge.runtime.constraint import Constraint
    from llmedge.runtime.sampler import SamplingOptions

_STATUS = {
    DecodeResult.OK: DecodeStatus.OK,
    DecodeResult.NO_KV_SLOT: DecodeStatus.NO_KV_SLOT,
    DecodeResult.ABORTED: DecodeStatus.ABORTED,
}


class LlamaBackend(Closable):
    """Decodes batches of many sequences; see `Backend` for what each method promises.

    Args:
        context: Closed by who opened it.
        loras: LoRA adapters that were loaded before it; likewise.

    Attributes:
        n_cells: Tokens that all sequences together may hold.
        n_batch: Tokens of one decode call.
        n_seq_max: Sequence ids.
        cuts: Where a sequence may end and be continued.
        window: Tokens before it that a token needs; 0 unless `cuts` is `window`.
        is_unwanted: Tells whether nobody waits for the decode call that begins.
    """

    def __init__(self, context: Context, loras: Sequence[Lora] = ()) -> None:
        self._context = context
        self._loras = {lora.name: lora for lora in loras}
        self._batch = Batch(context.n_batch)
        self.n_cells = context.n_ctx
        self.n_batch = context.n_batch
        self.n_seq_max = context.n_seq_max
        self.cuts: Cuts = "anywhere"
        self.window = 0
        self.is_unwanted: Callable[[], bool] = lambda: False
        model = context.model
        if not model.can_rewind:
            self.cuts = "never"
        elif model.window > 0:
            self.cuts, self.window = "window", model.window

    def decode(self, items: Sequence[BatchItem]) -> DecodeStatus:
        """Compute a batch. `Context.abort` ends it from any thread."""
        self._fill(items)
        # In this order: who cancels makes the call unwanted first and aborts then, so that either
        # the question or the decode meets it.
        self._context.clear_abort()
        if self.is_unwanted():
            return DecodeStatus.ABORTED
        return _STATUS[self._context.decode(self._batch)]

    def use_adapters(self, adapters: Adapters) -> None:
        """Compute the next batches with these adapters.

        Raises:
            UnsupportedError: One of them was not loaded.
        """
        for name, _ in adapters:
            if name not in self._loras:
                raise UnsupportedError(f"the model was loaded without adapter {name!r}")
        set_loras(self._context, [(self._loras[name], scale) for name, scale in adapters])

    def share(self, source: int, target: int, n_tokens: int) -> None:
        """Let an empty sequence hold the first tokens of another."""
        self._context.copy(source, target, 0, n_tokens)

    def remove(self, seq_id: int, first: int) -> bool:
        """Forget a sequence from a position on."""
        return self._context.remove(seq_id, first)

    def first_position(self, seq_id: int) -> int:
        """Return the first position that every layer still holds."""
        return self._context.first_position(seq_id)

    def save_state(self, seq_id: int) -> bytes:
        """Return all that a sequence holds."""
        return self._context.save_state(seq_id)

    def restore_state(self, seq_id: int, state: bytes) -> None:
        """Put a saved sequence into an empty one."""
        self._context.restore_state(state, seq_id)

    def close(self) -> None:
        """Free the batch."""
        self._batch.close()

    def _fill(self, items: Sequence[BatchItem]) -> None:
        add = self._batch.add
        self._batch.clear()
        for seq_id, tokens, position, n_outputs in items:
            first_output = len(tokens) - n_outputs
            for at, token in enumerate(tokens):
                add(token, position + at, seq_id=seq_id, wants_logits=at >= first_output)


class LlamaSampler(Closable):
    """One sequence's sampler: its chain, its constraint, its log probabilities.

    Args:
        context: Whose logits it reads.
        options: How to choose.
        constraint: What the text must be; `None` lets it be anything.
        n_logprobs: How many of the likeliest tokens to note beside the chosen; `None` notes none.
        reasoning: Ends the text's reasoning in time; `None` lets it be.
        tells_after: Note how likely tokens are after the samplers, not before.
    """

    def __init__(
        self,
        context: Context,
        options: SamplingOptions,
        constraint: Constraint | None = None,
        n_logprobs: int | None = None,
        reasoning: ReasoningWatch | None = None,
        *,
        tells_after: bool = False,
    ) -> None:
        """Set the samplers up; computes nothing.

        Raises:
            UsageError: An option that cannot be meant.
        """
        self._context = context
        self._vocab = context.model.vocab
        self._chain = SamplerChain(options, self._vocab)
        self._constraint = constraint
        self._n_logprobs = n_logprobs
        self._reasoning = reasoning
        self._tells_after = tells_after
        self._chances: deque[TokenChances] = deque()

    def sample(self, index: int) -> int:
        """Choose from the logits at a batch index; see `Sampler.sample`."""
        watch = self._reasoning
        if watch is None:
            return self._choose(index, None)
        token = self._choose(index, watch.forced)
        watch.see(token, self._vocab.piece(token, special=True))
        return token

    def take_chance(self) -> list[TokenChances]:
        """Return what was noted of the oldest token that nobody asked about yet; or nothing."""
        return [self._chances.popleft()] if self._chances else []

    def close(self) -> None:
        """Free the chain."""
        self._chain.close()

    def _choose(self, index: int, forced: int | None) -> int:
        """Choose a token, or take the one that has to come, and let everybody know of it."""
        constraint, n_logprobs = self._constraint, self._n_logprobs
        if forced is None and constraint is None and n_logprobs is None:
            return self._chain.sample(self._context, index)
        row = self._context.logits_at(index)
        tells_after = n_logprobs is not None and self._tells_after
        needs_copy = constraint is not None and n_logprobs is not None and not tells_after
        given = row.copy() if needs_copy else row
        after: dict[int, float] = {}
        if forced is not None:
            token = forced
            self._chain.accept(token)
            after = {token: 0.0}
        else:
            if constraint is not None:
                constraint.mask(row)
            if tells_after:
                token, after = self._chain.sample_from(row)
            else:
                token = self._chain.sample(self._context, index)
        if constraint is not None:
            constraint.accept(token)
        if n_logprobs is not None:
            step = _largest(after, token, n_logprobs) if tells_after else None
            self._note(step or log_probs(given, token, n_logprobs), token)
        return token

    def _note(self, step: LogProbs, token: int) -> None:
        piece = self._vocab.piece
        chosen = TokenChance(token, piece(token, special=True), step.chosen)
        top = [TokenChance(other, piece(other, special=True), value) for other, value in step.top]
        self._chances.append(TokenChances(chosen, top))


def _largest(left: dict[int, float], token: int, n: int) -> LogProbs:
    """Return what the samplers left of the likeliest tokens, beside the chosen one's."""
    return LogProbs(left[token], tuple(nlargest(n, left.items(), itemgetter(1))))
