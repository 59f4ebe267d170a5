from dataclasses import replace
from pathlib import Path

import pytest

from llmedge.bench.best import find_best
from llmedge.bench.compare import setting_of
from llmedge.bench.record import Rate
from llmedge.bench.suite import SUITES, BenchOptions, depths_within, parse_sweep, plan_cells
from llmedge.core.errors import UsageError
from llmedge.gguf.reader import read_header
from llmedge.runtime.context import ContextOptions
from tests.bench.results import CONDITIONS, make_result

OPTIONS = BenchOptions(n_prompt=16, n_gen=4, context=ContextOptions(n_ctx=4096), depths=(0, 64))


def test_every_combination_at_every_depth_is_a_cell(tiny_model: Path):
    sweep = parse_sweep(["threads=1,2,2", "load-mode=mmap,read", "type-k=q8_0"])
    cells = plan_cells(read_header(tiny_model), replace(OPTIONS, sweep=sweep))
    assert [(c.context.n_threads, c.model.load_mode, c.n_depth) for c in cells] == [
        (threads, mode, depth)
        for threads in (1, 2)
        for mode in ("mmap", "read")
        for depth in (0, 64)
    ]
    assert {cell.context.type_k for cell in cells} == {"q8_0"}


@pytest.mark.parametrize(
    "text", ["threads", "threads=", "threads=0", "threads=x", "ctx=1", "=1", "batch=²"]
)
def test_a_sweep_of_anything_else_is_refused(text: str):
    with pytest.raises(UsageError):
        parse_sweep([text])


@pytest.mark.parametrize(
    "change",
    [
        {"n_prompt": 0},
        {"repetitions": 0},
        {"depths": ()},
        {"depths": (4095,)},
        {"sweep": (("load-mode", ("none",)),)},
        {"sweep": (("threads", tuple(map(str, range(1, 300)))),)},
    ],
)
def test_what_cannot_be_measured_is_refused(tiny_model: Path, change: dict[str, object]):
    with pytest.raises(UsageError):
        plan_cells(read_header(tiny_model), replace(OPTIONS, **change))  # type: ignore[arg-type]


def test_depths_beyond_the_trained_context_are_left_out(smollm2: Path):
    wide = replace(OPTIONS, context=ContextOptions(n_ctx=0), depths=(0, 1 << 20))
    asked = plan_cells(read_header(smollm2), wide)
    assert [cell.n_depth for cell in asked] == [0, 1 << 20]
    suited = plan_cells(read_header(smollm2), replace(wide, is_trained_only=True))
    assert [cell.n_depth for cell in suited] == [0]
    assert depths_within((0, 1024, 1 << 20), 512, read_header(smollm2)) == (0, 1024)
    assert SUITES["quick"].n_prompt == 512


def test_the_fastest_trusted_setting_is_the_best_and_its_equals_are_named():
    def at(threads: int, rate: float, *flags: str) -> object:
        return make_result(
            fingerprint=replace(CONDITIONS, n_threads=threads),
            generation=Rate(128, (rate, rate * 1.001)),
            flags=flags,
        )

    results = [at(1, 10.0), at(2, 20.0), at(3, 19.8), at(4, 90.0, "contended")]
    _, best = find_best(results, ["threads"])  # type: ignore[arg-type]
    assert (best.figure, best.setting, best.as_good) == ("tg", "threads=2", ("threads=3",))
    assert setting_of(make_result(), ["threads", "type-k"]) == "threads=2 type-k=f16"
