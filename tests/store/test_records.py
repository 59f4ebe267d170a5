from dataclasses import dataclass
from pathlib import Path

import pytest

from llmedge.core.errors import ResourceError
from llmedge.core.settings import Settings
from llmedge.store.records import append_record, read_records, read_records_as


@dataclass
class Record:
    value: float
    path: Path = Path("x")
    schema: str = "llmedge.bench/1"


@dataclass(frozen=True)
class Measured:
    value: float
    schema: str


def test_records_are_appended_and_read_in_order(settings: Settings):
    assert read_records(settings, "bench") == []
    for value in (1.0, 2.0):
        append_record(settings, "bench", Record(value))
    append_record(settings, "evaluate", {"other": 1})
    records = read_records(settings, "bench")
    assert [record["value"] for record in records] == [1.0, 2.0]
    assert records[0] == {"value": 1.0, "path": "x", "schema": "llmedge.bench/1"}


def test_a_line_that_a_power_cut_left_is_left_out(settings: Settings):
    path = append_record(settings, "bench", Record(1.0))
    with path.open("ab") as file:
        file.write(b'{"value": 2')
    assert len(read_records(settings, "bench")) == 1


def test_records_are_read_as_a_dataclass_and_other_shapes_are_passed_over(settings: Settings):
    append_record(settings, "chat", Record(1.5))
    append_record(settings, "chat", {"value": "a word", "schema": "x"})
    append_record(settings, "chat", {"value": 2, "schema": "x", "added_later": True})
    found = read_records_as(settings, "chat", Measured)
    assert found == [Measured(1.5, "llmedge.bench/1"), Measured(2, "x")]
    assert read_records_as(settings, "evaluate", Measured) == []


def test_a_place_that_cannot_be_written_is_a_resource_error(settings: Settings):
    (settings.home / "records" / "bench.jsonl").mkdir(parents=True)
    with pytest.raises(ResourceError, match="could not be written"):
        append_record(settings, "bench", Record(1.0))
