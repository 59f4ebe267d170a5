from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Result


def test_an_added_device_is_listed_shown_and_judged_for(cli: Callable[..., Result], smollm2: Path):
    named = ("--soc", "Snapdragon 695", "--ram", "6GiB", "--source", "its box")
    assert cli("devices", "add", "my-phone", *named).code == 0
    assert "my-phone" in cli("devices", "list").out
    assert "its box" in cli("devices", "show", "my-phone", "--format", "csv").out
    assert cli("check", smollm2, "--target", "my-phone").code == 0


def test_a_device_that_cannot_be_meant_is_not_kept(cli: Callable[..., Result], home: Path):
    done = cli("devices", "add", "odd", "--soc", "Z80", "--ram", "6GiB")
    assert done.code == 2
    assert "Z80" in done.err
    assert not (home / "devices").exists()
    assert cli("devices", "add", "../x", "--soc", "Snapdragon 695", "--ram", "6GiB").code == 2


def test_devices_are_taken_over_from_a_file(cli: Callable[..., Result], tmp_path: Path):
    file = tmp_path / "lab.toml"
    file.write_text('[lab]\nos = "linux"\nram = ["8GiB", "x"]\nsoc = ["BCM2712", "x"]\n')
    assert cli("devices", "import", file).code == 0
    assert "lab" in cli("devices", "list").out


def test_an_unsourced_fact_says_so(cli: Callable[..., Result]):
    assert "nobody shows it" in cli("devices", "show", "android-4gb", "--format", "md").out
