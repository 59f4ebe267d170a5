from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmedge.core.errors import IntegrityError
from llmedge.quantize.trim_speed import N_ROUNDS, measure_speeds
from tests.fakes import RecordingProgress

if TYPE_CHECKING:
    from pathlib import Path


def test_models_generate_in_turns(tiny_model: Path):
    progress = RecordingProgress()
    with progress.task("turns", total=N_ROUNDS, unit="rounds") as task:
        first, second = measure_speeds([(tiny_model, [5, 6]), (tiny_model, [7])], 1, task)
    assert [completed for _, completed, _ in progress.updates] == list(range(1, N_ROUNDS + 1))
    for speed in (first, second):
        assert speed.tg_tokens_per_s > 0
        assert speed.resident_bytes is None or speed.resident_bytes > 1 << 20


def test_a_model_that_does_not_load_is_an_error(tiny_model: Path, tiny_copy: Path):
    tiny_copy.write_bytes(tiny_copy.read_bytes()[:-1])
    progress = RecordingProgress()
    with (
        progress.task("turns", total=N_ROUNDS, unit="rounds") as task,
        pytest.raises(IntegrityError, match="truncated"),
    ):
        measure_speeds([(tiny_model, [5]), (tiny_copy, [5])], 1, task)
