"""Variants against their reference on texts, all models in step and each text read once.

The reference is a model, or the base file that it left. Knows nothing of reports and records.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import statistics
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from llmedge.core.errors import UsageError
from llmedge.gguf.reader import Array, Header
from llmedge.host.memory import read_memory
from llmedge.measure.kl_base_file import KlBaseReader, KlBaseWriter, writing_base
from llmedge.measure.kl_divergence import Divergence, DivergenceMeter
from llmedge.measure.logits import decode_in_step, logits_bytes, step_context
from llmedge.measure.model_text import ModelText
from llmedge.measure.predictions import ROWS_AT_ONCE, LogitRows, Predictions
from llmedge.runtime.context import Context, ContextOptions
from llmedge.runtime.first_load import ensure_loads, require_text
from llmedge.runtime.model import Model, ModelOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from llmedge.core.progress import Progress, Task
    from llmedge.core.settings import Settings
    from llmedge.measure.corpus import Corpus

    # A few rows of the first context's logits, their chunk and the first one's place in it.
    _Predict = Callable[[NDArray[np.float32], int, int], Predictions]

KeyT = TypeVar("KeyT")

_MIN_CTX = 64
_TRIMMED = "llmedge.trim.source.sha256"  # what `llmedge trim` leaves in its files
# Models that together stay below this share of the free memory are run in step with the reference,
# which is then decoded once for all of them.
_MEMORY_SHARE = 0.5
# Source: tables of Student's t, 97.5 %, for 1 to 10 degrees of freedom.
_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """How to compare.

    Attributes:
        max_chunks: Chunks of each text; `None` takes all.
        model: How to load the models.
        context: How to run them. Its `n_ctx` is the length of a chunk, the second half of which is
            compared; as many chunks as fit its `n_batch` are decoded together.
    """

    max_chunks: int | None = None
    model: ModelOptions = ModelOptions()
    context: ContextOptions = ContextOptions(n_ctx=512)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A variant against its reference on one text.

    Attributes:
        divergence: What was measured.
        chunk_klds: Mean KL divergence of each chunk, in order: those of two variants that were
            compared with the same reference are pairs.
    """

    divergence: Divergence
    chunk_klds: tuple[float, ...]


def compare(
    reference: Path,
    variants: Sequence[Path],
    corpora: Sequence[Corpus],
    options: CompareOptions,
    settings: Settings,
    progress: Progress,
    *,
    save_base: Path | None = None,
) -> dict[tuple[Path, Corpus], Comparison]:
    """Compare variants with the model that they were made from.

    Args:
        reference: The model.
        variants: Its variants; one given twice is measured once.
        corpora: The texts.
        options: How.
        settings: Where it is remembered which files load.
        progress: One task a text and group of variants that fit into memory together.
        save_base: Where to leave the reference's predictions. Takes one text, and compares the
            text's whole chunks only, as whoever reads the file will.

    Returns:
        One comparison a variant and text, by variant.

    Raises:
        UsageError: A variant has another vocabulary than the reference, or a text is unfit.
        IntegrityError: A file is damaged.
        ResourceError: Memory or disk ran out.
        UntrustworthyError: A model computes no finite logits.
    """
    n_ctx = options.context.n_ctx
    if n_ctx < _MIN_CTX:
        raise UsageError(f"chunks of {n_ctx} tokens are too short", f"use at least {_MIN_CTX}")
    meters = {(path, corpus): DivergenceMeter() for path in variants for corpus in corpora}
    texts = list(dict.fromkeys(corpora))
    if save_base is not None and len(texts) != 1:
        raise UsageError(
            f"a base file holds one text, not {len(texts)}", "give one --lang or one --text"
        )
    headers = {path: _sound_header(path, settings) for path in (reference, *variants)}
    _check_vocabularies(headers, reference)
    needed = {path: _needed_bytes(headers[path], options) for path in variants}
    beside = _needed_bytes(headers[reference], options)
    for number, group in enumerate(_groups(needed, beside)):
        with _open_contexts((reference, *group), options) as contexts:
            model = contexts[0].model
            _check_texts(model, texts)
            for corpus in texts:
                text = ModelText(model)
                only_whole = save_base is not None
                # Cutting a text takes a thousandth of the time of reading it.
                total = sum(1 for _ in _chunks(text, corpus, options, only_whole=only_whole))
                chunks = _chunks(text, corpus, options, only_whole=only_whole)
                label = f"{corpus.name}: {', '.join(path.stem for path in group)}"
                with (
                    _writing(save_base if number == 0 else None, model, corpus, options) as writer,
                    progress.task(label, total=total, unit="chunks") as task,
                ):
                    _measure(
                        contexts,
                        _watched(chunks, task),
                        _as_computed(writer),
                        [meters[path, corpus] for path in group],
                    )
    return _results(meters)


