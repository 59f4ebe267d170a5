"""chrF, how much of the reference answers' character n-grams a model's answers have; by sacrebleu.

Source: Popović, "chrF: character n-gram F-score for automatic MT evaluation", WMT 2015.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.core.extras import require_extra

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Chrf:
    """A score with what it depends on.

    Attributes:
        score: 0 to 100 over all answers together; 100 is a reference word for word.
        signature: sacrebleu's account of how it was computed: only equal ones compare.
    """

    score: float
    signature: str


def require_chrf() -> None:
    """Make sure that chrF can be computed, before anything is measured for it.

    Raises:
        MissingExtraError: The extra `quality` is not installed.
    """
    require_extra("quality", "sacrebleu", reason="chrF")


def score_chrf(answers: Sequence[str], references: Sequence[Sequence[str]]) -> Chrf:
    """Score answers, each against the best of its references.

    Args:
        answers: At least one; an empty one matches nothing.
        references: At least one for each answer.

    Raises:
        MissingExtraError: The extra `quality` is not installed.
    """
    require_chrf()
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF()
    # sacrebleu wants a column for the first references, one for the second, and so on; where an
    # answer has fewer, its first one stands in, which changes no maximum.
    n_columns = max(map(len, references))
    columns = [
        [_composed(row[column if column < len(row) else 0]) for row in references]
        for column in range(n_columns)
    ]
    score = metric.corpus_score([_composed(answer) for answer in answers], columns)
    return Chrf(round(float(score.score), 2), str(metric.get_signature()))


def _composed(text: str) -> str:
    # Equal letters may come as different characters, which chrF would count as different.
    return unicodedata.normalize("NFC", text.strip())
