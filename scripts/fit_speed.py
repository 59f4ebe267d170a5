"""Fit the speed model to measured cells and write the parameters that are shipped.

Least absolute logarithms, held loosely to what is plausible without any cell, by coordinate
descent. A device's own scale is the median of its cells', so that it is not part of what is fitted.
How wide the intervals are is what a device left out of the fit shows.

Usage: python scripts/fit_speed.py [CELLS.csv] [-o speed.toml]
"""

from __future__ import annotations

import argparse
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from phone_cells import CELLS, Cell, read_cells

from llmedge.device.speed import SpeedParameters, calibrate, predict_pp, predict_tg

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

TARGET = Path(__file__).resolve().parent.parent / "llmedge" / "device" / "speed.toml"
_MIB = 1 << 20
_TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
# What is plausible without a cell: rates in proportion to bits, two MiB a layer.
_START = {
    "Q2_K": 0.5,
    "Q3_K": 0.65,
    "Q4_K": 1.0,
    "Q5_K": 0.85,
    "Q6_K": 0.85,
    "Q8_0": 1.3,
    "kv_weight": 1.0,
    "layer_mib": 2.0,
    "recurrent_mib": 2.0,
}
# The weight of plausibility against the mean over cells. It, the two MiB and the widening for one
# device were settled with the errors of both phones in view, after some twenty variants.
_HOLD = 0.01
_SMOOTH = 0.02  # an error below this is as good as none
_COVERAGE = 0.8
# One device shows how models differ, not how devices do: taken to be as much again.
_ONE_DEVICE = math.sqrt(2)
# Source: effective over peak bandwidth of 19 devices from a Raspberry Pi 4 to laptops, geometric
# mean and standard deviation of the logarithm, times 1.28 for four in five.
_SHARE_OF_PEAK, _SPREAD = 0.42, 1.28 * 0.35
# Source: KrisDcosta/edge-llm-bench, pixel_thermal_20260331_034524: 8.96 tokens/s cold, 4.75 after
# 80 s and for 14 minutes.
_PASSIVE = 0.53

Rates = dict[str, float]


def fit(cells: Sequence[Cell]) -> SpeedParameters:
    """Fit all parameters, with intervals from devices or models left out."""
    fitted = _fit_rates(cells)
    devices = sorted({cell.device for cell in cells})
    key: Callable[[Cell], str] = _device if len(devices) > 1 else _model
    widen = 1.0 if len(devices) > 1 else _ONE_DEVICE
    tg: list[float] = []
    pp: list[float] = []
    for group in sorted(set(map(key, cells))):
        parameters = _fit_rates([cell for cell in cells if key(cell) != group])
        for cell, base in _calibrated(cells):
            if key(cell) == group and not cell.is_calibration:
                scale = calibrate(parameters, base.work, base.tg_per_s, base.pp_per_s)
                tg.append(math.log(predict_tg(parameters, scale, cell.work).value / cell.tg_per_s))
                prompt = predict_pp(parameters, scale, cell.work)
                assert prompt is not None
                pp.append(math.log(prompt.value / cell.pp_per_s))
    return replace(fitted, tg_spread=widen * _covering(tg), pp_spread=widen * _covering(pp))


def _device(cell: Cell) -> str:
    return cell.device


def _model(cell: Cell) -> str:
    return cell.model


def _calibrated(cells: Sequence[Cell]) -> list[tuple[Cell, Cell]]:
    """Return each cell with the calibration cell of its device, where it has one."""
    bases = {cell.device: cell for cell in cells if cell.is_calibration}
    return [(cell, bases[cell.device]) for cell in cells if cell.device in bases]


def _covering(logarithms: Sequence[float]) -> float:
    """Return the half width that holds four of five, and one more for the cell to come."""
    errors = sorted(map(abs, logarithms))
    return errors[min(len(errors), math.ceil(_COVERAGE * (len(errors) + 1))) - 1]


def _fit_rates(cells: Sequence[Cell]) -> SpeedParameters:
    tg = _descend(dict(_START), lambda rates: _loss(rates, cells, _tg_scale))
    start = {name: _START[name] ** 2 if name < "Q4_K" else 0.7 for name in _TYPES}
    pp = _descend(start, lambda rates: _loss(rates, cells, _pp_scale, start))
    return replace(_parameters(tg), pp=_typed(pp))


