from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmedge.convert import estimate
from llmedge.convert.estimate import estimate_seconds, peak_bytes, range_bytes
from llmedge.convert.output import output_files
from llmedge.convert.rows import constant
from llmedge.core.errors import ResourceError
from llmedge.gguf.mix_rules import Assignment
from llmedge.gguf.quant_types import BY_NAME
from llmedge.gguf.writer import Metadata
from tests.convert.test_mapping import rows

if TYPE_CHECKING:
    from llmedge.convert.stream import OutputTensor


def tensors(*, whole_bytes: int = 0) -> tuple[OutputTensor, ...]:
    matrix = replace(rows(512, 256), whole_bytes=whole_bytes)
    parts = {"a.weight": matrix, "b.weight": constant([1.0] * 64)}
    types = {"a.weight": Assignment(BY_NAME["Q4_0"]), "b.weight": Assignment(BY_NAME["F32"])}
    (file,) = output_files(Path("m.gguf"), Metadata(0, b""), parts, types)
    return file.tensors


def test_more_threads_get_smaller_ranges_within_the_same_budget():
    sizes = [range_bytes(200 << 20, n) for n in (1, 2, 4, 8, 16)]
    assert sizes == sorted(sizes, reverse=True)
    for n_threads, size in zip((1, 2, 4, 8, 16), sizes, strict=True):
        assert peak_bytes(tensors(), size, n_threads) <= 200 << 20


def test_a_budget_that_cannot_be_kept_says_what_is_needed():
    with pytest.raises(ResourceError) as refused:
        range_bytes(90 << 20, 4)
    assert "--memory" in refused.value.hint


def test_what_has_to_be_held_counts():
    size = 1 << 20
    held = peak_bytes(tensors(whole_bytes=12345), size, 1) - peak_bytes(tensors(), size, 1)
    assert held == 12345


def test_ranges_are_no_larger_than_the_largest_tensor():
    assert peak_bytes(tensors(), 1 << 20, 1) == peak_bytes(tensors(), 1 << 24, 1)


def test_the_time_is_that_of_every_weight_shared_by_the_threads(monkeypatch: pytest.MonkeyPatch):
    assert estimate_seconds(tensors(), 1) > 0
    costs = {"Q4_0": 3.0, "F32": 0.5}
    monkeypatch.setattr(
        estimate, "_seconds_a_weight", lambda tensor: costs[tensor.info.quant_type.name]
    )
    assert estimate_seconds(tensors(), 2) == (512 * 256 * 3.0 + 64 * 0.5) / 2
