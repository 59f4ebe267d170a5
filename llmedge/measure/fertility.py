"""How many tokens a vocabulary spends on a word, and what that makes of tokens per second.

Tokens per second cannot be compared between languages or vocabularies; words per second can.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from llmedge.measure.corpus import UDHR_LANGUAGES, read_pieces, udhr_corpus
from llmedge.runtime.model import Model, ModelOptions
from llmedge.store.records import read_records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from llmedge.core.settings import Settings
    from llmedge.measure.corpus import Corpus

_BENCH_SCHEMA = "llmedge.bench/2"  # the records that are understood here


@dataclass(frozen=True, slots=True)
class Fertility:
    """What a vocabulary makes of a text.

    Attributes:
        text: The text's name.
        n_words: Runs between white space that hold a letter or digit.
        n_tokens: All tokens, those of punctuation and line ends too.
        n_bytes: The text's length in UTF-8.
    """

    text: str
    n_words: int
    n_tokens: int
    n_bytes: int

    @property
    def tokens_per_word(self) -> float:
        """Tokens that a word costs."""
        return self.n_tokens / self.n_words

    @property
    def bytes_per_token(self) -> float:
        """Text that a token carries."""
        return self.n_bytes / self.n_tokens


def model_fertility(model: Path, corpora: Iterable[Corpus]) -> dict[Corpus, Fertility | None]:
    """Return what a model's vocabulary makes of the languages of texts; its weights stay unread.

    A language is counted on the Universal Declaration of Human Rights, whose articles say the same
    in each; one that it is not shipped in, and any other text, on the text itself. `None` stands
    for conversations: most of their tokens are the template's.

    Raises:
        IntegrityError: The file is damaged.
    """
    with Model.load(model, ModelOptions(vocab_only=True)) as loaded:
        vocab = loaded.vocab
        return {corpus: count_fertility(corpus, vocab.tokenize) for corpus in corpora}


def count_fertility(corpus: Corpus, tokenize: Callable[[str], list[int]]) -> Fertility | None:
    """Count words and tokens of a text's language; see `model_fertility`."""
    if corpus.is_chat:
        return None
    text = udhr_corpus(corpus.language) if corpus.language in UDHR_LANGUAGES else corpus
    n_words = n_tokens = n_bytes = 0
    for piece in read_pieces(text):
        n_words += sum(any(map(str.isalnum, word)) for word in piece.split())
        n_tokens += len(tokenize(piece))
        n_bytes += len(piece.encode())
    return Fertility(text.name, n_words, n_tokens, n_bytes) if n_words else None


def newest_tg_rate(settings: Settings, model: str, file_bytes: int) -> float | None:
    """Return a model's tokens per second from its newest bench record of a quiet machine.

    Args:
        settings: Where the records are.
        model: The model's id.
        file_bytes: Its size: another file of that name does not count.
    """
    for record in reversed(read_records(settings, "bench")):
        if (record.get("schema"), record.get("model")) != (_BENCH_SCHEMA, model):
            continue
        facts, conditions, rate = (
            cast("dict[str, object]", record[key]) for key in ("facts", "fingerprint", "generation")
        )
        place = (facts["file_bytes"], record["n_depth"], conditions["place"])
        samples = cast("list[float]", rate["samples"])
        if place == (file_bytes, 0, "host") and not record["flags"] and samples:
            return sum(samples) / len(samples)
    return None
