"""A loaded model that turns texts into vectors or scores: steps over batches of all requests."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from llmedge.core.closable import Closable
from llmedge.core.errors import UnsupportedError
from llmedge.engine.clerk import Clerk
from llmedge.engine.engine import Embedding, EngineStats, ModelInfo, Score
from llmedge.engine.messages import Embed, Embeddings, Rerank, Scores
from llmedge.runtime.embedding import Embedder, score_index
from llmedge.runtime.library import library

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmedge.engine.messages import Answer, Entry, Paper
    from llmedge.engine.scheduler import SchedulerOptions
    from llmedge.runtime.context import ContextOptions
    from llmedge.runtime.model import Model

# An encoder's every token looks at all tokens of its batch: long batches of short texts are slow.
_BATCH_TOKENS = 512
_MAX_SEQS = 64


@dataclass(slots=True)
class Job:
    """The texts of one request, and how far they are computed.

    Attributes:
        texts: Their tokens.
        rows: What became of the first of them.
    """

    texts: list[list[int]]
    rows: list[list[float]] = field(default_factory=list[list[float]])


class EmbeddingCore(Closable):
    """Answers `Embed` or `Rerank`; for one thread, except `abort`, `prepare` and `clerk`.

    Args:
        model: Closed by the core.
        info: What is known of it; what it can do is added.
        pooling: As in `Embedder`; `rank` gives scores.
        context: How to run it; each text has the whole context.
        options: How many requests are in one batch at most.

    Attributes:
        clerk: Answers what needs no computation.
        info: The model.
    """

    def __init__(
        self,
        model: Model,
        info: ModelInfo,
        pooling: str,
        context: ContextOptions,
        options: SchedulerOptions,
    ) -> None:
        """Make room for a batch.

        Raises:
            UnsupportedError: A reranker that gives no score.
            ResourceError: The memory is not there.
        """
        self._model = model
        self._is_rank = pooling == "rank"
        self._index = score_index(model.header) if self._is_rank else 0
        self._embedder = Embedder(
            model,
            pooling,
            n_tokens=context.n_ctx or model.n_ctx_train,
            n_seqs=_MAX_SEQS,
            n_threads=context.n_threads,
            flash_attention=context.flash_attention,
        )
        self._jobs: dict[int, Job] = {}
        self._in_batch: frozenset[int] = frozenset()
        self._cancelled: set[int] = set()
        self._n_tokens = self._n_steps = 0
        self._step_s = 0.0
        self._n_slots = options.n_slots
        self.clerk = Clerk(self._embedder.context)
        self.info = msgspec.structs.replace(
            info,
            n_ctx=self._embedder.n_tokens,
            n_slots=options.n_slots,
            n_embd=int(library().llama_model_n_embd_out(model.pointer)),
            can_generate=False,
            can_embed=not self._is_rank,
            can_rerank=self._is_rank,
        )

    @property
    def is_idle(self) -> bool:
        """Whether a step would do nothing."""
        return not self._jobs

    @property
    def stats(self) -> EngineStats:
        """The counters of this moment."""
        return EngineStats(
            n_slots=self._n_slots,
            n_running=len(self._jobs),
            n_cells=self._embedder.n_tokens,
            n_prompt_tokens=self._n_tokens,
            n_steps=self._n_steps,
            step_s=self._step_s,
        )

    def prepare(self, paper: Paper) -> Entry:
        """Turn a request into tokens, on the clerk's thread.

        Returns:
            Puts it in line, on the thread that steps.

        Raises:
            UsageError: A text is empty.
            ContextLengthError: A text is longer than the context.
            UnsupportedError: The model does something else.
        """
        match paper:
            case Embed() if not self._is_rank:
                job = Job(self.clerk.texts(paper.texts))
            case Rerank() if self._is_rank:
                job = Job(self.clerk.pairs(paper.query, paper.documents))
            case _:
                does = "scores documents" if self._is_rank else "makes embeddings"
                raise UnsupportedError(f"{self.info.id} {does}, and nothing else")
        return lambda: self.add(paper.id, job)

    def add(self, id_: int, job: Job) -> Answer | None:
        """Put a request in line; one without texts is answered at once."""
        if not job.texts:
            return self._answer(job)
        self._jobs[id_] = job
        return None

    def cancel(self, id_: int) -> None:
        """End a request of which nobody wants to hear more; one that is not there is ignored."""
        self._cancelled.discard(id_)
        self._jobs.pop(id_, None)

    def abort(self, id_: int) -> None:
        """End the decode call that runs if it is for cancelled requests only; from any thread."""
        self._cancelled.add(id_)
        if self._is_unwanted():
            self._embedder.context.abort()

    def limit(self, n_slots: int, *, forgets: bool) -> None:
        """Change how many texts are in one batch; nothing is kept that could be given up."""
        del forgets
        self._n_slots = max(1, min(n_slots, self.info.n_slots))

    def step(self) -> list[tuple[int, Answer]]:
        """Compute one batch and return the requests that it completed.

        Raises:
            EngineError: Nothing can be computed any more.
        """
        ids, texts = self._next_batch()
        self._in_batch = frozenset(ids)
        # In this order: who cancels makes the call unwanted first, and aborts then.
        self._embedder.context.clear_abort()
        start = time.perf_counter()
        rows = None if self._is_unwanted() else self._embedder.compute(texts)
        self._in_batch = frozenset()
        if rows is None:
            return []
        self._n_steps += 1
        self._step_s += time.perf_counter() - start
        self._n_tokens += sum(map(len, texts))
        for id_, row in zip(ids, rows, strict=True):
            job = self._jobs.pop(id_)
            job.rows.append(row.tolist())
            self._jobs[id_] = job  # who had a turn goes to the end of the line
        done = [id_ for id_, job in self._jobs.items() if len(job.rows) == len(job.texts)]
        return [(id_, self._answer(self._jobs.pop(id_))) for id_ in done]

    def keep(self) -> None:
        """Do nothing: no text's vector helps with another's."""

    def close(self) -> None:
        """Free everything, the model too."""
        self._embedder.close()
        self._model.close()

    def _next_batch(self) -> tuple[list[int], Sequence[list[int]]]:
        """Choose texts in turns of one for each request, so that a long list stops nobody."""
        waiting = deque((id_, len(job.rows)) for id_, job in self._jobs.items())
        ids: list[int] = []
        texts: list[list[int]] = []
        n_tokens, most = 0, min(_BATCH_TOKENS, self._embedder.n_tokens)
        n_seqs = min(self._n_slots, _MAX_SEQS) if self._n_slots < self.info.n_slots else _MAX_SEQS
        while waiting and len(texts) < n_seqs:
            id_, at = waiting.popleft()
            job = self._jobs[id_]
            n_tokens += len(job.texts[at])
            if texts and n_tokens > most:
                break
            ids.append(id_)
            texts.append(job.texts[at])
            if at + 1 < len(job.texts):
                waiting.append((id_, at + 1))
        return ids, texts

    def _answer(self, job: Job) -> Embeddings | Scores:
        pairs = [(row, len(tokens)) for row, tokens in zip(job.rows, job.texts, strict=True)]
        if self._is_rank:
            return Scores([Score(row[self._index], n_tokens) for row, n_tokens in pairs])
        return Embeddings([Embedding(row, n_tokens) for row, n_tokens in pairs])

    def _is_unwanted(self) -> bool:
        in_batch = self._in_batch
        return bool(in_batch) and in_batch.issubset(self._cancelled)
