"""The wheel, installed in an empty folder, does what the source tree does."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    # The build's own tools are installed for the tests: no network is needed.
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    done = subprocess.run([*command, str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel alone; the dependencies come from this environment."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    done = subprocess.run(
        [*command, "--target", str(folder), str(wheel)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def run(installed: Path, tmp_path: Path, home: Path):
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        empty = tmp_path / "empty"
        empty.mkdir(exist_ok=True)
        environ = os.environ | {"PYTHONPATH": str(installed)}
        command = [sys.executable, "-m", "llmedge", *map(str, arguments)]
        return subprocess.run(command, cwd=empty, env=environ, capture_output=True, text=True)

    return run


def test_the_wheel_carries_texts_recipes_types_and_licence(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "llmedge/py.typed",
        "llmedge/measure/sentences/hi.txt",
        "llmedge/measure/heldout/hi.txt",
        "llmedge/measure/udhr/hi.txt",
        "llmedge/measure/udhr/LICENSE",
        "llmedge/measure/udhr/SOURCE.json",
        "llmedge/evaluate/prompts/or.jsonl",
        "llmedge/recipe/shipped/smollm2-135m-instruct.toml",
    ):
        assert name in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "scripts/")) for name in names)


def test_it_runs_from_the_wheel(run, installed: Path, tmp_path: Path):
    code = "import llmedge; print(llmedge.__file__)"
    environ = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.stdout.startswith(str(installed))
    version = run("--version")
    assert version.returncode == 0
    assert version.stdout.startswith("llmedge ")


def test_show_works_from_the_wheel(run, smollm2: Path):
    shown = run("show", smollm2)
    assert shown.returncode == 0, shown.stderr
    assert "bits per weight  5.74" in shown.stdout


def test_recipes_and_quantizing_work_from_the_wheel(run, tiny_model: Path):
    checked = run("recipe", "check", "smollm2-135m-instruct")
    assert checked.returncode == 0, checked.stderr
    quantized = run("quantize", tiny_model, "--no-imatrix", "-t", "Q4_0")
    assert quantized.returncode == 0, quantized.stderr
    assert "tiny:Q4_0" in run("list").stdout