def compare_with_base(
    base: Path,
    variants: Sequence[Path],
    options: CompareOptions,
    settings: Settings,
    progress: Progress,
) -> dict[Path, Comparison]:
    """Compare variants with the predictions in a base file, whose chunks have their own length.

    Raises:
        NotFoundError: There is no such file.
        UsageError: A variant has a vocabulary of another size than the reference's.
        IntegrityError: A file is damaged.
        ResourceError: Memory ran out.
        UntrustworthyError: A model computes no finite logits.
    """
    with KlBaseReader(base) as reader:
        header = reader.header
        n_chunks = min(header.n_chunks, options.max_chunks or header.n_chunks)
        chosen = replace(options, context=replace(options.context, n_ctx=header.n_ctx))
        needed = {path: _needed_bytes(_sound_header(path, settings), chosen) for path in variants}
        meters = {path: DivergenceMeter() for path in needed}
        for group in _groups(needed, 0):
            with _open_contexts(group, chosen) as contexts:
                for context in contexts:
                    _check_size(context.model, reader)
                label = f"{base.name}: {', '.join(path.stem for path in group)}"
                with progress.task(label, total=n_chunks, unit="chunks") as task:
                    chunks = _base_chunks(reader, n_chunks, contexts[0].model)
                    _measure(
                        contexts,
                        _watched(chunks, task),
                        _as_stored(reader),
                        [meters[path] for path in group],
                    )
    return _results(meters)


