from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from llmedge.host.sensors import (
    EnergyMeter,
    energy_between,
    read_energy_j,
    read_heat_margin,
    read_power,
    read_temperature,
)


def test_the_hottest_sensor_counts(monkeypatch: pytest.MonkeyPatch):
    readings = {"a": [SimpleNamespace(current=40.0)], "b": [SimpleNamespace(current=71.5)]}
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: readings, raising=False)
    assert read_temperature() == 71.5


def test_no_sensor_is_no_temperature(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(psutil, "sensors_temperatures", dict, raising=False)
    assert read_temperature() is None
    monkeypatch.delattr(psutil, "sensors_temperatures")
    assert read_temperature() is None


def reading(current: float, high: float | None, critical: float | None = None) -> SimpleNamespace:
    return SimpleNamespace(current=current, high=high, critical=critical)


def test_the_sensor_nearest_to_its_limit_counts_and_odd_limits_do_not(
    monkeypatch: pytest.MonkeyPatch,
):
    chips = {
        "coretemp": [reading(70.0, 100.0), reading(80.0, None, 95.0)],
        "acpitz": [reading(60.0, None), reading(60.0, 0.0), reading(60.0, 65261.8)],
        "nvme": [reading(80.0, 81.0)],
    }
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: chips, raising=False)
    assert read_heat_margin() == 15.0
    del chips["coretemp"]
    assert read_heat_margin() is None
    monkeypatch.delattr(psutil, "sensors_temperatures")
    assert read_heat_margin() is None


def test_a_battery_is_described(monkeypatch: pytest.MonkeyPatch):
    battery = SimpleNamespace(percent=81.0, power_plugged=False)
    monkeypatch.setattr(psutil, "sensors_battery", lambda: battery, raising=False)
    assert (read_power().battery_percent, read_power().is_plugged) == (81.0, False)
    monkeypatch.setattr(psutil, "sensors_battery", lambda: None, raising=False)
    assert (read_power().battery_percent, read_power().is_plugged) == (None, None)


def test_energy_is_the_sum_of_the_packages_in_joules(tmp_path: Path):
    assert read_energy_j(tmp_path) is None
    for name, text in (
        ("intel-rapl:0", "1500000"),
        ("intel-rapl:1", "500000"),
        ("intel-rapl:0:0", "9"),
    ):
        (tmp_path / "sys/class/powercap" / name).mkdir(parents=True)
        (tmp_path / "sys/class/powercap" / name / "energy_uj").write_text(text, encoding="ascii")
    assert read_energy_j(tmp_path) == 2.0


def test_an_energy_counter_that_may_not_be_read_is_no_energy(tmp_path: Path):
    (tmp_path / "sys/class/powercap/intel-rapl:0").mkdir(parents=True)
    assert read_energy_j(tmp_path) is None


def test_a_counter_that_wrapped_or_was_not_read_is_no_energy():
    assert energy_between(10.0, 12.5) == 2.5
    assert energy_between(12.5, 10.0) is None
    assert energy_between(None, 1.0) is None
    assert energy_between(1.0, None) is None


def put(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n", encoding="ascii")
    return folder


def test_a_meter_counts_each_package_through_a_wrap_and_the_platform_not_twice(tmp_path: Path):
    power = tmp_path / "sys/class/powercap"
    first = put(power / "intel-rapl:0", energy_uj=9_000_000, max_energy_range_uj=10_000_000)
    second = put(power / "intel-rapl:1", energy_uj=500_000, max_energy_range_uj=10_000_000)
    put(power / "intel-rapl:2", name="psys", energy_uj=1)
    meter = EnergyMeter(tmp_path)
    assert meter.is_there
    assert read_energy_j(tmp_path) == 9.5
    put(first, energy_uj=500_000)
    put(second, energy_uj=750_000)
    put(power / "intel-rapl:2", energy_uj=99_000_000)
    assert meter.take() == 1.75
    assert meter.take() == 0.0
    (second / "energy_uj").unlink()
    assert meter.take() is None
    put(second, energy_uj=0)
    assert meter.take() is None  # the reading before is missing
    assert meter.take() == 0.0


def test_a_battery_that_discharges_gives_its_power_times_the_seconds(tmp_path: Path):
    now = 0.0
    battery = put(
        tmp_path / "sys/class/power_supply/BAT0",
        type="Battery",
        status="Discharging",
        power_now=12_000_000,
    )
    put(
        tmp_path / "sys/class/power_supply/mouse",
        type="Battery",
        scope="Device",
        status="Discharging",
        power_now=1,
    )
    meter = EnergyMeter(tmp_path, lambda: now)
    now = 0.5
    assert meter.take() == 6.0
    put(battery, power_now=24_000_000)
    now = 1.0
    assert meter.take() == 6.0  # it is asked every few seconds
    now = 6.0
    assert meter.take() == 24.0 * 5
    (battery / "power_now").unlink()
    put(battery, current_now=-2_000_000, voltage_now=3_500_000)
    now = 12.0
    assert meter.take() == 7.0 * 6
    put(battery, status="Charging")
    now = 20.0
    assert meter.take() is None


def test_no_counter_and_no_battery_is_no_meter(tmp_path: Path):
    meter = EnergyMeter(tmp_path)
    assert not meter.is_there
    assert meter.take() is None
