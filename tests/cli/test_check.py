from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as Xml

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Result

ROOT = Path(__file__).resolve().parents[2]


def test_the_worst_of_several_devices_counts(cli: Callable[..., Result], smollm2: Path):
    asked = ("--target", "android-4gb", "--target", "galaxy-s23", "--json")
    done = cli("check", smollm2, *asked)
    assert done.code == 0
    assert done.json["schema"] == "llmedge.check/1"
    assert [each["verdict"] for each in done.json["results"]] == ["fits", "fits"]
    failed = cli("check", smollm2, *asked, "--min-tg", 60)
    assert failed.code == 7
    assert [each["verdict"] for each in failed.json["results"]] == ["slow", "fits"]


def test_words_are_counted_in_the_models_own_vocabulary(cli: Callable[..., Result], smollm2: Path):
    done = cli("check", smollm2, "--target", "galaxy-s23", "--min-words", "hi=1,en=5", "--json")
    (found,) = done.json["results"]
    assert 0 < found["words_per_s"]["hi"] < found["words_per_s"]["en"]
    wrong = cli("check", smollm2, "--min-words", "hi")
    assert wrong.code == 2
    assert "hi=3,ta=2" in wrong.err


def test_this_machine_needs_no_profile(cli: Callable[..., Result], smollm2: Path):
    done = cli("check", smollm2, "--json")
    (found,) = done.json["results"]
    assert (found["target"], found["evidence"]) == ("host", "memory")


def test_other_mixes_are_shown_on_demand(cli: Callable[..., Result], smollm2: Path):
    done = cli("check", smollm2, "--target", "android-4gb", "--all-variants", "--json")
    assert len(done.json["results"]) == 6


def test_strict_refuses_what_is_tight(cli: Callable[..., Result], smollm2: Path, tmp_path: Path):
    file = tmp_path / "small.toml"
    text = '[small]\nos = "android"\nram = ["1GiB", "x"]\nvisible_ram = ["450MiB", "x"]\n'
    file.write_text(text + 'soc = ["Snapdragon 680", "x"]\n')
    assert "tight" in cli("check", smollm2, "--target", file).err
    assert cli("check", smollm2, "--target", file, "--strict").code == 7


def test_it_needs_no_llama_cpp(smollm2: Path):
    code = (
        "import importlib.util as u, sys; found = u.find_spec; sys.modules['llama_cpp'] = None\n"
        "import llmedge.cli.check as c; c.find_spec = lambda name: None\n"
        "from llmedge.cli.app import main; main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, "check", str(smollm2), "--target", "android-4gb"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    refused = subprocess.run([*command, "--min-words", "hi=1"], capture_output=True, text=True)
    assert refused.returncode == 4


def test_the_workflow_of_the_docs_fails_a_model_that_no_longer_fits(smollm2: Path, tmp_path: Path):
    page = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    (step,) = re.findall(r"run: (llmedge check .*)", page)
    program = tmp_path / "bin" / "llmedge"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m llmedge "$@"\n')
    program.chmod(0o755)
    environ = {
        **os.environ,
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "MODEL": str(smollm2),
        "PYTHONPATH": str(ROOT),
    }

    def run(line: str) -> int:
        return subprocess.run(["sh", "-e", "-c", line], cwd=tmp_path, env=environ).returncode

    assert run(step) == 0
    assert Xml.parse(tmp_path / "check.xml").getroot().get("failures") == "0"
    assert run(step.replace("--ctx 2048", "--ctx 200000")) == 7
    (failure,) = Xml.parse(tmp_path / "check.xml").getroot().iter("failure")
    assert "killed" in failure.get("message", "")