def paired_difference(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of `a - b` over chunks, and the ends of its 95 % confidence interval.

    The interval is Student's: the chunks' differences are taken as independent and equally
    weighted. Most of what makes one chunk harder than another is the same for both variants and
    drops out, so a difference can be certain that is far below either mean's own error. Two
    chunks say little and one nothing: its interval is infinite.

    Raises:
        ValueError: They are no pairs, or there are none.
    """
    differences = [left - right for left, right in zip(a, b, strict=True)]
    if not differences:
        raise ValueError("no chunk was compared")
    n, mean = len(differences), statistics.fmean(differences)
    if n == 1:
        return mean, -math.inf, math.inf
    half = _t_975(n - 1) * statistics.stdev(differences) / math.sqrt(n)
    return mean, mean - half, mean + half


def _t_975(freedom: int) -> float:
    if freedom <= len(_T_975):
        return _T_975[freedom - 1]
    # Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5.
    z = statistics.NormalDist().inv_cdf(0.975)
    first = (z**3 + z) / (4 * freedom)
    return z + first + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def _measure(
    contexts: Sequence[Context],
    chunks: Iterable[list[int]],
    predict: _Predict,
    meters: Sequence[DivergenceMeter],
) -> None:
    """Decode chunks and add what comes out to the meters, which belong to the last contexts."""
    n_before = 0
    for group in _batched(chunks, min(context.n_seq_max for context in contexts)):
        for step in decode_in_step(contexts, group):
            chunk = n_before + step.chunk
            for start in range(0, len(step.next_tokens), ROWS_AT_ONCE):
                rows = slice(start, start + ROWS_AT_ONCE)
                reference = predict(step.logits[0][rows], chunk, step.first + start)
                tokens = step.next_tokens[rows]
                for meter, logits in zip(meters, step.logits[-len(meters) :], strict=True):
                    meter.add_rows(reference, LogitRows(logits[rows]), tokens, chunk=chunk)
        n_before += len(group)


def _as_computed(writer: KlBaseWriter | None) -> _Predict:
    """Take the first context's logits as the reference, and keep them where wanted."""

    def predict(logits: NDArray[np.float32], chunk: int, position: int) -> Predictions:
        del chunk, position
        if writer is not None:
            writer.add(logits)
        return LogitRows(logits)

    return predict


def _as_stored(reader: KlBaseReader) -> _Predict:
    """Take the reference from a base file."""
    first = reader.header.n_ctx // 2

    def predict(logits: NDArray[np.float32], chunk: int, position: int) -> Predictions:
        return reader.rows(chunk, position - first, len(logits))

    return predict


def _sound_header(path: Path, settings: Settings) -> Header:
    header = ensure_loads(path, settings.state_dir)
    require_text(header)
    return header


def _check_vocabularies(headers: dict[Path, Header], reference: Path) -> None:
    expected = headers[reference].vocabulary_sha256()
    for path, header in headers.items():
        if header.vocabulary_sha256() != expected:
            is_trimmed = any(_TRIMMED in found.metadata for found in (header, headers[reference]))
            raise UsageError(
                f"{path.name} cannot be compared with {reference.name}: their vocabularies differ"
                + (", as one of them was trimmed" if is_trimmed else ""),
                "llmedge trim compared both when it made the file; evaluate what it was made from"
                if is_trimmed
                else "give the file that the variants were made from as --reference",
            )


def _check_size(model: Model, reader: KlBaseReader) -> None:
    if model.vocab.n_tokens != reader.header.n_vocab:
        raise UsageError(
            f"{model.path.name} has {model.vocab.n_tokens} tokens, the reference of "
            f"{reader.path.name} had {reader.header.n_vocab}",
            "give the base file that the variants' own reference left",
        )


def _check_texts(model: Model, corpora: Sequence[Corpus]) -> None:
    if any(corpus.is_chat for corpus in corpora) and not ModelText(model).can_chat:
        raise UsageError(
            f"{model.path.name} has no chat template, and conversations are among the texts",
            "leave them out: --lang en,hi",
        )


def _needed_bytes(header: Header, options: CompareOptions) -> int:
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    n_vocab = tokens.length if isinstance(tokens, Array) else 1
    return header.file_bytes + logits_bytes(n_vocab, options.context)


def _groups(needed: dict[Path, int], beside: int) -> Iterator[list[Path]]:
    """Yield the variants in groups that fit into memory beside the reference, all in bytes."""
    room = int(_MEMORY_SHARE * read_memory().available_bytes) - beside
    group: list[Path] = []
    used = 0
    for path, n_bytes in needed.items():
        if group and used + n_bytes > room:
            yield group
            group, used = [], 0
        group.append(path)
        used += n_bytes
    if group:
        yield group


@contextlib.contextmanager
def _open_contexts(paths: Sequence[Path], options: CompareOptions) -> Generator[list[Context]]:
    with contextlib.ExitStack() as stack:
        contexts: list[Context] = []
        for path in paths:
            model = stack.enter_context(Model.load(path, options.model))
            contexts.append(stack.enter_context(step_context(model, options.context)))
        yield contexts


@contextlib.contextmanager
def _writing(
    path: Path | None, model: Model, corpus: Corpus, options: CompareOptions
) -> Generator[KlBaseWriter | None]:
    if path is None:
        yield None
        return
    chunks = _chunks(ModelText(model), corpus, options, only_whole=True)
    n_ctx, n_vocab = options.context.n_ctx, model.vocab.n_tokens
    with writing_base(path, chunks, n_ctx=n_ctx, n_vocab=n_vocab) as writer:
        yield writer


def _chunks(
    text: ModelText, corpus: Corpus, options: CompareOptions, *, only_whole: bool
) -> Iterator[list[int]]:
    n_ctx = options.context.n_ctx
    chunks = text.chunks(corpus, n_ctx)
    wanted = (chunk for chunk in chunks if len(chunk) == n_ctx or not only_whole)
    return itertools.islice(wanted, options.max_chunks)


def _base_chunks(reader: KlBaseReader, n_chunks: int, model: Model) -> Iterator[list[int]]:
    """Yield a base file's chunks; llama.cpp's tool stores them without the token they begin with.

    Source: llama.cpp tools/perplexity/perplexity.cpp, `add_bos`.
    """
    bos = model.vocab.bos if model.vocab.adds_bos else None
    for index in range(n_chunks):
        chunk = reader.chunk(index)
        yield chunk if bos is None else [bos, *chunk[1:]]


def _batched(chunks: Iterable[list[int]], n: int) -> Iterator[list[list[int]]]:
    iterator = iter(chunks)
    while group := list(itertools.islice(iterator, n)):
        yield group


def _watched(chunks: Iterable[list[int]], task: Task) -> Iterator[list[int]]:
    """Yield chunks, and report those that are behind."""
    for number, chunk in enumerate(chunks, start=1):
        yield chunk
        task.update(number)


def _results(meters: dict[KeyT, DivergenceMeter]) -> dict[KeyT, Comparison]:
    return {key: Comparison(meter.result(), meter.chunk_klds) for key, meter in meters.items()}
