import os
from dataclasses import fields, replace
from pathlib import Path

import pytest

from llmedge.bench.fingerprint import take_fingerprint
from llmedge.bench.record import BenchResult, ModelFacts, Rate
from llmedge.bench.run import bench
from llmedge.bench.suite import BenchOptions
from llmedge.core.settings import Settings
from llmedge.evaluate.fingerprint import EvaluationFingerprint
from llmedge.gguf.reader import Header, read_header
from llmedge.measure.kl_divergence import Divergence
from llmedge.recipe.past import PastEvaluation, find_bench, find_evaluation
from llmedge.runtime.context import ContextOptions
from llmedge.runtime.model import ModelOptions
from llmedge.store.manifest import utc_now
from llmedge.store.records import read_records_as
from tests.bench.results import make_result
from tests.fakes import RecordingProgress

OPTIONS = BenchOptions(
    contended="flag",
    n_prompt=16,
    n_gen=4,
    repetitions=2,
    context=ContextOptions(n_ctx=16, n_threads=1),
)
WANTED = EvaluationFingerprint("v", "r", "t", 512, None, "f16", "f16", "auto", "llama.cpp 1")
DIVERGENCE = Divergence(9, *(number / 100 for number in range(1, len(fields(Divergence)))))
PAST = PastEvaluation("en", DIVERGENCE, WANTED, "2026-01-01T00:00:00Z", "llmedge.evaluate/1")


@pytest.fixture
def header(tiny_copy: Path) -> Header:
    return read_header(tiny_copy)


@pytest.fixture
def record(header: Header) -> BenchResult:
    context = replace(OPTIONS.context, n_ctx=256)
    return make_result(
        model="copy",
        facts=ModelFacts(
            "copy.gguf", header.file_bytes, 1, 1, round(header.bits_per_weight, 4), "tiny"
        ),
        prompt=Rate(16, (100.0, 102.0)),
        generation=Rate(4, (10.0, 11.0)),
        fingerprint=take_fingerprint(ModelOptions(), context, 1),
        created=utc_now(),
    )


def test_a_speed_that_was_really_measured_is_found_again(
    tiny_copy: Path, header: Header, settings: Settings
):
    bench([tiny_copy], OPTIONS, settings, RecordingProgress())
    records = read_records_as(settings, "bench", BenchResult)
    # Whatever else ran meanwhile is no matter here.
    quiet = [replace(row, flags=()) for row in records]
    assert find_bench(quiet, header, "copy", OPTIONS) == quiet[0]


def test_the_latest_speed_is_taken(header: Header, record: BenchResult):
    later = replace(record, generation=Rate(4, (20.0, 21.0)))
    assert find_bench([record, later], header, "copy", OPTIONS) == later


@pytest.mark.parametrize(
    "change",
    [
        {"model": "another"},
        {"facts": ModelFacts("copy.gguf", 5, 1, 1, 32.0, "tiny")},
        {"prompt": Rate(32, (1.0, 1.0))},
        {"prompt": Rate(16, (1.0,))},
        {"generation": Rate(8, (1.0, 1.0))},
        {"flags": ("contended",)},
        {"n_depth": 64},
        {"created": "2001-01-01T00:00:00Z"},
        {"created": "some day"},
        {"schema": "llmedge.bench/1"},
    ],
)
def test_a_speed_of_anything_else_is_not_taken(
    header: Header, record: BenchResult, change: dict[str, object]
):
    assert find_bench([record], header, "copy", OPTIONS) == record
    other = replace(record, **change)  # type: ignore[arg-type]
    assert find_bench([other], header, "copy", OPTIONS) is None


@pytest.mark.parametrize(
    "change",
    [{"n_threads": 2}, {"type_k": "q8_0"}, {"n_ubatch": 64}, {"n_ctx": 512}],
)
def test_a_speed_under_other_conditions_is_not_taken(
    header: Header, record: BenchResult, change: dict[str, object]
):
    options = replace(OPTIONS, context=replace(OPTIONS.context, **change))  # type: ignore[arg-type]
    assert find_bench([record], header, "copy", options) is None


def test_a_file_that_changed_since_is_measured_again(
    tiny_copy: Path, header: Header, record: BenchResult
):
    later_s = tiny_copy.stat().st_mtime + 3600
    os.utime(tiny_copy, (later_s, later_s))
    assert find_bench([record], header, "copy", OPTIONS) is None


def test_the_latest_comparison_of_the_same_files_is_taken():
    later = replace(PAST, divergence=replace(DIVERGENCE, mean_kld=0.06))
    assert find_evaluation([PAST, later], WANTED) == later.divergence
    assert find_evaluation([], WANTED) is None


@pytest.mark.parametrize("field", ["variant_sha256", "reference_sha256", "text_sha256"])
def test_a_comparison_of_another_file_is_not_taken(field: str):
    assert find_evaluation([PAST], replace(WANTED, **{field: "x"})) is None


def test_a_comparison_of_another_version_is_not_taken():
    assert find_evaluation([replace(PAST, schema="llmedge.evaluate/2")], WANTED) is None
