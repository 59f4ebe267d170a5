"""Which text a model is calibrated with: kinds of text in shares, cut in chunks, drawn by a seed.

The draw is the same on every system: each chunk's place in the queue is a hash of the seed, its
kind and its number. What is drawn stands in the order of its text. Memory holds the chunks that may
be taken, and never a whole text.
"""

from __future__ import annotations

import difflib
import hashlib
import heapq
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.core.errors import UsageError
from llmedge.measure.corpus import KINDS, LANGUAGES, calibration_corpus, file_corpus

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
            queues[kind] = _queue(text, kind, options, n_chunks)
        except UsageError as error:
            if not _is_chat(kind):
                raise
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
    text: ModelText, kind: str, options: CalibrationOptions, n_max: int
) -> list[tuple[int, tuple[int, ...]]]:
    """Return the whole chunks of a text in the order in which they are drawn, at most `n_max`.

    Returns:
        Each with its number in the text.

    Raises:
        UsageError: The text is unfit.
    """

    def numbered() -> Iterator[tuple[bytes, int, tuple[int, ...]]]:
        chunks = text.chunks(_corpus(kind, options), options.n_ctx, language=_CHAT_IN.get(kind))
        for number, chunk in enumerate(chunks):
            if len(chunk) == options.n_ctx:
                place = hashlib.sha256(f"{options.seed} {kind} {number}".encode()).digest()
                yield place, number, tuple(chunk)

    return [(number, tokens) for _, number, tokens in heapq.nsmallest(n_max, numbered())]


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
