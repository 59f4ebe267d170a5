"""What earlier runs measured of these very files in this very way, from the store's records.

A record is taken only where everything that its figures depend on agrees. A comparison goes by the
hashes of both files and of the text. A speed goes by the model's id, its size and its bits per
weight, and by its file not having changed since: hashing the file would warm its pages and falsify
the load time that is measured where no record is found.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmedge.bench.fingerprint import take_fingerprint
from llmedge.bench.record import SCHEMA as BENCH_SCHEMA
from llmedge.bench.record import BenchResult
from llmedge.evaluate.fingerprint import EvaluationFingerprint  # noqa: TC001 - as below
from llmedge.evaluate.report import SCHEMA as EVALUATE_SCHEMA
from llmedge.host.cpu import read_cpu
from llmedge.measure.kl_divergence import Divergence  # noqa: TC001 - records are decoded by it

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmedge.bench.suite import BenchOptions
    from llmedge.gguf.reader import Header

_CTX_STEP = 256  # llama.cpp rounds a context up to this many tokens


@dataclass(frozen=True, slots=True)
class PastEvaluation:
    """A comparison as its record holds it.

    Attributes:
        text: The text's name.
        divergence: What was measured.
        fingerprint: The conditions.
        created: When, ISO 8601 in UTC.
        schema: Version of the record.
    """

    text: str
    divergence: Divergence
    fingerprint: EvaluationFingerprint
    created: str
    schema: str


def find_evaluation(
    records: Sequence[PastEvaluation], wanted: EvaluationFingerprint
) -> Divergence | None:
    """Return the latest comparison under the same conditions; records come oldest first."""
    for record in reversed(records):
        if record.schema == EVALUATE_SCHEMA and record.fingerprint == wanted:
            return record.divergence
    return None


def find_bench(
    records: Sequence[BenchResult], header: Header, model: str, options: BenchOptions
) -> BenchResult | None:
    """Return the latest undisturbed speed under the same conditions; records come oldest first."""
    context = options.context
    wanted = (
        BENCH_SCHEMA,
        model,
        header.file_bytes,
        round(header.bits_per_weight, 4),
        0,
        (options.n_prompt, options.repetitions),
        (options.n_gen, options.repetitions),
        take_fingerprint(
            options.model,
            replace(context, n_ctx=-(-context.n_ctx // _CTX_STEP) * _CTX_STEP),
            context.n_threads or read_cpu().default_threads,
        ),
    )
    changed_s = int(header.path.stat().st_mtime)
    for record in reversed(records):
        found = (
            record.schema,
            record.model,
            record.facts.file_bytes,
            record.facts.bits_per_weight,
            record.n_depth,
            (record.prompt.n_tokens, len(record.prompt.samples)),
            (record.generation.n_tokens, len(record.generation.samples)),
            record.fingerprint,
        )
        if found == wanted and record.is_trusted and _seconds(record.created) >= changed_s:
            return record
    return None


def _seconds(created: str) -> float:
    try:
        return datetime.datetime.fromisoformat(created).timestamp()
    except ValueError:
        return 0.0
