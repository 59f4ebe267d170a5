"""Which text to calibrate with, as options: the same in `imatrix` and `quantize`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmedge.core.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from llmedge.measure.calibration import CalibrationOptions

_PRESET = "balanced"


@dataclasses.dataclass(frozen=True, slots=True)
class CalibrationFlags:
    """What to calibrate with."""

    calibration: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE|PRESET",
            help="Your text (UTF-8, or conversations as .jsonl), or balanced (the default), "
            "english, indic, chat; may be repeated.",
            show_default=False,
        ),
    ] = None
    calibration_weights: Annotated[
        str | None,
        typer.Option(
            metavar="KIND=N,…",
            help="Shares of the tokens, such as hi=0.4,en=0.3,chat-hi=0.2,code=0.1.",
            show_default=False,
        ),
    ] = None
    calibration_tokens: Annotated[
        int, typer.Option(min=512, max=1 << 30, help="Tokens to calibrate with, at most.")
    ] = 20_480
    seed: Annotated[
        int, typer.Option(help="Which pieces of longer texts are drawn; any number.")
    ] = 0
    lang: Annotated[
        str | None,
        typer.Option(
            help="Languages of the product, hi,ta,en: texts and conversations in them, and a "
            "little English.",
            show_default=False,
        ),
    ] = None

    def calibration_options(self) -> CalibrationOptions:
        """Return what to calibrate with.

        Raises:
            UsageError: A weight cannot be meant, or shares are said in two ways.
            NotFoundError: What is given is neither a file nor a preset.
        """
        from llmedge.measure.calibration import (
            PRESETS,
            CalibrationOptions,
            language_weights,
            parse_weights,
        )

        if self.lang is not None:
            if self.calibration or self.calibration_weights:
                raise UsageError(
                    "--lang and a calibration text both say what counts",
                    "give shares of languages with --calibration-weights hi=0.6,en=0.4",
                )
            weights = language_weights([code.strip() for code in self.lang.split(",")])
            return CalibrationOptions(
                weights=weights, n_tokens=self.calibration_tokens, seed=self.seed
            )
        given = self.calibration or []
        presets = [name for name in dict.fromkeys(given) if name in PRESETS]
        files = tuple(Path(name) for name in dict.fromkeys(given) if name not in PRESETS)
        for path in files:
            if not path.is_file():
                raise NotFoundError(
                    f"{path} is neither a text nor a preset",
                    f"presets: {', '.join(PRESETS)}; kinds go with --calibration-weights hi=1",
                )
        if len(presets) > 1 or (presets and self.calibration_weights is not None):
            raise UsageError(
                f"the preset {presets[0]} says all shares; it goes with no other and no weights",
                "give one preset, or --calibration-weights",
            )
        if self.calibration_weights is not None:
            weights = parse_weights(self.calibration_weights, [path.name for path in files])
        else:
            # A file alone is all that is taken.
            weights = PRESETS[presets[0] if presets else _PRESET] if presets or not files else {}
        return CalibrationOptions(
            weights=weights, files=files, n_tokens=self.calibration_tokens, seed=self.seed
        )
