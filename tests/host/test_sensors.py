from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from llmedge.host.sensors import energy_between, read_energy_j, read_power, read_temperature


def test_the_hottest_sensor_counts(monkeypatch: pytest.MonkeyPatch):
    readings = {"a": [SimpleNamespace(current=40.0)], "b": [SimpleNamespace(current=71.5)]}
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: readings, raising=False)
    assert read_temperature() == 71.5


def test_no_sensor_is_no_temperature(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(psutil, "sensors_temperatures", dict, raising=False)
    assert read_temperature() is None
    monkeypatch.delattr(psutil, "sensors_temperatures")
    assert read_temperature() is None


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