def _loss(
    rates: Rates,
    cells: Sequence[Cell],
    scale_of: Callable[[Rates, Cell], float],
    start: Mapping[str, float] = _START,
) -> float:
    total = 0.0
    for device in {cell.device for cell in cells}:
        scales = [scale_of(rates, cell) for cell in cells if cell.device == device]
        middle = statistics.median(scales)
        total += statistics.fmean(math.hypot(scale - middle, _SMOOTH) for scale in scales)
    return total + _HOLD * sum(math.log(rates[name] / start[name]) ** 2 for name in rates)


def _tg_scale(rates: Rates, cell: Cell) -> float:
    return math.log(cell.tg_per_s * _parameters(rates).tg_bytes(cell.work))


def _pp_scale(rates: Rates, cell: Cell) -> float:
    only_pp = SpeedParameters({}, _typed(rates), 0, 0, 0)
    return math.log(cell.pp_per_s * only_pp.pp_weights(cell.work))


def _descend(rates: Rates, loss: Callable[[Rates], float]) -> Rates:
    steps = dict.fromkeys(rates, 0.3)
    best = loss(rates)
    while max(steps.values()) > 1e-3:
        for name in rates:
            for sign in (1, -1):
                tried = rates | {name: rates[name] * math.exp(sign * steps[name])}
                if (value := loss(tried)) < best - 1e-7:
                    rates, best = tried, value
                    break
            else:
                steps[name] *= 0.6
    return rates


def _typed(rates: Rates) -> Rates:
    return {"Q4_0": 1.0, **{name: rates[name] for name in _TYPES}}


def _parameters(rates: Rates) -> SpeedParameters:
    return SpeedParameters(
        _typed(rates),
        {},
        rates["kv_weight"],
        rates["layer_mib"] * _MIB,
        rates["recurrent_mib"] * _MIB,
    )


def _document(cells: Sequence[Cell], parameters: SpeedParameters) -> str:
    from bench_estimator import leave_one_device_out, summary

    report = summary(leave_one_device_out(cells))
    devices = sorted({cell.device for cell in cells})
    lines = [
        "# Made by scripts/fit_speed.py; not to be edited.",
        "",
        "[fit]",
        'isas = ["i8mm"]',
        f"kv_weight = {parameters.kv_weight:.3f}",
        f"layer_bytes = {parameters.layer_bytes:.0f}",
        f"recurrent_bytes = {parameters.recurrent_bytes:.0f}",
        f"tg_spread = {parameters.tg_spread:.3f}",
        f"pp_spread = {parameters.pp_spread:.3f}",
        f"tg = {{ {_inline(parameters.tg)} }}",
        f"pp = {{ {_inline(parameters.pp)} }}",
        "",
        "[uncalibrated]",
        f"share_of_peak = {_SHARE_OF_PEAK}",
        f"spread = {_SPREAD:.3f}",
        'source = "effective over peak bandwidth of 19 devices, Raspberry Pi 4 to laptops"',
        "",
        "[sustained]",
        f"passive = {_PASSIVE}",
        'source = "KrisDcosta/edge-llm-bench: a Pixel 6a after 80 s, for 14 minutes"',
        "",
        "[report]",
        'method = "each device left out of the fit, and one cell of it known"',
        f"devices = {devices}".replace("'", '"'),
        f"n_cells = {len(cells)}",
        *(f"{name} = {value:.3f}" for name, value in report["overall"].items() if name != "n"),
        *(
            f"dense_{name} = {value:.3f}"
            for name, value in report["dense_q4_q8"].items()
            if name != "n"
        ),
    ]
    return "\n".join(lines) + "\n"


def _inline(rates: Mapping[str, float]) -> str:
    return ", ".join(f"{name} = {rate:.3f}" for name, rate in rates.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cells", nargs="?", type=Path, default=CELLS)
    parser.add_argument("-o", dest="target", type=Path, default=TARGET)
    chosen = parser.parse_args()
    cells = read_cells(chosen.cells)
    chosen.target.write_text(_document(cells, fit(cells)), encoding="utf-8")
    print(chosen.target)


if __name__ == "__main__":
    main()
