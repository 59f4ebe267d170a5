"""How fast a device would run a model, from what one run of another model told of it.

A token takes as long as the bytes that are read for it: each type's at a rate of its own, since the
kernels of some types compute more than they read. All rates are relative to Q4_0's, whose bytes a
second are the device's scale. What each layer costs beside its weights is counted in bytes of Q4_0,
too. The parameters are fitted by scripts/fit_speed.py and shipped as `speed.toml`.
"""

from __future__ import annotations

import functools
import math
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

Isa: TypeAlias = Literal["i8mm", "dotprod", "baseline", "avx2"]
# The types of a file that no cell was measured with run like one that was: types with interleaved
# kernels like Q4_0, the others like the slowest types, whole numbers and floats like Q8_0.
# Source: `ggml_repack_get_optimal_repack_type` in ggml/src/ggml-cpu/repack.cpp of llama.cpp.
_LIKE = {
    **dict.fromkeys(("IQ4_NL", "MXFP4", "NVFP4", "Q1_0", "Q2_0"), "Q4_0"),
    **dict.fromkeys(("Q4_1", "Q5_0", "Q5_1", "IQ4_XS", "IQ3_S", "IQ3_XXS"), "Q3_K"),
    **dict.fromkeys(("F32", "F16", "BF16"), "Q8_0"),
}
_SLOWEST = "Q2_K"


@dataclass(frozen=True, slots=True)
class Work:
    """What one token asks of a device.

    Attributes:
        streamed_bytes: Weights read to generate a token, by quant type.
        prompt_weights: Weights multiplied for each token of a prompt, by quant type.
        kv_bytes: Keys and values read to generate a token.
        n_layers: Layers, each with a cost of its own.
        n_recurrent: How many of them carry a recurrent state.
    """

    streamed_bytes: Mapping[str, float]
    prompt_weights: Mapping[str, float]
    kv_bytes: float
    n_layers: int
    n_recurrent: int = 0


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and the range that holds it four times in five."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Interval:
        """Return the same of something larger or smaller."""
        return Interval(self.value * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True, slots=True)
class SpeedParameters:
    """What is the same on all devices with the same kernels.

    Attributes:
        tg: Bytes a second of a type, relative to Q4_0's.
        pp: Weights multiplied a second, relative to Q4_0's.
        kv_weight: Bytes of Q4_0 that a byte of the kv cache counts as.
        layer_bytes: Bytes of Q4_0 that a layer costs beside its weights.
        recurrent_bytes: What a recurrent state adds to that.
        tg_spread: Half the width of the interval of a calibrated device, as a natural logarithm.
        pp_spread: The same for prompts.
    """

    tg: Mapping[str, float]
    pp: Mapping[str, float]
    kv_weight: float
    layer_bytes: float
    recurrent_bytes: float
    tg_spread: float = 0.0
    pp_spread: float = 0.0

    def tg_bytes(self, work: Work) -> float:
        """Return the bytes of Q4_0 that take as long as one token."""
        weights = sum(n / _of(self.tg, kind) for kind, n in work.streamed_bytes.items())
        layers = self.layer_bytes * work.n_layers + self.recurrent_bytes * work.n_recurrent
        return weights + self.kv_weight * work.kv_bytes + layers

    def pp_weights(self, work: Work) -> float:
        """Return the weights of Q4_0 that take as long as one token of a prompt."""
        return sum(n / _of(self.pp, kind) for kind, n in work.prompt_weights.items())

    def unmeasured(self, work: Work) -> list[str]:
        """Return the types of a model that stand in no fit, those of whole matrices only."""
        total = sum(work.streamed_bytes.values())
        return sorted(
            kind
            for kind, n_bytes in work.streamed_bytes.items()
            if kind not in self.tg and n_bytes > 0.02 * total
        )


@dataclass(frozen=True, slots=True)
class DeviceScale:
    """How fast one device is.

    Attributes:
        tg_bytes_per_s: Bytes of Q4_0 it reads a second while it generates.
        pp_weights_per_s: Weights of Q4_0 it multiplies a second in prompts; `None`: unknown.
        spread: What to add to the intervals, as a natural logarithm, where no run calibrated it.
    """

    tg_bytes_per_s: float
    pp_weights_per_s: float | None
    spread: float = 0.0


def calibrate(
    parameters: SpeedParameters, work: Work, tg_per_s: float, pp_per_s: float | None = None
) -> DeviceScale:
    """Return a device's scale from the rates of one model on it."""
    return DeviceScale(
        tg_per_s * parameters.tg_bytes(work),
        None if pp_per_s is None else pp_per_s * parameters.pp_weights(work),
    )


def predict_tg(parameters: SpeedParameters, device: DeviceScale, work: Work) -> Interval:
    """Return the tokens generated a second."""
    rate = device.tg_bytes_per_s / parameters.tg_bytes(work)
    return _around(rate, parameters.tg_spread, device.spread)


def predict_pp(parameters: SpeedParameters, device: DeviceScale, work: Work) -> Interval | None:
    """Return the tokens of a prompt processed a second; `None` where nothing tells."""
    if device.pp_weights_per_s is None:
        return None
    rate = device.pp_weights_per_s / parameters.pp_weights(work)
    return _around(rate, parameters.pp_spread, device.spread)


def scale_from_bandwidth(bandwidth_bytes_per_s: float) -> DeviceScale:
    """Return the scale of a device of which only the memory's peak bandwidth is known."""
    prior = _document()["uncalibrated"]
    return DeviceScale(bandwidth_bytes_per_s * prior["share_of_peak"], None, prior["spread"])


def load_parameters(isa: Isa) -> SpeedParameters:
    """Return the shipped parameters for a processor's kernels.

    Only phones with i8mm are in the fit. Elsewhere each type is taken to run at the same bytes a
    second, as measured on a Raspberry Pi 5, with the spread of an uncalibrated device.
    """
    document = _document()
    fit = document["fit"]
    common = (fit["kv_weight"], fit["layer_bytes"], fit["recurrent_bytes"])
    if isa == "i8mm":
        return SpeedParameters(fit["tg"], fit["pp"], *common, fit["tg_spread"], fit["pp_spread"])
    flat = dict.fromkeys(fit["tg"], 1.0)
    spread = document["uncalibrated"]["spread"]
    return SpeedParameters(flat, flat, *common, spread, spread)


def is_fitted(isa: Isa) -> bool:
    """Say whether cells of such a processor are in the fit."""
    return isa in _document()["fit"]["isas"]


def passive_sustained_factor() -> float:
    """Return what of its speed a device without a fan keeps when it is hot."""
    return _document()["sustained"]["passive"]


def fit_report() -> Mapping[str, Any]:
    """Return how well the shipped parameters foretell a device that they were not fitted on."""
    return _document()["report"]


@functools.cache
def _document() -> dict[str, Any]:
    text = resources.files("llmedge.device").joinpath("speed.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _of(rates: Mapping[str, float], kind: str) -> float:
    return rates.get(kind) or rates.get(_LIKE.get(kind, _SLOWEST), 1.0)


def _around(value: float, *spreads: float) -> Interval:
    factor = math.exp(math.hypot(*spreads))
    return Interval(value, value / factor, value * factor)
