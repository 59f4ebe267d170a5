"""Which text a model is calibrated with: kinds of text in shares, cut in chunks, drawn by a seed.

The draw is the same on every system: each chunk's place in the queue is a hash of the seed, its
kind and its number. What is drawn stands in the order of its text. Memory holds the chunks that may
be taken, and never a whole text.
"""

from __future__ import annotations

import difflib
import hashlib
import heapq
import itertools
import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmedge.core.errors import IntegrityError, UsageError
from llmedge.core.units import format_mb
from llmedge.measure.corpus import KINDS, LANGUAGES, WITHOUT_CHAT, calibration_corpus, file_corpus

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from llmedge.measure.corpus import Corpus
    from llmedge.measure.model_text import ModelText

_INDIC = tuple(code for code in LANGUAGES if code != "en")
# Conversations of one language: `chat-hi`.
_CHAT_IN = {f"chat-{code}": code for code in LANGUAGES}

# A phone's assistant is asked in its owner's language, in turns, and seldom for programs: every
# language counts alike, conversations for three of them, code and maths enough not to be forgotten.
PRESETS: dict[str, dict[str, float]] = {
    "balanced": {**dict.fromkeys(LANGUAGES, 1.0), "chat": 3.0, "code": 1.5, "maths": 1.0},
    "english": {"en": 4.0, "chat-en": 2.0, "code": 2.0, "maths": 1.0},
    "indic": {**dict.fromkeys(_INDIC, 1.0), "chat": 2.0, "en": 1.0},
    "chat": {"chat": 8.0, "en": 1.0, "hi": 1.0},
}
_LANGUAGES_SHARE, _CHAT_SHARE, _ENGLISH_SHARE = 0.6, 0.25, 0.15
_MIN_CTX = 32
# A longer text is not read whole, which would take minutes for nothing: chunks are taken from
# spans that are drawn, as long as this for each of their tokens. Hardly a text has longer ones.
_WHOLE_BYTES = 4 << 20
_SPAN_BYTES = 64  # a token


@dataclass(frozen=True, slots=True)
class CalibrationOptions:
    """What to calibrate with.

    Attributes:
        weights: By kind of text (`measure.corpus.KINDS`, `chat-hi` for conversations in Hindi) or
            file name, its share of the tokens; they need not add up to one.
        files: Texts of the user's. Those without a weight together get as much as all that have
            one.
        n_tokens: Tokens to take, at most.
        n_ctx: Tokens in a chunk.
        seed: Draws other chunks of the texts that are longer than what is taken of them.
    """

    weights: Mapping[str, float]
    files: tuple[Path, ...] = ()
    n_tokens: int = 20_480
    n_ctx: int = 512
    seed: int = 0


@dataclass(frozen=True, slots=True)
class CalibrationChunk:
    """A piece of text, as long as all others.

    Attributes:
        kind: What it is a piece of.
        tokens: Its tokens, `bos` first where the model wants one.
    """

    kind: str
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """What was drawn.

    Attributes:
        chunks: Kind by kind.
        notes: What could not be done as it was asked for.
    """

    chunks: tuple[CalibrationChunk, ...]
    notes: tuple[str, ...]

    @property
    def shares(self) -> dict[str, int]:
        """Tokens of each kind."""
        shares: Counter[str] = Counter()
        for chunk in self.chunks:
            shares[chunk.kind] += len(chunk.tokens)
        return dict(shares)


def select_chunks(text: ModelText, options: CalibrationOptions) -> tuple[CalibrationChunk, ...]:
    """Return the chunks to calibrate with; `draw` says besides what is left out."""
    return draw(text, options).chunks


