import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from llmedge.bench import place
from llmedge.bench import run as run_module
from llmedge.bench.judge import Readings
from llmedge.core.settings import Settings
from llmedge.host.load import LoadReport
from llmedge.store.records import append_record, read_records
from tests.bench.results import CONDITIONS, make_result

SHORT = ["--n-prompt", 16, "--n-gen", 4, "-r", 2, "--threads", 1, "--contended", "flag"]


def write_results(path: Path, *results: object) -> Path:
    path.write_text(
        "".join(json.dumps(json.loads(encode(result))) + "\n" for result in results), "utf-8"
    )
    return path


def encode(result: object) -> bytes:
    import msgspec

    return msgspec.json.encode(result)


def test_every_format_holds_the_cells(cli, tiny_model: Path):
    arguments = ["bench", "run", tiny_model, *SHORT, "--depth", "0,8", "--lang", "en"]
    rows = list(csv.DictReader(io.StringIO(cli(*arguments, "--format", "csv").out)))
    assert [row["n_depth"] for row in rows] == ["0", "8"]
    assert "INSERT INTO llmedge_bench" in cli(*arguments, "--format", "sql").out
    array = json.loads(cli(*arguments, "--format", "llama-bench").out)
    assert [(row["n_prompt"], row["n_depth"]) for row in array] == [
        (16, 0),
        (0, 0),
        (16, 8),
        (0, 8),
    ]
    table = cli(*arguments).out
    assert "en words/s" in table
    assert "TTFT" in table


def test_a_sweep_names_the_best(cli, tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run_module, "judge_observation", lambda _: ())
    arguments = ["--sweep", "ubatch=8,16", "--sweep", "type-k=f16,q8_0"]
    result = cli("bench", tiny_model, *SHORT, *arguments)
    assert result.code == 0
    assert "best for generation is ubatch=" in result.err
    assert len(result.out.splitlines()) == 5


def test_a_disturbed_machine_is_exit_8_and_nothing_is_kept(
    cli, tiny_model: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    busy = Readings(LoadReport(0.9, 0.0, None), 0.5, power_source="charging")

    def run(self: object, cell: object, task: object) -> place.Observation:
        found = original(self, cell, task)  # type: ignore[arg-type]
        return replace(found, measured=replace(found.measured, readings=busy))

    original = place.Host.run
    monkeypatch.setattr(place.Host, "run", run)
    result = cli("bench", tiny_model, *SHORT[:-2])
    assert result.code == 8
    assert "is not trustworthy: contended, charging" in result.err
    assert "--contended flag" in result.err
    assert read_records(settings, "bench") == []


def test_diff_compares_gates_and_refuses(cli, tmp_path: Path):
    before = write_results(tmp_path / "a.jsonl", make_result())
    slow = replace(make_result().generation, samples=(15.0, 15.1))
    after = write_results(tmp_path / "b.jsonl", make_result(generation=slow))
    result = cli("bench", "diff", before, after)
    assert result.code == 0
    assert "slower" in result.out
    gated = cli("bench", "diff", before, after, "--gate", "5%")
    assert gated.code == 7
    assert "tg128: -24.7%" in gated.err
    other = make_result(fingerprint=replace(CONDITIONS, n_threads=4))
    elsewhere = write_results(tmp_path / "c.jsonl", other)
    refused = cli("bench", "diff", before, elsewhere)
    assert refused.code == 8
    assert "n_threads: 2 and 4" in refused.err
    assert cli("bench", "diff", before, elsewhere, "--ignore", "n_threads", "--json").code == 0


def test_import_keeps_llama_benchs_results(
    cli, tmp_path: Path, settings: Settings, tiny_model: Path
):
    array = cli("bench", tiny_model, *SHORT, "--format", "llama-bench").out
    (tmp_path / "theirs.json").write_text(array, "utf-8")
    result = cli("bench", "import", tmp_path / "theirs.json")
    assert result.code == 0
    assert "unchecked" in result.out
    assert read_records(settings, "bench")[-1]["measured_by"] == "llama-bench"
    assert cli("bench", "import", tmp_path / "none.json").code == 3
    append_record(settings, "bench", make_result())
    (tmp_path / "x.json").write_text("{}", "utf-8")
    assert cli("bench", "import", tmp_path / "x.json").code == 6


def test_a_wrong_depth_or_place_is_refused(cli, tiny_model: Path):
    assert cli("bench", tiny_model, "--depth", "deep").code == 2
    assert cli("bench", tiny_model, "--on", "moon").code == 2
    assert cli("bench", tiny_model, "--on", "adb:1").code == 4
