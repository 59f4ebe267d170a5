"""llama.cpp's own tools for slow tests, of the sources that llama-cpp-python was built from."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

TOOLS = ("llama-imatrix", "llama-perplexity", "llama-quantize")
_GIVEN = os.environ.get("LLMEDGE_TEST_LLAMA_TOOLS")  # before each test gets its own environment
_OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "LLAMA_BUILD_TOOLS": "ON",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_SERVER": "OFF",
    "LLAMA_BUILD_MTMD": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_CURL": "OFF",
    "LLAMA_OPENSSL": "OFF",
}


@pytest.fixture(scope="session")
def llama_tools(pytestconfig: pytest.Config) -> Path:
    """Return the folder of `TOOLS`: $LLMEDGE_TEST_LLAMA_TOOLS, or one they are built into once."""
    if _GIVEN:
        folder = Path(_GIVEN)
        missing = [name for name in TOOLS if not (folder / name).is_file()]
        assert not missing, f"{folder} (LLMEDGE_TEST_LLAMA_TOOLS) has no {', '.join(missing)}"
        return folder
    version = importlib.metadata.version("llama-cpp-python")
    folder = Path(pytestconfig.cache.mkdir(f"llama-tools-{version}"))
    binaries = folder / "build" / "bin"
    if not all((binaries / name).is_file() for name in TOOLS):
        cmake = shutil.which("cmake")
        if cmake is None:
            pytest.skip("building llama.cpp's tools needs cmake")
        _build(_download(folder, version), folder / "build", cmake)
    return binaries


def run_tool(tools: Path, name: str, *arguments: object) -> str:
    """Run a tool and return what it printed on both streams; the test fails where the tool does."""
    command = [str(part) for part in (tools / name, *arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    text = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, f"{' '.join(command)}\n{text[-4000:]}"
    return text


def _download(folder: Path, version: str) -> Path:
    """Fetch the source distribution and return the folder of llama.cpp's sources in it."""
    name = f"llama_cpp_python-{version}"
    sources = folder / name / "vendor" / "llama.cpp"
    requirement = f"llama-cpp-python=={version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps"]
    done = subprocess.run(
        [*command, "--no-binary", "llama-cpp-python", "--dest", str(folder), requirement],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"llama.cpp's sources need PyPI: {done.stderr.strip().splitlines()[-1]}")
    with tarfile.open(folder / f"{name}.tar.gz") as archive:
        members = [m for m in archive if m.name.startswith(f"{name}/vendor/llama.cpp/")]
        archive.extractall(folder, members, filter="data")
    return sources


def _build(sources: Path, folder: Path, cmake: str) -> None:
    options = [f"-D{name}={value}" for name, value in _OPTIONS.items()]
    jobs = str(len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1)
    for command in (
        [cmake, "-S", str(sources), "-B", str(folder), *options],
        [cmake, "--build", str(folder), "--parallel", jobs, "--target", *TOOLS],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