def draw(text: ModelText, options: CalibrationOptions) -> Selection:
    """Draw the chunks to calibrate with.

    No text is taken twice: what a short one cannot give goes to the others, in proportion.

    Args:
        text: Turns texts into the model's tokens.
        options: What to draw.

    Raises:
        UsageError: A weight or a text is unfit, or all texts together are too short.
        NotFoundError: A file is not there.
        IntegrityError: Nothing but conversations is wanted, and the model's template is broken.
    """
    n_chunks = options.n_tokens // options.n_ctx if options.n_ctx >= _MIN_CTX else 0
    if n_chunks < 1:
        raise UsageError(
            f"{options.n_tokens} tokens are not one chunk of {options.n_ctx}",
            f"take at least {max(options.n_ctx, _MIN_CTX)}",
        )
    weights = _with_files(options)
    queues: dict[str, list[tuple[int, tuple[int, ...]]]] = {}
    notes: list[str] = []
    for kind in weights:
        try:
            queues[kind] = _queue(text, kind, options, n_chunks, notes)
        except UsageError as error:
            if not _is_chat(kind):
                raise
            notes.append(f"{kind} is left out: {error.message}")
        except IntegrityError as error:  # of the model's chat template
            if not _is_chat(kind) or all(map(_is_chat, weights)):
                raise IntegrityError(error.message, WITHOUT_CHAT) from None
            notes.append(f"{kind} is left out: {error.message}")
    taken = _share_out(weights, {kind: len(queue) for kind, queue in queues.items()}, n_chunks)
    chunks = tuple(
        CalibrationChunk(kind, tokens)
        for kind, n_taken in taken.items()
        for _, tokens in sorted(queues[kind][:n_taken])
    )
    if not chunks:
        raise UsageError(
            f"no text of {', '.join(weights)} has {options.n_ctx} tokens",
            "give longer texts with --calibration",
        )
    if len(chunks) < n_chunks:
        n_got = len(chunks) * options.n_ctx
        notes.append(f"the texts are shorter than asked for: {n_got} of {options.n_tokens} tokens")
    return Selection(chunks, tuple(notes))


def parse_weights(text: str, files: Collection[str] = ()) -> dict[str, float]:
    """Turn `hi=0.4,en=0.3` into weights by kind.

    Args:
        text: What the user wrote.
        files: Names of files that may have a weight, too.

    Raises:
        UsageError: An unknown kind, or a weight that cannot be meant.
    """
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = (word.strip() for word in part.rpartition("="))
        _require_known(name if equals else number, files)
        if not equals:
            raise UsageError(f"{number} has no weight in {text!r}", "write it like hi=0.4,en=0.3")
        if name in weights:
            raise UsageError(f"{name} has two weights in {text!r}", "give each kind one")
        try:
            weights[name] = float(number)
        except ValueError:
            raise UsageError(
                f"the weight of {name} is {number!r}, no number", "write it like hi=0.4,en=0.3"
            ) from None
    _require_fit(weights)
    return weights


def language_weights(languages: Collection[str]) -> dict[str, float]:
    """Return weights for a product that speaks these languages: texts and conversations in them.

    A little English is added: instructions, names and numbers come in it everywhere.

    Raises:
        UsageError: No text is shipped for a language, or none is named.
    """
    named = list(dict.fromkeys(languages))
    for code in named:
        if code not in LANGUAGES:
            raise UsageError(
                f"no text is shipped for language {code!r}", f"shipped: {', '.join(LANGUAGES)}"
            )
    if not named:
        raise UsageError("no language is named", f"shipped: {', '.join(LANGUAGES)}")
    weights = {code: _LANGUAGES_SHARE / len(named) for code in named}
    weights |= {f"chat-{code}": _CHAT_SHARE / len(named) for code in named}
    weights["en"] = weights.get("en", 0.0) + _ENGLISH_SHARE
    return weights


def dataset_name(kind: str) -> str:
    """Return what an importance matrix calls a kind of text: a file by its name, ours by ours."""
    return f"llmedge/{kind}" if kind in KINDS or kind in _CHAT_IN else kind


def _is_chat(kind: str) -> bool:
    return kind == "chat" or kind in _CHAT_IN


def _require_known(name: str, files: Collection[str]) -> None:
    known = (*KINDS, *_CHAT_IN, *files)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join((*KINDS, *files))}"
        raise UsageError(f"unknown kind of text {name!r}", hint)


def _require_fit(weights: Mapping[str, float]) -> None:
    for name, weight in weights.items():
        if not math.isfinite(weight) or weight < 0:
            raise UsageError(f"the weight of {name} is {weight}", "give numbers of at least 0")
    if not any(weights.values()):
        raise UsageError("every weight is 0", "write them like hi=0.4,en=0.3")


