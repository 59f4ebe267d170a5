"""Whether llama.cpp encodes texts as the original tokenizer does: their ids, compared.

Each side runs in a process of its own, one after the other: a large vocabulary takes 100 MB in
either, and neither must take the converter down.
"""

from __future__ import annotations

import tempfile
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmedge.convert.tokenizer_draft import Difference
from llmedge.convert.tokenizer_original import encode_original
from llmedge.core.errors import UnsupportedError
from llmedge.gguf.writer import Metadata, encode_header, encode_metadata
from llmedge.runtime.vocab_file import encode_texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmedge.convert.tokenizer_draft import Choice, Draft
    from llmedge.measure.sentences import Sentence

# The share of texts with other ids above which a tokenizer is refused.
MAX_MISMATCH = 0.005


@dataclass(frozen=True, slots=True)
class KindResult:
    """How texts of one kind came out.

    Attributes:
        kind: What they are: a language, code, emoji …
        n_texts: How many were compared.
        n_mismatches: How many have other ids.
    """

    kind: str
    n_texts: int
    n_mismatches: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one choice compares with the original.

    Attributes:
        choice: The choice.
        results: By kind of text.
        n_unexplained: Texts with other ids for no known reason; the number of texts where
            llama.cpp cannot use the vocabulary.
        why: Why llama.cpp cannot use it, "" where it can.
    """

    choice: Choice
    results: tuple[KindResult, ...]
    n_unexplained: int
    why: str = ""

    @property
    def n_texts(self) -> int:
        """Number of texts compared."""
        return sum(result.n_texts for result in self.results)

    @property
    def n_mismatches(self) -> int:
        """Number of texts with other ids."""
        return sum(result.n_mismatches for result in self.results)

    @property
    def passes(self) -> bool:
        """Whether so few texts differ that it may be used."""
        return not self.why and self.n_unexplained <= MAX_MISMATCH * self.n_texts


class Comparison:
    """The original's ids, to compare choices with.

    Args:
        folder: The checkpoint.
        architecture: llama.cpp's name of the architecture.
        sentences: The texts.

    Raises:
        IntegrityError: The `tokenizers` library refuses the tokenizer.
    """

    def __init__(self, folder: Path, architecture: str, sentences: Sequence[Sentence]) -> None:
        self._sentences = sentences
        self._texts = [sentence.text for sentence in sentences]
        self._head = encode_metadata({"general.architecture": architecture})
        self._expected = encode_original(folder, self._texts)

    def judge(self, draft: Draft, choice: Choice) -> Verdict:
        """Encode the texts with llama.cpp and count, kind by kind, those with other ids.

        A text that the original prepares in a way that llama.cpp is known not to is encoded once
        more, prepared: if that gives the right ids, the difference is explained.
        """
        n_texts = Counter(sentence.kind for sentence in self._sentences)
        prepared = [_prepare(text, draft.differences) for text in self._texts]
        texts = tuple(dict.fromkeys((*self._texts, *prepared)))
        with tempfile.TemporaryDirectory(prefix="llmedge-") as folder:
            path = Path(folder) / "vocabulary.gguf"
            _write(path, (self._head, *draft.pieces(choice)))
            try:
                found = dict(zip(texts, encode_texts(path, texts), strict=True))
            except UnsupportedError as error:
                results = tuple(KindResult(kind, n, n) for kind, n in n_texts.items())
                return Verdict(choice, results, len(self._texts), error.message)
        n_wrong: Counter[str] = Counter()
        n_unexplained = 0
        rows = zip(self._sentences, self._expected, prepared, strict=True)
        for sentence, expected, prepared_text in rows:
            if found[sentence.text] != expected:
                n_wrong[sentence.kind] += 1
                is_lost = Difference.CLUSTERS in draft.differences and not _is_composed(sentence)
                n_unexplained += found[prepared_text] != expected and not is_lost
        results = tuple(KindResult(kind, n, n_wrong[kind]) for kind, n in n_texts.items())
        return Verdict(choice, results, n_unexplained)


def _prepare(text: str, differences: frozenset[Difference]) -> str:
    if Difference.NFC in differences:
        text = unicodedata.normalize("NFC", text)
    if Difference.ONE_SPACE in differences and text.startswith((" ", "▁")):
        text = text[1:]
    return text


def _is_composed(sentence: Sentence) -> bool:
    return unicodedata.is_normalized("NFC", sentence.text)


def _write(path: Path, pieces: Sequence[Metadata]) -> None:
    n_keys = sum(piece.n_keys for piece in pieces)
    with path.open("wb") as file:
        file.write(encode_header(Metadata(n_keys, b""), ()))
        for piece in pieces:
            file.write(piece.data)
