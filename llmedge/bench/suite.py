"""What a benchmark consists of: suites, depths and sweeps, laid out as cells beforehand."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from llmedge.bench.cell import Cell
from llmedge.core.errors import UsageError
from llmedge.runtime.context import ContextOptions
from llmedge.runtime.model import LOAD_MODES, ModelOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmedge.gguf.reader import Header

_MAX_CELLS = 200
# What a sweep may vary: the option's name, and whose field it is.
AXES = {
    "threads": "n_threads",
    "batch": "n_batch",
    "ubatch": "n_ubatch",
    "type-k": "type_k",
    "type-v": "type_v",
    "flash-attn": "flash_attention",
    "load-mode": "load_mode",
}
_NUMBERS = ("threads", "batch", "ubatch")


@dataclass(frozen=True, slots=True)
class Suite:
    """Lengths and repetitions.

    Attributes:
        n_prompt: Tokens of prompt processing.
        n_gen: Tokens of token generation.
        depths: Tokens in the kv cache before; those beyond the trained context are left out.
        repetitions: How often each is measured.
        sustained_s: Seconds of generation without a pause; 0 for none.
    """

    n_prompt: int = 512
    n_gen: int = 128
    depths: tuple[int, ...] = (0,)
    repetitions: int = 5
    sustained_s: float = 0.0


# `quick` has llama-bench's lengths.
SUITES = {
    "quick": Suite(repetitions=3),
    "full": Suite(depths=(0, 1024, 4096)),
    "sustained": Suite(repetitions=3, sustained_s=600.0),
}


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What to measure, how, and what to do with a measurement that may not be believed.

    Attributes:
        n_prompt: Tokens of prompt processing.
        n_gen: Tokens of token generation.
        repetitions: How often each is measured, after one that is thrown away.
        model: How to load.
        context: How to run; its `n_ctx` must hold what is measured.
        depths: Tokens in the kv cache before each repetition.
        sustained_s: Seconds of generation without a pause, after the repetitions; 0 for none.
        contended: `refuse` tries a disturbed cell again and gives up on it in the end; `flag`
            keeps the first try, marked.
        is_cold: Whether loading from the disk is measured, too.
        languages: Languages to tell words per second in.
        is_trained_only: Whether depths beyond what a model was trained for are left out.
        sweep: Values to try of options, by the option's name; every combination is a cell.
    """

    n_prompt: int = 512
    n_gen: int = 128
    repetitions: int = 5
    model: ModelOptions = ModelOptions()
    context: ContextOptions = ContextOptions()
    depths: tuple[int, ...] = (0,)
    sustained_s: float = 0.0
    contended: Literal["refuse", "flag"] = "refuse"
    is_cold: bool = False
    languages: tuple[str, ...] = ()
    is_trained_only: bool = False
    sweep: tuple[tuple[str, tuple[str, ...]], ...] = ()


def parse_sweep(texts: Sequence[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Read `threads=1,2,4`.

    Raises:
        UsageError: Not of that form, or of an option that cannot be swept.
    """
    axes: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, _, rest = text.partition("=")
        values = tuple(dict.fromkeys(value.strip() for value in rest.split(",") if value.strip()))
        if name not in AXES or not values:
            raise UsageError(
                f"{text!r} is no sweep", f"write it like threads=1,2,4; known: {', '.join(AXES)}"
            )
        if name in _NUMBERS and not all(v.isascii() and v.isdigit() and int(v) for v in values):
            raise UsageError(f"{text!r}: {name} wants whole numbers above 0", "--sweep threads=1,2")
        axes[name] = values
    return tuple(axes.items())


def plan_cells(header: Header, options: BenchOptions) -> list[Cell]:
    """Lay out one model's cells: every combination of the sweep at every depth.

    Raises:
        UsageError: Nothing to measure, too much of it, or a context that does not hold it.
    """
    if min(options.n_prompt, options.n_gen, options.repetitions) < 1 or not options.depths:
        raise UsageError("prompt tokens, generated tokens and repetitions must be at least 1")
    longest = max(options.depths) + max(options.n_prompt, options.n_gen)
    if 0 < options.context.n_ctx < longest:
        raise UsageError(
            f"a context of {options.context.n_ctx} tokens does not hold the {longest} that are "
            "measured",
            "leave --ctx away",
        )
    names = [name for name, _ in options.sweep]
    combinations = list(itertools.product(*(values for _, values in options.sweep)))
    if len(combinations) * len(options.depths) > _MAX_CELLS:
        raise UsageError(
            f"a sweep of {len(combinations)} settings is too long", "give fewer values"
        )
    depths = options.depths
    if options.is_trained_only:
        depths = depths_within(depths, max(options.n_prompt, options.n_gen), header)
    cells: list[Cell] = []
    for values in combinations:
        model, context = apply_settings(options, dict(zip(names, values, strict=True)))
        cells += [
            Cell(
                path=header.path,
                n_prompt=options.n_prompt,
                n_gen=options.n_gen,
                n_depth=depth,
                repetitions=options.repetitions,
                model=model,
                context=context,
                sustained_s=options.sustained_s,
            )
            for depth in depths
        ]
    return cells


def apply_settings(
    options: BenchOptions, settings: Mapping[str, str]
) -> tuple[ModelOptions, ContextOptions]:
    """Return how to load and run with one combination of a sweep."""
    model, context = options.model, options.context
    for name, value in settings.items():
        if name == "load-mode":
            if value not in LOAD_MODES:
                raise UsageError(f"unknown load mode {value!r}", f"known: {', '.join(LOAD_MODES)}")
            model = replace(model, load_mode=value)
        else:
            context = replace(context, **{AXES[name]: int(value) if name in _NUMBERS else value})
    return model, context


def depths_within(depths: tuple[int, ...], n_needed: int, header: Header) -> tuple[int, ...]:
    """Leave out the depths that go beyond what a model was trained for."""
    n_train = header.hyperparameter("context_length") or 0
    return tuple(d for d in depths if d == 0 or n_train == 0 or d + n_needed <= n_train)
