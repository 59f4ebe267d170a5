"""The result of one benchmark, as it is shown and kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Not for type checking alone: records are decoded by these.
from llmedge.bench.fingerprint import Fingerprint  # noqa: TC001
from llmedge.host.load import LoadReport  # noqa: TC001

SCHEMA = "llmedge.bench/1"


@dataclass(frozen=True, slots=True)
class Rate:
    """Tokens per second over repetitions.

    Attributes:
        n_tokens: Tokens in one repetition.
        samples: Tokens per second of each repetition.
    """

    n_tokens: int
    samples: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean."""
        return sum(self.samples) / len(self.samples)

    @property
    def standard_deviation(self) -> float:
        """Their sample standard deviation; 0 for a single one."""
        n = len(self.samples)
        if n < 2:
            return 0.0
        return math.sqrt(sum((sample - self.mean) ** 2 for sample in self.samples) / (n - 1))

    @property
    def best(self) -> float:
        """The fastest: what the machine does when nothing disturbs it."""
        return max(self.samples)


@dataclass(frozen=True, slots=True)
class BenchResult:
    """One model on this machine.

    Attributes:
        model: Its id.
        file_bytes: Its size.
        bits_per_weight: Over all tensors.
        prompt: Prompt processing.
        generation: Token generation, one token a call, from an empty kv cache.
        load_s: Seconds from opening the file to a context that is ready, the file's pages as warm
            as they were.
        peak_resident_bytes: Most memory of the measuring process, mapped weights included.
        peak_anonymous_bytes: Of it, what cannot be dropped under pressure; `None` where the system
            does not tell.
        baseline_bytes: What the process had before it loaded the model: the interpreter and the
            libraries, which an app does not have.
        load: What else ran on the machine meanwhile.
        temperature_celsius: The hottest sensor afterwards, `None` without one.
        energy_j: Energy of the processor packages over the whole measurement, `None` where it
            cannot be read.
        fingerprint: The conditions.
        created: When, ISO 8601 in UTC.
        schema: Version of this structure.
    """

    model: str
    file_bytes: int
    bits_per_weight: float
    prompt: Rate
    generation: Rate
    load_s: float
    peak_resident_bytes: int
    peak_anonymous_bytes: int | None
    baseline_bytes: int
    load: LoadReport
    temperature_celsius: float | None
    energy_j: float | None
    fingerprint: Fingerprint
    created: str
    schema: str = SCHEMA

    @property
    def is_contended(self) -> bool:
        """Whether the machine was busy with something else: do not compare this result."""
        return self.load.is_contended
