"""Whether a variant reaches what its recipe asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.core.errors import JudgementError
from llmedge.core.units import format_mib, parse_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from llmedge.recipe.schema import Recipe
    from llmedge.store.manifest import Quality, Speed
    from llmedge.store.run_records import DeviceRecord, RunRecord

_LOSSES = (
    ("max_mean_kld", "mean_kld", "KL divergence", "{:.4f} nats", False),
    ("min_top1", "top1_agreement", "top-1 agreement", "{:.1%}", True),
    ("max_perplexity_ratio", "perplexity_ratio", "perplexity ratio", "{:.3f}", False),
)


def describe_gates(recipe: Recipe) -> tuple[str, ...]:
    """Return what a recipe asks for, as sentences; none where nothing is."""
    gates, found = recipe.gates, list[str]()
    for key, _, title, form, is_least in _LOSSES:
        for text, limit in _by_text(getattr(gates, key), recipe.texts).items():
            found.append(f"{title} in {text} {'≥' if is_least else '≤'} {form.format(limit)}")
    found += [f"{code}: ≥ {words:g} words/s" for code, words in gates.min_words_per_s.items()]
    if gates.min_tg is not None:
        found.append(f"≥ {gates.min_tg:g} tokens/s")
    if gates.max_memory is not None:
        found.append(f"memory ≤ {gates.max_memory}")
    found += [f"runs on {name}" for name in recipe.devices]
    return tuple(found)


def missed_gates(
    recipe: Recipe,
    quality: Sequence[Quality],
    speed: Speed | None,
    devices: Sequence[DeviceRecord],
) -> tuple[str, ...]:
    """Return which gates a variant misses, each as a sentence; what was not measured misses none.

    A gate on speed or memory is held against what was measured on this machine.
    """
    found = [*_missed_losses(recipe, quality)]
    if speed is not None:
        found += _missed_speeds(recipe, speed)
    found += [
        f"{item.device}: {item.verdict}: {item.reason}" for item in devices if not item.passes
    ]
    return tuple(found)


def require_passed(record: RunRecord) -> None:
    """Raise what a missed gate is.

    Raises:
        JudgementError: A variant was judged and failed.
    """
    failed = [item for item in record.variants if item.missed]
    if failed:
        reasons = [f"{item.variant}: {reason}" for item in failed for reason in item.missed]
        raise JudgementError(
            f"{record.recipe} was judged and failed: " + "; ".join(reasons),
            "nothing of it was registered; --keep-failed keeps the files",
        )


def _missed_losses(recipe: Recipe, quality: Sequence[Quality]) -> Iterator[str]:
    for key, field, title, form, is_least in _LOSSES:
        limits = _by_text(getattr(recipe.gates, key), recipe.texts)
        for item in quality:
            limit, value = limits.get(item.text), float(getattr(item, field))
            # Written so that no number, NaN, passes.
            if limit is None or (value >= limit if is_least else value <= limit):
                continue
            word = "below" if is_least else "above"
            shown, allowed = form.format(value), form.format(limit)
            yield f"{title} in {item.text} is {shown}, {word} {allowed}"


def _missed_speeds(recipe: Recipe, speed: Speed) -> Iterator[str]:
    gates = recipe.gates
    for code, least in gates.min_words_per_s.items():
        words = speed.words_per_s.get(code, 0.0)
        if not words >= least:
            yield f"{words:.1f} words/s in {code}, below {least:g}"
    if gates.min_tg is not None and not speed.tg_per_s >= gates.min_tg:
        yield f"{speed.tg_per_s:.1f} tokens/s, below {gates.min_tg:g}"
    if gates.max_memory is not None and speed.resident_bytes > parse_bytes(gates.max_memory):
        yield f"memory of {format_mib(speed.resident_bytes)}, above {gates.max_memory}"


def _by_text(gate: float | Mapping[str, float] | None, texts: Sequence[str]) -> Mapping[str, float]:
    if gate is None:
        return {}
    return dict.fromkeys(texts, gate) if isinstance(gate, float | int) else gate
