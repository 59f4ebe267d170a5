"""The short text that every trial of a tensor predicts, drawn from the calibration text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.measure.calibration import CalibrationOptions, select_chunks
from llmedge.measure.model_text import ModelText
from llmedge.quantize.probe import ProbeText
from llmedge.runtime.model import Model, ModelOptions

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_N_TOKENS = 256
_MIN_CHUNKS, _MAX_CHUNKS = 4, 8
_SKIPPED_SHARE = 3 / 8  # of a chunk: what the model reads before it is asked


def draw_probe_text(
    source: Path, calibration: CalibrationOptions
) -> tuple[ProbeText, tuple[float, ...]]:
    """Return the text, and how much each of its chunks counts.

    Args:
        source: The model's file.
        calibration: What kinds of text, with which weights, and the seed.

    Raises:
        UsageError: A text is unfit.
    """
    heaviest = sorted(calibration.weights, key=lambda kind: -calibration.weights[kind])
    weights = {kind: calibration.weights[kind] for kind in heaviest[:_MAX_CHUNKS]}
    left_out = calibration.weights.keys() - weights.keys()
    files = tuple(path for path in calibration.files if path.name not in left_out)
    n_chunks = max(_MIN_CHUNKS, len(weights))
    n_ctx = _N_TOKENS // n_chunks
    with Model.load(source, ModelOptions(vocab_only=True)) as model:
        options = CalibrationOptions(weights, files, n_chunks * n_ctx, n_ctx, calibration.seed)
        chunks = select_chunks(ModelText(model), options)
    text = ProbeText(tuple(chunk.tokens for chunk in chunks), int(n_ctx * _SKIPPED_SHARE))
    return text, _shares([chunk.kind for chunk in chunks], weights)


def _shares(kinds: list[str], weights: Mapping[str, float]) -> tuple[float, ...]:
    """Split each kind's weight among its chunks; what a kind without any has goes to the others."""
    raw = [weights.get(kind, 1.0) / kinds.count(kind) for kind in kinds]
    return tuple(value / sum(raw) for value in raw)
