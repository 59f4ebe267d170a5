"""A loaded model and the requests that it answers: the scheduler's steps become events."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from llmedge.core.closable import Closable
from llmedge.core.errors import ResourceError, UnsupportedError
from llmedge.engine.clerk import Clerk, Prepared
from llmedge.engine.draft import PromptLookup
from llmedge.engine.embedding_core import EmbeddingCore
from llmedge.engine.engine import AdapterInfo, ModelInfo
from llmedge.engine.generation import (
    Finished,
    Started,
)
from llmedge.engine.llama_backend import LlamaBackend
from llmedge.engine.llama_drafter import LlamaDrafter
from llmedge.engine.messages import Answer, Failed, Load, Submit
from llmedge.engine.run import Run
from llmedge.engine.scheduler import Scheduler, SchedulerOptions
from llmedge.engine.sequence import Outcome, Sequence
from llmedge.engine.state_folder import StateFolder
from llmedge.gguf.mixes import MIXES
from llmedge.gguf.reader import Array
from llmedge.host.sensors import EnergyMeter
from llmedge.runtime.context import Context, ContextOptions
from llmedge.runtime.embedding import is_causal, trained_pooling
from llmedge.runtime.library import library_info
from llmedge.runtime.lora import Lora, try_lora
from llmedge.runtime.model import Model

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmedge.engine.engine import EngineStats
    from llmedge.engine.messages import Entry, Paper


_WORTH_KEEPING = 64  # tokens: fewer are computed as fast as read


class EngineCore(Closable):
    """Answers requests with one context; for one thread, except `abort` and `clerk`.

    Args:
        context: Closed by the core, with its model.
        model_id: The model's id on the endpoint.
        options: How to share the context out.
        n_draft: Most tokens to guess ahead by prompt lookup; 0 guesses none.
        loras: Adapters that were loaded before the context, with the scales to use unasked.
        states: Where states of sequences lie between two processes; `None` keeps none.
        drafter: Guesses them instead; closed by the core.

    Attributes:
        clerk: Prepares requests; for any one thread.
        info: The model.
    """

    def __init__(
        self,
        context: Context,
        model_id: str,
        options: SchedulerOptions,
        *,
        n_draft: int = 0,
        drafter: LlamaDrafter | None = None,
        loras: tuple[tuple[Lora, float], ...] = (),
        states: StateFolder | None = None,
    ) -> None:
        self._context = context
        self._backend = LlamaBackend(context, [lora for lora, _ in loras])
        self._drafter = drafter
        meter = EnergyMeter()
        self._scheduler = Scheduler(
            self._backend,
            options,
            take_joules=meter.take if meter.is_there else None,
            drafter=drafter,
        )
        self._backend.is_unwanted = self._is_unwanted
        self._states = states
        for kept in states.find() if states else ():
            self._scheduler.kv.adopt((*kept.key, None), kept.tokens, kept.state)
        self._vocab = context.model.vocab
        self._end_tokens = self._vocab.end_tokens()
        self._n_lookup = 0 if drafter else n_draft
        self._runs: dict[int, Run] = {}
        self._telling: set[int] = set()  # of these, who tell how far their prompts are
        self._cancelled: set[int] = set()
        adapters = tuple(AdapterInfo(lora.name, scale) for lora, scale in loras)
        self.clerk = Clerk(context, adapters)
        self.info = msgspec.structs.replace(
            _describe(context.model, model_id),
            n_ctx=context.n_ctx,
            n_slots=options.n_slots,
            adapters=adapters,
        )

    @property
    def is_idle(self) -> bool:
        """Whether a step would do nothing."""
        return self._scheduler.is_idle

    @property
    def stats(self) -> EngineStats:
        """The counters of this moment."""
        return self._scheduler.stats

    def prepare(self, paper: Paper) -> Entry:
        """Turn a request into tokens and a sampler, on the clerk's thread.

        Returns:
            Puts it in line, on the thread that steps.

        Raises:
            LlmedgeError: It cannot be answered.
        """
        if not isinstance(paper, Submit):
            raise UnsupportedError(
                f"{self.info.id} generates text, and was not trained to embed or to score texts"
            )
        prepared = self.clerk.prepare(paper.request)
        return lambda: self.add(paper.id, prepared)

    def add(self, id_: int, prepared: Prepared) -> Started:
        """Put a request in line.

        Raises:
            LlmedgeError: It cannot be answered.
        """
        request = prepared.request
        ends = frozenset(request.stop_tokens)
        sequence = Sequence(
            id_,
            prepared.tokens,
            prepared.sampler,
            max_tokens=request.max_tokens,
            end_tokens=ends if request.ignore_end else ends | self._end_tokens,
            cache_key=request.cache_key,
            adapters=prepared.adapters,
            caches=request.caches,
            drafts=PromptLookup(self._n_lookup) if self._n_lookup else None,
        )
        self._scheduler.add(sequence)
        self._runs[id_] = Run(sequence, prepared)
        if request.tells_progress:
            self._telling.add(id_)
        return Started(sequence.n_prompt)

    def cancel(self, id_: int) -> None:
        """End a request of which nobody wants to hear more; one that is not there is ignored."""
        self._cancelled.discard(id_)
        if self._drop(id_):
            self._scheduler.cancel(id_)

    def abort(self, id_: int) -> None:
        """End the decode call that runs if it is for cancelled requests only; from any thread.

        `cancel` must follow: until then such calls are not made.
        """
        self._cancelled.add(id_)
        if self._is_unwanted():
            self._context.abort()

    def limit(self, n_slots: int, *, forgets: bool) -> None:
        """Change how many requests run at once; see `Engine.limit`."""
        self._scheduler.limit_slots(n_slots)
        if forgets:
            self._scheduler.forget()

    def step(self) -> list[tuple[int, Answer]]:
        """Compute one batch and return what came of it.

        Raises:
            EngineError: Nothing can be computed any more.
        """
        outcomes = self._scheduler.step()
        answers: list[tuple[int, Answer]] = [
            (id_, progress) for id_ in self._telling for progress in self._runs[id_].progress()
        ]
        for outcome in outcomes:
            run = self._runs.get(outcome.sequence.id)
            if run is not None:
                self._absorb(run, outcome, answers)
        return answers

    def keep(self) -> None:
        """Write the states of ended sequences to their folder, as far as its disk has room."""
        if self._states is None:
            return
        for key, tokens, state in self._scheduler.kv.kept():
            if len(tokens) < _WORTH_KEEPING:
                continue
            try:
                self._states.write(key[:2], tokens, state)
            except ResourceError as error:
                sys.stderr.write(f"{error.message}\n")
                return

    def close(self) -> None:
        """Free everything, the model too."""
        for run in self._runs.values():
            run.sampler.close()
        if self._drafter is not None:
            self._drafter.close()
        self._backend.close()
        self._context.model.close()

    def _is_unwanted(self) -> bool:
        return bool(self._cancelled) and self._scheduler.wants_abort(self._cancelled)

    def _absorb(self, run: Run, outcome: Outcome, answers: list[tuple[int, Answer]]) -> None:
        id_ = run.sequence.id
        if outcome.error is not None:
            answers.append((id_, Failed.of(outcome.error)))
            self._drop(id_)
            return
        delta, reason = run.take(outcome, self._vocab.piece)
        if delta.text or delta.chances or delta.tokens:
            answers.append((id_, delta))
        if reason is not None:
            answers.append((id_, Finished(run.report(reason))))
            self._drop(id_)
            if outcome.finish_reason is None:
                self._scheduler.finish(id_)

    def _drop(self, id_: int) -> bool:
        run = self._runs.pop(id_, None)
        if run is None:
            return False
        self._telling.discard(id_)
        run.sampler.close()
        return True


def open_core(load: Load, on_progress: Callable[[float], bool]) -> EngineCore | EmbeddingCore:
    """Load a model and make room for its sequences.

    Raises:
        IntegrityError: The file is damaged.
        UnsupportedError: The model neither generates text nor says how it pools, an adapter is
            none, or the draft model does not fit it.
        UsageError: An option that cannot be meant.
        ResourceError: The memory is not there.
    """
    path = _path(load.path)
    model = Model.load(path, load.model, on_progress)
    try:
        if not model.can_generate:
            raise UnsupportedError(f"{path.name} is not a model that generates text")
        pooling = load.context.pooling or trained_pooling(model.header)
        if pooling is not None:
            if load.loras:
                raise UnsupportedError("adapters are for models that generate text")
            info = _describe(model, load.model_id)
            return EmbeddingCore(model, info, pooling, load.context, load.scheduler)
        _require_causal(model)
        loras = tuple((Lora.load(model, _path(lora.path)), lora.scale) for lora in load.loras)
        context = Context(model, _context_options(load, model))
        for lora, _ in loras:
            try_lora(context, lora)
        return EngineCore(
            context,
            load.model_id,
            load.scheduler,
            n_draft=load.n_draft,
            drafter=LlamaDrafter.open(load, context) if load.draft_path else None,
            loras=loras,
            states=_state_folder(load),
        )
    except BaseException:
        model.close()
        raise


def _state_folder(load: Load) -> StateFolder | None:
    """Open the folder of what was computed by the same files, options and library."""
    if not load.cache_dir:
        return None
    files = [load.path, *(lora.path for lora in load.loras)]
    stats = [_path(file).stat() for file in files]
    identity = repr(
        (
            [(stat.st_size, stat.st_mtime_ns) for stat in stats],
            replace(load.context, n_threads=None),
            library_info().commit,
        )
    )
    return StateFolder(_path(load.cache_dir), identity.encode(), load.max_cache_bytes)


def _path(data: bytes) -> Path:
    return Path(os.fsdecode(data))


def _require_causal(model: Model) -> None:
    if not is_causal(model.header):
        raise UnsupportedError(
            f"{model.path.name} makes embeddings, and does not say how it pools them",
            "say it: --pooling mean, cls or last",
        )


def _context_options(load: Load, model: Model) -> ContextOptions:
    n_slots = load.scheduler.n_slots
    # The state of a recurrent model is allocated for each sequence, and none is kept.
    n_seq_max = load.context.n_seq_max if model.can_rewind else n_slots
    # llama.cpp wants room for a row of each sequence, whoever is in the batch.
    n_outputs_max = max(n_seq_max, n_slots * (1 + load.n_draft))
    return replace(load.context, n_seq_max=n_seq_max, n_outputs_max=n_outputs_max)


def _describe(model: Model, model_id: str) -> ModelInfo:
    header, vocab = model.header, model.vocab
    mixes = {mix.ftype: mix.name for mix in MIXES.values()}
    languages = header.metadata.get("general.languages")
    return ModelInfo(
        id=model_id,
        created=int(model.path.stat().st_mtime),
        description=model.description,
        architecture=header.architecture,
        quant=mixes.get(header.number("general.file_type") or 0, ""),
        languages=tuple(map(str, languages.items)) if isinstance(languages, Array) else (),
        n_ctx_train=model.n_ctx_train,
        n_vocab=vocab.n_tokens,
        n_embd=header.hyperparameter("embedding_length") or 0,
        n_params=model.n_params,
        size_bytes=model.size_bytes,
        chat_template=header.text("tokenizer.chat_template") or "",
        bos=vocab.text(vocab.bos),
        eos=vocab.text(vocab.eos),
    )
