"""Variants against their reference, text by text: what quantizing cost."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import llmedge
from llmedge.core.errors import UsageError
from llmedge.host.memory import read_memory
from llmedge.measure.kl_divergence import Divergence, DivergenceMeter
from llmedge.measure.logits import decode_in_step, rows_at_once
from llmedge.measure.model_text import ModelText
from llmedge.runtime.context import Context, ContextOptions
from llmedge.runtime.first_load import ensure_loads, require_text
from llmedge.runtime.library import library_info
from llmedge.runtime.model import Model, ModelOptions
from llmedge.store.catalog import model_id
from llmedge.store.manifest import utc_now
from llmedge.store.records import append_record

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from pathlib import Path

    from llmedge.core.progress import Progress, Task
    from llmedge.core.settings import Settings
    from llmedge.gguf.reader import Header
    from llmedge.measure.corpus import Corpus

SCHEMA = "llmedge.evaluate/1"
# Models that together stay below this share of the free memory are run in step with the reference,
# which is then decoded once for all of them.
_MEMORY_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """What to measure on, and how.

    Attributes:
        corpora: The texts.
        max_chunks: Chunks of each text; `None` takes all.
        model: How to load the models.
        context: How to run them. Its `n_ctx` is the length of a chunk, the second half of which is
            compared; its `n_batch` is cut to what the logits' memory allows.
    """

    corpora: tuple[Corpus, ...]
    max_chunks: int | None = None
    model: ModelOptions = ModelOptions()
    context: ContextOptions = ContextOptions(n_ctx=512)

    @property
    def n_ctx(self) -> int:
        """Tokens in a chunk."""
        return self.context.n_ctx


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One variant on one text.

    Attributes:
        model: The variant's id.
        reference: The reference's id.
        text: The text's name: a language's code, or a file's name.
        file_bytes: The variant's size.
        bits_per_weight: The variant's, over all tensors.
        reference_bits_per_weight: The reference's.
        divergence: What was measured.
    """

    model: str
    reference: str
    text: str
    file_bytes: int
    bits_per_weight: float
    reference_bits_per_weight: float
    divergence: Divergence


def evaluate(
    variants: Sequence[Path],
    reference: Path,
    options: EvaluateOptions,
    settings: Settings,
    progress: Progress,
) -> list[Evaluation]:
    """Compare variants with their reference, and record the result.

    Returns:
        One evaluation a variant and text, by variant.

    Raises:
        UsageError: A variant has another vocabulary than the reference, or a text is unfit.
        IntegrityError: A file is damaged.
        ResourceError: Memory ran out.
    """
    if options.n_ctx < 64:
        raise UsageError(f"chunks of {options.n_ctx} tokens are too short", "use at least 64")
    headers = {path: ensure_loads(path, settings.state_dir) for path in (reference, *variants)}
    for header in headers.values():
        require_text(header)
    _check_vocabularies(headers, reference)
    unique = list(dict.fromkeys(variants))
    corpora = list(dict.fromkeys(options.corpora))
    meters = {(path, corpus): DivergenceMeter() for path in unique for corpus in corpora}
    for group in _groups(unique, reference, headers):
        with _open_contexts((reference, *group), options) as contexts:
            for corpus in corpora:
                targets = [meters[path, corpus] for path in group]
                label = f"{corpus.name}: {', '.join(path.stem for path in group)}"
                total = corpus.path.stat().st_size
                with progress.task(label, total=total, unit="bytes") as task:
                    _measure(contexts, targets, corpus, options, task)
    evaluations = [
        Evaluation(
            model=model_id(settings, path),
            reference=model_id(settings, reference),
            text=corpus.name,
            file_bytes=headers[path].file_bytes,
            bits_per_weight=round(headers[path].bits_per_weight, 4),
            reference_bits_per_weight=round(headers[reference].bits_per_weight, 4),
            divergence=meters[path, corpus].result(),
        )
        for path in unique
        for corpus in corpora
    ]
    _record(evaluations, settings)
    return evaluations


def _check_vocabularies(headers: dict[Path, Header], reference: Path) -> None:
    expected = headers[reference].vocabulary_sha256()
    for path, header in headers.items():
        if header.vocabulary_sha256() != expected:
            raise UsageError(
                f"{path.name} cannot be compared with {reference.name}: their vocabularies differ",
                "give the file that the variants were made from as --reference",
            )


def _groups(
    variants: Sequence[Path], reference: Path, headers: dict[Path, Header]
) -> Iterator[list[Path]]:
    """Yield the variants in groups that fit into memory beside the reference."""
    room = int(_MEMORY_SHARE * read_memory().available_bytes) - headers[reference].file_bytes
    group: list[Path] = []
    used = 0
    for path in variants:
        if group and used + headers[path].file_bytes > room:
            yield group
            group, used = [], 0
        group.append(path)
        used += headers[path].file_bytes
    if group:
        yield group


@contextlib.contextmanager
def _open_contexts(paths: Sequence[Path], options: EvaluateOptions) -> Generator[list[Context]]:
    with contextlib.ExitStack() as stack:
        contexts: list[Context] = []
        for path in paths:
            model = stack.enter_context(Model.load(path, options.model))
            n_rows = rows_at_once(model.vocab.n_tokens, options.n_ctx)
            n_batch = min(n_rows, options.context.n_batch)
            context_options = replace(options.context, n_batch=n_batch)
            contexts.append(stack.enter_context(Context(model, context_options)))
        yield contexts


def _measure(
    contexts: Sequence[Context],
    meters: Sequence[DivergenceMeter],
    corpus: Corpus,
    options: EvaluateOptions,
    task: Task,
) -> None:
    text = ModelText(contexts[0].model)
    for index, chunk in enumerate(text.chunks(corpus, options.n_ctx)):
        if options.max_chunks is not None and index >= options.max_chunks:
            break
        for step in decode_in_step(contexts, chunk):
            for meter, logits in zip(meters, step.logits[1:], strict=True):
                meter.add(step.logits[0], logits, step.next_tokens)
        task.update(text.n_bytes, f"chunk {index + 1}")


def _record(evaluations: Sequence[Evaluation], settings: Settings) -> None:
    for evaluation in evaluations:
        record = {
            "schema": SCHEMA,
            "created": utc_now(),
            "tools": {"llmedge": llmedge.__version__, "llama_cpp": library_info().label},
            **asdict(evaluation),
        }
        append_record(settings, "evaluate", record)
