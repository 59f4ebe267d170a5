"""The proof that a trimmed model is the original with fewer tokens: same tokens, same logits.

Both run in a child process, on plain CPU kernels whatever else there is: only there two matrices
with different numbers of rows are computed in the same order.
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.core.errors import IntegrityError, JudgementError, ResourceError
from llmedge.host.child import Child, ChildDied
from llmedge.measure.logits import rows_at_once
from llmedge.measure.scripts import find_scripts
from llmedge.measure.sentences import read_sentences
from llmedge.measure.trimmed import TrimLoss, TrimMeter, decode_chunk
from llmedge.quantize.trim_survey import render_conversations
from llmedge.runtime.context import Context, ContextOptions
from llmedge.runtime.model import Model, ModelOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from llmedge.core.progress import Task
    from llmedge.host.child import Talk
    from llmedge.measure.corpus import Corpus

_N_CTX = 512
_PARAGRAPH = re.compile(r".+?(?:\n\n+|\Z)", re.DOTALL)  # with the empty lines after it
_HINT = "report this with the model's name; leave its vocabulary whole"


@dataclass(frozen=True, slots=True)
class ProofOptions:
    """What to prove, and on what.

    Attributes:
        kept: Tokens that stayed, ascending.
        corpora: Held-out texts, of paragraphs with an empty line between.
        scripts: Scripts that were kept.
        is_exact: Whether texts in these scripts must be cut exactly as before.
        max_chunks: Chunks of each text that the models read; all of it is cut into tokens.
        n_threads: Threads to compute with.
    """

    kept: array[int]
    corpora: tuple[Corpus, ...]
    scripts: frozenset[str]
    is_exact: bool
    max_chunks: int
    n_threads: int


@dataclass(frozen=True, slots=True)
class TextProof:
    """What was found on one text.

    Attributes:
        text: Its name.
        n_tokens_before: Tokens that the original cuts it into.
        n_tokens: Tokens that the trimmed model cuts it into.
        n_paragraphs: Its paragraphs.
        n_cut_alike: Those of them that both cut alike.
        loss: What the models say about it.
    """

    text: str
    n_tokens_before: int
    n_tokens: int
    n_paragraphs: int
    n_cut_alike: int
    loss: TrimLoss


@dataclass(frozen=True, slots=True)
class Proof:
    """What was found.

    Attributes:
        texts: One a text.
        n_sentences: Further short texts that were cut by both.
        n_cut_alike: Those of them that were cut alike.
        mass: Mean probability of each dropped token that has any, over all texts alike.
    """

    texts: tuple[TextProof, ...]
    n_sentences: int
    n_cut_alike: int
    mass: dict[int, float]


@dataclass(frozen=True, slots=True)
class _Cut:
    before: list[int]
    after: list[int]
    is_alike: bool


def prove(original: Path, trimmed: Path, options: ProofOptions, task: Task) -> Proof:
    """Compare a trimmed model with its original.

    Args:
        original: The original, which is known to load.
        trimmed: The trimmed model's file.
        options: What to prove.
        task: Shown the texts that are done.

    Raises:
        JudgementError: A text is cut otherwise, or a token reads otherwise.
        IntegrityError: The trimmed file does not load.
        ResourceError: Memory ran out.
    """
    with Child(_prove, original, trimmed, options) as child:
        try:
            for n_done in child.messages():
                task.update(float(n_done))
        except ChildDied as death:
            if death.cause == "SIGKILL":
                raise ResourceError(
                    "comparing the models was killed: most likely the system ran out of memory",
                    "close other programs",
                ) from None
            raise IntegrityError(
                f"comparing the models ended llama.cpp by {death.cause}: {death.stderr}", _HINT
            ) from None
        return child.result


def _prove(talk: Talk, original: Path, trimmed: Path, options: ProofOptions) -> Proof:
    """Run in the child."""
    plain = ModelOptions(n_gpu_layers=0, repack=False)
    with Model.load(original, plain) as old, Model.load(trimmed, plain) as new:
        pair = _Pair(old, new, options)
        pair.require_same_tokens()
        n_alike, n_sentences = pair.cut_sentences()
        n_batch = rows_at_once(old.vocab.n_tokens, _N_CTX)
        context = ContextOptions(n_ctx=_N_CTX, n_batch=n_batch, n_threads=options.n_threads)
        texts: list[TextProof] = []
        mass: dict[int, float] = {}
        with Context(old, context) as first, Context(new, context) as second:
            for corpus in options.corpora:
                meter = TrimMeter(old.vocab.n_tokens, options.kept)
                texts.append(pair.measure(corpus, (first, second), meter))
                for token, share in meter.dropped_mass().items():
                    mass[token] = mass.get(token, 0.0) + share / len(options.corpora)
                talk.say(len(texts))
    return Proof(tuple(texts), n_sentences, n_alike, mass)


class _Pair:
    """The original and the trimmed model, and what each makes of texts."""

    def __init__(self, old: Model, new: Model, options: ProofOptions) -> None:
        self._old, self._new, self._options = old, new, options
        self._new_ids = array("i", [-1]) * old.vocab.n_tokens
        for place, token in enumerate(options.kept):
            self._new_ids[token] = place

    def require_same_tokens(self) -> None:
        """Hold every kept token's bytes and role against the original's."""
        old, new = self._old.vocab, self._new.vocab
        if new.n_tokens != len(self._options.kept):
            raise _different(f"it has {new.n_tokens} tokens, not {len(self._options.kept)}")
        for place, token in enumerate(self._options.kept):
            is_same = old.piece(token, special=True) == new.piece(place, special=True)
            if not is_same or old.is_end(token) != new.is_end(place):
                raise _different(f"token {token} ({old.text(token)!r}) reads otherwise")
        roles = {key: self._new_ids[token] for key, token in old.roles.items()}
        if roles != new.roles:
            raise _different(f"its special tokens are {new.roles}, not {roles}")

    def cut_sentences(self) -> tuple[int, int]:
        """Cut short texts of many kinds; return how many are cut alike, and how many there are."""
        texts = [sentence.text for sentence in read_sentences()]
        texts = [text for text in texts if find_scripts(text) <= self._options.scripts]
        texts += render_conversations(self._old)
        return sum(self._cut(text).is_alike for text in texts), len(texts)

    def measure(
        self, corpus: Corpus, contexts: tuple[Context, Context], meter: TrimMeter
    ) -> TextProof:
        """Read one text with both models.

        What both cut alike is read once. Of the rest the original reads its own cut, to weigh what
        was dropped, and both read the trimmed model's, whose tokens both have.
        """
        text = corpus.path.read_text(encoding="utf-8")
        cuts = [self._cut(part) for part in _PARAGRAPH.findall(text)]
        others = [cut for cut in cuts if not cut.is_alike]
        for chunk in self._chunks(cut.before for cut in cuts if cut.is_alike):
            for first, (original, trimmed) in decode_chunk(contexts, self._in_both(chunk)):
                meter.weigh(first, original)
                meter.compare(original, trimmed)
        for chunk in self._chunks(cut.before for cut in others):
            for first, (original,) in decode_chunk(contexts[:1], (chunk,)):
                meter.weigh(first, original)
        kept = self._options.kept
        for chunk in self._chunks([kept[token] for token in cut.after] for cut in others):
            for _, (original, trimmed) in decode_chunk(contexts, self._in_both(chunk)):
                meter.compare(original, trimmed)
        return TextProof(
            text=corpus.name,
            n_tokens_before=sum(len(cut.before) for cut in cuts),
            n_tokens=sum(len(cut.after) for cut in cuts),
            n_paragraphs=len(cuts),
            n_cut_alike=sum(cut.is_alike for cut in cuts),
            loss=meter.result(),
        )

    def _in_both(self, chunk: list[int]) -> tuple[list[int], list[int]]:
        """Return a chunk in the ids of each model."""
        return chunk, [self._new_ids[token] for token in chunk]

    def _chunks(self, parts: Iterable[list[int]]) -> Iterator[list[int]]:
        """Yield tokens in chunks that a context holds, each with `bos` where texts have one."""
        vocab = self._old.vocab
        head = [vocab.bos] if vocab.adds_bos and vocab.bos is not None else []
        tokens = [token for part in parts for token in part]
        step = _N_CTX - len(head)
        for start in range(0, min(len(tokens), self._options.max_chunks * step), step):
            yield [*head, *tokens[start : start + step]]

    def _cut(self, text: str) -> _Cut:
        """Cut a text with both vocabularies.

        Raises:
            JudgementError: They do not cut it alike, though they must; or the text is lost.
        """
        old, new = self._old.vocab, self._new.vocab
        before = old.tokenize(text, parse_special=True)
        after = new.tokenize(text, parse_special=True)
        is_alike = [self._new_ids[token] for token in before] == after
        if not is_alike:
            if self._options.is_exact and find_scripts(text) <= self._options.scripts:
                raise _different(f"it cuts {text[:60]!r} otherwise")
            if old.detokenize(before) != new.detokenize(after):
                raise _different(f"{text[:60]!r} does not come back from its tokens")
        return _Cut(before, after, is_alike)


def _different(why: str) -> JudgementError:
    return JudgementError(f"the trimmed model is not the original with fewer tokens: {why}", _HINT)
