"""An importance matrix collected in a child process, chunk by chunk, kept often enough to go on.

Native code runs here: what crashes it ends the child, and the parent says what that means.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from llmedge.core.errors import EngineError, IntegrityError, NotFoundError, UnsupportedError
from llmedge.gguf.imatrix_file import read_sums, write_imatrix
from llmedge.measure.calibration import Selection, dataset_name, draw
from llmedge.measure.logits import rows_at_once
from llmedge.measure.model_text import ModelText
from llmedge.quantize.collector import Collector
from llmedge.runtime.batch import Batch
from llmedge.runtime.context import Context, ContextOptions, DecodeResult
from llmedge.runtime.model import Model, ModelOptions
from llmedge.runtime.observer import Observation
from llmedge.store.atomic import replacing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from llmedge.gguf.imatrix_file import ImatrixSums
    from llmedge.gguf.reader import Header
    from llmedge.host.child import Talk
    from llmedge.measure.calibration import CalibrationOptions

# What turns the last activations into logits: by far the dearest product of a small model, and
# nobody reads its result.
OUTPUTS = ("output.weight", "token_embd.weight")
# Keeping what was collected may take this share of the time.
_SAVING_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class CollectJob:
    """What the parent wants, once it knows the tokens.

    Attributes:
        source: The model's header: another file at its path is not what the matrix is for.
        target: Where the importance matrix goes.
        unfinished: Where what was collected is kept meanwhile.
        n_threads: Threads to compute with.
        save_every_s: Seconds after which it is kept.
    """

    source: Header
    target: Path
    unfinished: Path
    n_threads: int
    save_every_s: float


def collect(talk: Talk, source: Path, calibration: CalibrationOptions) -> None:
    """Run in the child: say which tokens; when the parent answers with a job, do it.

    Says the number of chunks that are done, first that of an earlier run.
    """
    selection = _select(source, calibration)
    talk.say(selection)
    compute(source, selection, cast("CollectJob", talk.hear()), talk.say)


def compute(
    source: Path, selection: Selection, job: CollectJob, say: Callable[[int], None]
) -> None:
    """Write the importance matrix of what was selected.

    Args:
        source: The model.
        selection: The text.
        job: What to do with it.
        say: Takes the number of chunks that are done, first that of an earlier run.

    Raises:
        IntegrityError: The model is damaged or changes meanwhile, or does not compute numbers.
        UnsupportedError: It is an encoder with a decoder.
        ResourceError: Memory or disk ran out.
    """
    with Model.load(source) as model:
        job.source.require_unchanged()
        _require_decoder(model)
        run = _Run(model, selection, job)
        say(run.n_done)
        with run.open_context() as context, Batch(context.n_batch) as batch:
            while run.n_done < len(selection.chunks):
                run.decode_next(context, batch)
                say(run.n_done)
    run.finish()


class _Run:
    """A run over all chunks, from where an earlier one was killed."""

    def __init__(self, model: Model, selection: Selection, job: CollectJob) -> None:
        self._model = model
        self._chunks = selection.chunks
        self._job = job
        self._n_ctx = len(self._chunks[0].tokens)
        self._datasets = tuple(dataset_name(kind) for kind in selection.shares)
        start = _unfinished(job.unfinished, model.header, len(self._chunks))
        self.n_done = start.n_chunks if start else 0
        self._collector = Collector([tensor.name for tensor in model.header.tensors], start)
        self._saved_at, self._save_s = time.monotonic(), 0.0

    def open_context(self) -> Context:
        """Open a context whose batches keep the logits within their memory, in equal parts.

        llama.cpp makes room for the logits of each token, computed or not. An encoder has none,
        and wants all tokens at once.
        """
        n_parts = -(-self._n_ctx // rows_at_once(self._model.vocab.n_tokens, self._n_ctx))
        context = self._context(-(-self._n_ctx // n_parts))
        if context.has_memory:
            return context
        context.close()
        return self._context(self._n_ctx)

    def _context(self, n_rows: int) -> Context:
        options = ContextOptions(
            n_ctx=self._n_ctx, n_batch=n_rows, n_ubatch=n_rows, n_threads=self._job.n_threads
        )
        return Context(self._model, options, Observation(self._collector, OUTPUTS))

    def decode_next(self, context: Context, batch: Batch) -> None:
        """Decode a chunk; every token is an output, or the last layer would see only one."""
        tokens = self._chunks[self.n_done].tokens
        context.clear()
        for start in range(0, len(tokens), batch.n_max):
            part = tokens[start : start + batch.n_max]
            batch.fill(part, start, n_logits=len(part))
            if context.decode(batch) is not DecodeResult.OK:
                raise EngineError("the context is too small for the chunk")
        self.n_done += 1
        wait_s = max(self._job.save_every_s, self._save_s / _SAVING_SHARE)
        is_last = self.n_done == len(self._chunks)
        if not is_last and time.monotonic() - self._saved_at >= wait_s:
            self._save()

    def finish(self) -> None:
        """Write the importance matrix; what was kept meanwhile is of no more use."""
        self._write(self._job.target)

    def _save(self) -> None:
        start = time.monotonic()
        self._write(self._job.unfinished)
        self._saved_at = time.monotonic()
        self._save_s = self._saved_at - start

    def _write(self, target: Path) -> None:
        """Keep what was collected, under a name that says of which file it is."""
        self._job.source.require_unchanged()
        with replacing(target) as partial:
            write_imatrix(partial, self._collector.sums(self._datasets, self.n_done, self._n_ctx))


def _select(source: Path, calibration: CalibrationOptions) -> Selection:
    with Model.load(source, ModelOptions(vocab_only=True)) as model:
        n_ctx_train = model.header.hyperparameter("context_length") or calibration.n_ctx
        n_ctx = min(calibration.n_ctx, n_ctx_train)
        selection = draw(ModelText(model), replace(calibration, n_ctx=n_ctx))
    if n_ctx < calibration.n_ctx:
        note = f"pieces of {n_ctx} tokens, not {calibration.n_ctx}: the model reads no more at once"
        return Selection(selection.chunks, (note, *selection.notes))
    return selection


def _require_decoder(model: Model) -> None:
    if not model.can_generate:
        raise UnsupportedError(
            f"{model.path.name} ({model.header.architecture}) is an encoder with a decoder, whose "
            "importance matrix llmedge cannot compute",
            "quantize it without one: --no-imatrix",
        )


def _unfinished(path: Path, header: Header, n_chunks: int) -> ImatrixSums | None:
    """Return what an earlier run kept, or `None` where nothing can be gone on with."""
    try:
        sums = read_sums(path)
    except (NotFoundError, IntegrityError):
        return None
    sizes = {tensor.name: tensor.shape for tensor in header.tensors}
    is_ours = all(_fits(sizes.get(name), entry.sums.size) for name, entry in sums.entries.items())
    return sums if is_ours and 0 < sums.n_chunks <= n_chunks else None


def _fits(shape: Sequence[int] | None, n_sums: int) -> bool:
    if shape is None:
        return False
    return n_sums == shape[0] * math.prod(shape[2:])
