import json
import math
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from bench_estimator import leave_one_device_out, summary
from fit_speed import fit
from hypothesis import given
from hypothesis import strategies as st
from phone_cells import CELLS, read_cells

from llmedge.device import speed
from llmedge.device.speed import (
    SpeedParameters,
    Work,
    calibrate,
    fit_report,
    load_parameters,
    predict_pp,
    predict_tg,
    scale_from_bandwidth,
)

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "bench_estimator.py"
WORK = Work({"Q4_0": 800e6, "Q6_K": 180e6}, {"Q4_0": 1.4e9}, 1e6, 28)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}
    )


def test_a_phone_left_out_is_foretold_within_what_is_promised():
    result = json.loads(run("--json").stdout)
    assert result["n"] == 138
    assert result["median_error"] <= 0.10
    assert result["p90_error"] <= 0.25
    assert result["coverage_80"] >= 0.80
    dense = result["dense_q4_q8"]
    assert dense["median_error"] <= 0.08
    assert dense["p90_error"] <= 0.18
    assert dense["coverage_80"] >= 0.80
    assert result["llmfit"]["median_error"] > 2 * result["median_error"]


def test_other_files_are_taken_and_a_tested_phone_never_enters_the_fit(tmp_path: Path):
    lines = CELLS.read_text(encoding="utf-8").splitlines()
    one = tmp_path / "one.csv"
    one.write_text("\n".join([lines[0], *(x for x in lines if x.startswith("poco"))]) + "\n")
    both = json.loads(run("--train", CELLS, "--test", one, "--json").stdout)
    assert list(both["devices"]) == ["poco-myron"]
    assert (
        both["devices"]["poco-myron"] == json.loads(run("--json").stdout)["devices"]["poco-myron"]
    )
    alone = run("--train", one, "--test", one)
    assert alone.returncode == 1
    assert "poco-myron is the only device" in alone.stderr


def test_the_shipped_parameters_are_what_the_script_makes(tmp_path: Path):
    made = tmp_path / "speed.toml"
    command = [sys.executable, str(ROOT / "scripts" / "fit_speed.py"), "-o", str(made)]
    subprocess.run(command, check=True, capture_output=True, env={"PYTHONPATH": str(ROOT)})
    shipped = tomllib.loads((Path(speed.__file__).parent / "speed.toml").read_text())
    fresh = tomllib.loads(made.read_text())
    assert fresh["report"]["devices"] == shipped["report"]["devices"]
    assert fresh["fit"]["tg"] == pytest.approx(shipped["fit"]["tg"], abs=2e-3)
    assert fit_report()["n_cells"] == len(read_cells(CELLS))


def test_rates_that_are_known_are_found_again():
    cells = read_cells(CELLS)
    truth = load_parameters("i8mm")
    made = [
        type(cell)(
            cell.device,
            cell.model,
            cell.quant,
            cell.work,
            2e10 / truth.tg_bytes(cell.work),
            1e11 / truth.pp_weights(cell.work),
            cell.n_params,
        )
        for cell in cells
    ]
    found = fit(made)
    for kind, rate in truth.tg.items():
        assert found.tg[kind] == pytest.approx(rate, rel=0.05)
    report = summary(leave_one_device_out(made))
    assert report["overall"]["p90_error"] < 0.05


def test_the_calibration_cell_itself_is_foretold_exactly():
    parameters = load_parameters("i8mm")
    scale = calibrate(parameters, WORK, 42.0, 244.0)
    prompt = predict_pp(parameters, scale, WORK)
    assert predict_tg(parameters, scale, WORK).value == pytest.approx(42.0)
    assert prompt is not None
    assert prompt.value == pytest.approx(244.0)


@given(st.floats(1.1, 10))
def test_more_of_everything_is_slower(factor: float):
    parameters = load_parameters("i8mm")
    scale = calibrate(parameters, WORK, 42.0, 244.0)
    larger = Work(
        {kind: n * factor for kind, n in WORK.streamed_bytes.items()},
        {kind: n * factor for kind, n in WORK.prompt_weights.items()},
        WORK.kv_bytes * factor,
        math.ceil(WORK.n_layers * factor),
    )
    assert predict_tg(parameters, scale, larger).value < 42.0


def test_an_uncalibrated_device_has_a_wider_interval_and_no_prompt_speed():
    parameters = load_parameters("i8mm")
    calibrated = predict_tg(parameters, calibrate(parameters, WORK, 40.0), WORK)
    guessed = predict_tg(parameters, scale_from_bandwidth(67e9), WORK)
    assert guessed.high / guessed.low > calibrated.high / calibrated.low
    assert predict_pp(parameters, scale_from_bandwidth(67e9), WORK) is None


def test_a_type_without_a_cell_is_named_and_runs_like_its_nearest():
    parameters = SpeedParameters({"Q4_0": 1.0, "Q3_K": 0.5, "Q2_K": 0.25}, {}, 1.0, 0.0, 0.0)
    assert parameters.tg_bytes(Work({"IQ4_NL": 100.0}, {}, 0, 0)) == 100.0
    assert parameters.tg_bytes(Work({"Q4_1": 100.0}, {}, 0, 0)) == 200.0
    assert parameters.tg_bytes(Work({"IQ2_S": 100.0}, {}, 0, 0)) == 400.0
    assert parameters.unmeasured(Work({"Q4_0": 100.0, "IQ2_S": 50.0}, {}, 0, 0)) == ["IQ2_S"]