def _with_files(options: CalibrationOptions) -> dict[str, float]:
    """Return the weight of every kind and file that has one above zero."""
    names = [path.name for path in options.files]
    for name in names:
        if names.count(name) > 1 or name in KINDS or name in _CHAT_IN:
            raise UsageError(
                f"the file name {name} stands for something else, too", "rename the file"
            )
    weights = dict(options.weights)
    unweighted = [name for name in names if name not in weights]
    for name in weights:
        _require_known(name, names)
    if weights.get("chat") and any(weights.get(kind) for kind in _CHAT_IN):
        raise UsageError(
            "chat holds the conversations of every language; none is taken twice",
            "weigh chat, or chat-en, chat-hi …",
        )
    share = (sum(weights.values()) or 1.0) / max(1, len(unweighted))
    weights |= dict.fromkeys(unweighted, share)
    _require_fit(weights)
    return {name: weight for name, weight in weights.items() if weight}


def _queue(
    text: ModelText, kind: str, options: CalibrationOptions, n_max: int, notes: list[str]
) -> list[tuple[int, tuple[int, ...]]]:
    """Return the whole chunks of a text in the order in which they are drawn, at most `n_max`.

    Args:
        text: Turns the text into tokens.
        kind: Which text.
        options: How to draw.
        n_max: How many chunks may be wanted.
        notes: Takes a word on a text that is not read whole.

    Returns:
        Each with its number in the text.

    Raises:
        UsageError: The text is unfit.
        IntegrityError: The model's chat template is broken.
    """
    corpus = _corpus(kind, options)
    n_bytes = corpus.path.stat().st_size
    # Twice as many spans as are wanted: some may hold no whole chunk.
    if n_bytes > max(_WHOLE_BYTES, 2 * n_max * _SPAN_BYTES * options.n_ctx):
        found = list(itertools.islice(_drawn(text, corpus, options, n_bytes, 2 * n_max), n_max))
        size, pieces = format_mb(n_bytes), f"{len(found)} pieces from all over it"
        notes.append(f"{kind} has {size}: {pieces} were read, not the whole")
        return found

    def numbered() -> Iterator[tuple[bytes, int, tuple[int, ...]]]:
        chunks = text.chunks(corpus, options.n_ctx, language=_CHAT_IN.get(kind))
        for number, chunk in enumerate(chunks):
            if len(chunk) == options.n_ctx:
                yield _place(options, kind, number), number, tuple(chunk)

    return [(number, tokens) for _, number, tokens in heapq.nsmallest(n_max, numbered())]


def _drawn(
    text: ModelText, corpus: Corpus, options: CalibrationOptions, n_bytes: int, n_tries: int
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield the first whole chunk of each span that is drawn from a long text, and its number."""
    span_bytes = _SPAN_BYTES * options.n_ctx
    numbers = range(n_bytes // span_bytes)

    def place(number: int) -> bytes:
        return _place(options, corpus.name, number)

    for number in heapq.nsmallest(n_tries, numbers, place):
        span = replace(corpus, span=(number * span_bytes, (number + 1) * span_bytes))
        for chunk in itertools.islice(text.chunks(span, options.n_ctx), 1):
            if len(chunk) == options.n_ctx:
                yield number, tuple(chunk)


def _place(options: CalibrationOptions, kind: str, number: int) -> bytes:
    """Return a chunk's place in the queue: the same on every system."""
    return hashlib.sha256(f"{options.seed} {kind} {number}".encode()).digest()


def _corpus(kind: str, options: CalibrationOptions) -> Corpus:
    for path in options.files:
        if path.name == kind:
            return file_corpus(path)
    return calibration_corpus("chat" if kind in _CHAT_IN else kind)


def _share_out(
    weights: Mapping[str, float], available: Mapping[str, int], n_chunks: int
) -> dict[str, int]:
    """Return how many chunks each kind gives, as near to its weight as whole chunks allow.

    One chunk after the other goes to the kind that lacks most, as long as it has more. Source:
    the method of Sainte-Laguë, with limits.
    """
    taken = dict.fromkeys(available, 0)
    for _ in range(n_chunks):
        open_ = [kind for kind, n_taken in taken.items() if n_taken < available[kind]]
        if not open_:
            break
        # The first of several that lack the same: the order of the weights decides.
        neediest = max(open_, key=lambda kind: weights[kind] / (2 * taken[kind] + 1))
        taken[neediest] += 1
    return taken
