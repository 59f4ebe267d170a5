"""The result of one benchmark cell, as it is shown and kept."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

# Not for type checking alone: records are decoded by these.
from llmedge.bench.fingerprint import Fingerprint  # noqa: TC001
from llmedge.bench.judge import Readings  # noqa: TC001
from llmedge.bench.plateau import Sustained  # noqa: TC001

SCHEMA = "llmedge.bench/2"


@dataclass(frozen=True, slots=True)
class Rate:
    """Tokens per second over repetitions.

    Attributes:
        n_tokens: Tokens in one repetition.
        samples: Tokens per second of each repetition; none where it was not measured.
    """

    n_tokens: int
    samples: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean, 0 without any."""
        return statistics.fmean(self.samples) if self.samples else 0.0

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
        return max(self.samples, default=0.0)


@dataclass(frozen=True, slots=True)
class Latency:
    """How long a reader waits.

    Attributes:
        first_token_s: From a prompt of the measured length to the first token, chosen; median.
        inter_token_p50_s: Between two tokens: the median,
        inter_token_p90_s: what nine of ten keep to,
        inter_token_p99_s: and what all but one in a hundred do.
    """

    first_token_s: float
    inter_token_p50_s: float
    inter_token_p90_s: float
    inter_token_p99_s: float


@dataclass(frozen=True, slots=True)
class LoadTimes:
    """From opening the file to a context that is ready.

    Attributes:
        warm_s: With the file's pages in memory.
        cold_s: With none of them, which was made sure of; `None` where it was not asked for, or
            the pages could not be dropped.
    """

    warm_s: float
    cold_s: float | None


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Memory in five numbers, and what is not the model's; `None` is what the system does not tell.

    Attributes:
        touched_file_bytes: Pages of the mapped file that computing touched: they can be dropped
            under pressure, and are read again at once. 0 where the file is not mapped.
        anonymous_peak_bytes: Most memory without a file behind it: what cannot be dropped.
        resident_peak_bytes: Most memory of the measuring process, mapped weights included.
        proportional_peak_bytes: The same with shared pages divided among those who map them.
        reserved_bytes: What llama.cpp says that it sets aside, mapped weights included.
        repacked_bytes: Of it, weights copied into the layout of the fastest kernels.
        baseline_bytes: What the process had before it loaded the model: the interpreter and the
            libraries, which an app does not have.
    """

    touched_file_bytes: int | None
    anonymous_peak_bytes: int | None
    resident_peak_bytes: int
    proportional_peak_bytes: int | None
    reserved_bytes: int
    repacked_bytes: int
    baseline_bytes: int


@dataclass(frozen=True, slots=True)
class Energy:
    """Joules a token, `None` where they cannot be read.

    Attributes:
        prompt_j_per_token: While a prompt is processed.
        generation_j_per_token: While tokens are generated.
    """

    prompt_j_per_token: float | None = None
    generation_j_per_token: float | None = None


@dataclass(frozen=True, slots=True)
class Heat:
    """The hottest sensor and the fastest core's clock, `None` without them.

    Attributes:
        before_celsius: Before the model was loaded.
        peak_celsius: The most during the measurement.
        after_celsius: Afterwards.
        clock_before_hz: When the measuring began.
        clock_least_hz: The least while it ran.
        clock_after_hz: Afterwards.
    """

    before_celsius: float | None = None
    peak_celsius: float | None = None
    after_celsius: float | None = None
    clock_before_hz: float | None = None
    clock_least_hz: float | None = None
    clock_after_hz: float | None = None


@dataclass(frozen=True, slots=True)
class Words:
    """Speed in a language.

    Attributes:
        language: Its code.
        tokens_per_word: What this vocabulary spends on a word of it.
        words_per_s: What that makes of the generation's tokens per second.
    """

    language: str
    tokens_per_word: float
    words_per_s: float


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Which model.

    Attributes:
        file: The file's name.
        file_bytes: Its size.
        tensor_bytes: Of it, weights.
        n_params: How many weights.
        bits_per_weight: Over all tensors.
        description: llama.cpp's words for it.
    """

    file: str
    file_bytes: int
    tensor_bytes: int
    n_params: int
    bits_per_weight: float
    description: str


@dataclass(frozen=True, slots=True)
class BenchResult:
    """One cell: a model, a way to run it, a depth.

    Attributes:
        model: Its id.
        facts: Which model that is.
        n_depth: Tokens in the kv cache before each repetition.
        prompt: Prompt processing.
        generation: Token generation, one token a call.
        latency: `None` where another program measured.
        load: Load times; `None` likewise.
        memory: `None` likewise.
        energy: Joules a token.
        heat: Temperature and clock.
        words: Words per second by language.
        readings: What ran on the machine meanwhile; `None` where nothing was read.
        flags: Why it may not be believed; empty for a good one.
        reasons: The figures behind the flags.
        sustained: The long run, where there was one.
        fingerprint: The conditions.
        created: When, ISO 8601 in UTC.
        measured_by: `llmedge`, or the program whose output was imported.
        schema: Version of this structure.
    """

    model: str
    facts: ModelFacts
    n_depth: int
    prompt: Rate
    generation: Rate
    latency: Latency | None
    load: LoadTimes | None
    memory: MemoryUse | None
    energy: Energy
    heat: Heat
    words: tuple[Words, ...]
    readings: Readings | None
    flags: tuple[str, ...]
    reasons: tuple[str, ...]
    fingerprint: Fingerprint
    created: str
    sustained: Sustained | None = None
    measured_by: str = "llmedge"
    schema: str = SCHEMA

    @property
    def is_trusted(self) -> bool:
        """Whether nothing speaks against it: others may be shown, never compared."""
        return not self.flags

    @property
    def resident_bytes(self) -> int:
        """Its resident peak, 0 where it was not measured."""
        return self.memory.resident_peak_bytes if self.memory else 0
