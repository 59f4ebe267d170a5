"""How well does the speed model foretell a phone of which one run is known?

Every device of the test file is left out of the fit; of its cells only the calibration cell
(Qwen2.5-1.5B, Q4_0, on the processor) is used, and all others are foretold. llmfit's formula, which
knows neither the phone nor the kernels, stands beside it.

Usage: python scripts/bench_estimator.py [--train CELLS.csv] [--test CELLS.csv] [--json]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fit_speed import fit
from phone_cells import CELLS, Cell, read_cells

from llmedge.device.speed import SpeedParameters, calibrate, predict_pp, predict_tg

if TYPE_CHECKING:
    from collections.abc import Sequence

_DENSE = "attention in every layer, no embeddings per layer, Q4 to Q8"
# Source: llmfit, its fallback for a processor of eight cores: 90 / billions of weights, times the
# type's factor, 1.1 and 0.3.
_LLMFIT_FACTORS = {"2": 1.35, "3": 1.25, "4": 1.15, "5": 1.0, "6": 0.95, "8": 0.8}


@dataclass(frozen=True, slots=True)
class Foretold:
    """A cell beside what was said of it before."""

    cell: Cell
    tg: float
    is_covered: bool
    pp: float
    llmfit: float | None


def leave_one_device_out(
    test: Sequence[Cell], train: Sequence[Cell] | None = None
) -> list[Foretold]:
    """Foretell each device's cells from the other devices and one of its own."""
    found: list[Foretold] = []
    for device in sorted({cell.device for cell in test}):
        others = [cell for cell in (test if train is None else train) if cell.device != device]
        if not others:
            sys.exit(f"{device} is the only device: nothing is left to fit on")
        own = [cell for cell in test if cell.device == device]
        base = next((cell for cell in own if cell.is_calibration), None)
        if base is None:
            sys.exit(f"{device} has no calibration cell: qwen2.5-1.5b, q4_0, cpu")
        parameters = fit(others)
        found += [_foretell(parameters, base, cell) for cell in own if cell is not base]
    return found


def _foretell(parameters: SpeedParameters, base: Cell, cell: Cell) -> Foretold:
    scale = calibrate(parameters, base.work, base.tg_per_s, base.pp_per_s)
    tg, pp = (predict(parameters, scale, cell.work) for predict in (predict_tg, predict_pp))
    assert tg is not None
    assert pp is not None
    return Foretold(cell, tg.value, tg.low <= cell.tg_per_s <= tg.high, pp.value, _llmfit(cell))


def _llmfit(cell: Cell) -> float | None:
    factor = _LLMFIT_FACTORS.get(cell.quant.strip("iq")[:1])
    n_params = cell.n_params
    return None if factor is None or n_params is None else 90 / n_params * 1e9 * factor * 1.1 * 0.3


def summary(found: Sequence[Foretold]) -> dict[str, dict[str, float]]:
    """Return errors and coverage over all cells and over dense ones."""
    return {
        "overall": _errors(found),
        "dense_q4_q8": _errors([item for item in found if item.cell.is_dense_q4_q8]),
    }


def _errors(found: Sequence[Foretold]) -> dict[str, float]:
    errors = [abs(item.tg / item.cell.tg_per_s - 1) for item in found]
    return {
        "n": len(found),
        "median_error": statistics.median(errors),
        "p90_error": _p90(errors),
        "coverage_80": statistics.fmean(item.is_covered for item in found),
        "pp_median_error": statistics.median(_pp_errors(found)),
        "pp_p90_error": _p90(_pp_errors(found)),
    }


def _pp_errors(found: Sequence[Foretold]) -> list[float]:
    return [abs(item.pp / item.cell.pp_per_s - 1) for item in found]


def _p90(errors: Sequence[float]) -> float:
    return sorted(errors)[math.ceil(0.9 * len(errors)) - 1]


def _rival(found: Sequence[Foretold]) -> dict[str, float]:
    errors = [
        abs(item.llmfit / item.cell.tg_per_s - 1) for item in found if item.llmfit is not None
    ]
    return {
        "n": len(errors),
        "median_error": statistics.median(errors),
        "p90_error": _p90(errors),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=Path, help="default: the shipped cells")
    parser.add_argument("--test", type=Path, help="default: those trained on, device by device")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    train = read_cells(chosen.train or CELLS)
    found = leave_one_device_out(read_cells(chosen.test) if chosen.test else train, train)
    parts = summary(found)
    devices = sorted({item.cell.device for item in found})
    result: dict[str, Any] = {
        **parts["overall"],
        "dense_q4_q8": parts["dense_q4_q8"],
        "dense_means": _DENSE,
        "devices": {
            name: _errors([item for item in found if item.cell.device == name]) for name in devices
        },
        "llmfit": _rival(found),
    }
    if chosen.json:
        print(json.dumps(result, indent=2))
        return
    rows = {"all": parts["overall"], "dense Q4-Q8": parts["dense_q4_q8"], **result["devices"]}
    for name, row in {**rows, "llmfit": result["llmfit"]}.items():
        covered = f"  in 80 % interval {row['coverage_80']:.0%}" if "coverage_80" in row else ""
        print(
            f"{name:14} {row['n']:4} cells  median {row['median_error']:.1%}  "
            f"p90 {row['p90_error']:.1%}{covered}"
        )


if __name__ == "__main__":
    main()
