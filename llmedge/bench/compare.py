"""Did it get slower? Two sets of results, compared only where their conditions agree; pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.bench.fingerprint import differing_fields
from llmedge.bench.suite import AXES
from llmedge.core.errors import JudgementError, NotFoundError, UntrustworthyError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmedge.bench.record import BenchResult, Rate

# Runs that nothing disturbed still differ by this much: where pages happen to lie, which core.
_RUN_TO_RUN = 0.03
# Student's t for 95 %, two-sided, by degrees of freedom; above the last, the normal's.
_T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)
_NORMAL95 = 1.96
IGNORE_ALL = "all"


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of one cell, before and after.

    Attributes:
        model: The model's id; both where they differ.
        test: `pp512` or `tg128`, with the depth after an @, and of a sweep the setting.
        before: Tokens per second.
        after: Tokens per second.
        noise: Share of `before` that a change has to exceed to be one.
    """

    model: str
    test: str
    before: float
    after: float
    noise: float

    @property
    def share(self) -> float:
        """The change as a share of what it was; negative is slower."""
        return self.after / self.before - 1 if self.before else 0.0

    @property
    def is_real(self) -> bool:
        """Whether it exceeds the noise."""
        return abs(self.share) > self.noise


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sets of results.

    Attributes:
        changes: Figure by figure.
        differing: Conditions that differ and were to be ignored, with both values.
        n_unmatched: Cells that only one of the two has.
    """

    changes: tuple[Change, ...]
    differing: dict[str, tuple[str, str]]
    n_unmatched: int

    def require_gate(self, gate: float) -> None:
        """Raise when anything became slower by more than the gate, and more than the noise.

        Raises:
            JudgementError: Which, and by how much.
        """
        worse = [c for c in self.changes if c.is_real and c.share < -gate]
        if worse:
            raise JudgementError(
                "; ".join(f"{c.model} {c.test}: {c.share:+.1%}" for c in worse)
                + f" (allowed: -{gate:.1%})"
            )


def compare(
    before: Sequence[BenchResult], after: Sequence[BenchResult], ignore: Sequence[str] = ()
) -> Comparison:
    """Pair results by model and cell, and compare each pair.

    Models of different names are paired where each side has only one. Of several results of a cell
    the latest counts.

    Args:
        before: Oldest first.
        after: Oldest first.
        ignore: Names of conditions that may differ; `all` for any.

    Raises:
        UntrustworthyError: Conditions differ, or a result is flagged.
        NotFoundError: No cell is in both.
    """
    one_model = all(len({r.model for r in side}) == 1 for side in (before, after))
    # Only of a sweep are the settings part of what a cell is; otherwise they are its conditions.
    is_sweep = any(_is_sweep(side) for side in (before, after))
    left, right = ({_key(r, one_model, is_sweep): r for r in side} for side in (before, after))
    pairs = [(left[key], right[key]) for key in left if key in right]
    if not pairs:
        raise NotFoundError(
            "no cell is in both", "measure both with the same --n-prompt, --n-gen and --depth"
        )
    differing: dict[str, tuple[str, str]] = {}
    for one, other in pairs:
        differing |= differing_fields(one.fingerprint, other.fingerprint)
    flagged = [f"{r.model}: {', '.join(r.flags)}" for pair in pairs for r in pair if r.flags]
    if IGNORE_ALL not in ignore:
        _require_alike(differing, flagged, ignore)
    axes = [name for name in AXES if is_sweep and len({setting_of(r, [name]) for r in before}) > 1]
    changes = tuple(change for one, other in pairs for change in _changes(one, other, axes))
    return Comparison(changes, differing, len(left) + len(right) - 2 * len(pairs))


def _require_alike(
    differing: dict[str, tuple[str, str]], flagged: list[str], ignore: Sequence[str]
) -> None:
    wrong = {name: pair for name, pair in differing.items() if name not in ignore}
    if wrong:
        told = "; ".join(f"{name}: {one} and {other}" for name, (one, other) in wrong.items())
        raise UntrustworthyError(
            f"these results do not compare: {told}",
            f"measure again under the same conditions, or say --ignore {','.join(wrong)}",
        )
    if flagged:
        raise UntrustworthyError(
            f"these results may not be believed: {'; '.join(dict.fromkeys(flagged))}",
            "measure again, or say --ignore all",
        )


def parse_gate(text: str) -> float:
    """Read `5%` or `0.05`.

    Raises:
        UsageError: It is no share.
    """
    number = text.strip().removesuffix("%")
    try:
        value = float(number) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1:
        raise UsageError(f"{text!r} is no share to allow", "--gate 5%")
    return value


def noise_of(one: Rate, other: Rate) -> float:
    """Return the share of the first mean that a change has to exceed.

    The larger of Welch's 95 % interval over the repetitions and what undisturbed runs differ by.

    Source: Welch 1947, "The generalization of Student's problem".
    """
    parts = [rate.standard_deviation**2 / max(1, len(rate.samples)) for rate in (one, other)]
    spread = math.sqrt(sum(parts))
    if not spread or not one.mean:
        return _RUN_TO_RUN
    below = sum(
        part**2 / (len(rate.samples) - 1)
        for part, rate in zip(parts, (one, other), strict=True)
        if len(rate.samples) > 1
    )
    freedom = int(sum(parts) ** 2 / below)
    t = _T95[freedom - 1] if 1 <= freedom <= len(_T95) else _NORMAL95
    return max(_RUN_TO_RUN, t * spread / one.mean)


def setting_of(result: BenchResult, axes: Sequence[str]) -> str:
    """Return the values of swept options as the command line takes them: `threads=2 type-k=f16`."""
    return " ".join(f"{axis}={getattr(result.fingerprint, AXES[axis])}" for axis in axes)


def _cell(result: BenchResult) -> tuple[object, ...]:
    return result.prompt.n_tokens, result.generation.n_tokens, result.n_depth


def _is_sweep(results: Sequence[BenchResult]) -> bool:
    settings: dict[object, set[object]] = {}
    for result in results:
        settings.setdefault((result.model, _cell(result)), set()).add(
            setting_of(result, tuple(AXES))
        )
    return any(len(found) > 1 for found in settings.values())


def _key(result: BenchResult, one_model: bool, is_sweep: bool) -> tuple[object, ...]:  # noqa: FBT001
    model = None if one_model else result.model
    return model, _cell(result), setting_of(result, tuple(AXES)) if is_sweep else None


def _changes(one: BenchResult, other: BenchResult, axes: Sequence[str]) -> list[Change]:
    model = one.model if one.model == other.model else f"{one.model} → {other.model}"
    depth = f"@{one.n_depth}" if one.n_depth else ""
    rest = f"{depth} {setting_of(one, axes)}".rstrip()
    return [
        Change(model, f"{name}{a.n_tokens}{rest}", a.mean, b.mean, noise_of(a, b))
        for name, a, b in (
            ("pp", one.prompt, other.prompt),
            ("tg", one.generation, other.generation),
        )
        if a.samples and b.samples
    ]
