"""llama.cpp's own programs, built from the sources that llama-cpp-python's distribution carries."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING

from llmedge.host.cpu import read_cpu_flags
from llmedge.runtime.library import library_info

if TYPE_CHECKING:
    from pathlib import Path

_OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "LLAMA_BUILD_TOOLS": "ON",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_CURL": "OFF",
    "LLAMA_OPENSSL": "OFF",
}
_NO_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"


class CannotBuild(Exception):  # noqa: N818 - what is so
    """A program that is needed is not here, or the sources cannot be fetched."""


def build(folder: Path, targets: tuple[str, ...], *, has_server: bool = False) -> Path:
    """Build programs, once, and return the folder that they are in.

    Raises:
        CannotBuild: There is no cmake, or no way to PyPI.
    """
    version = importlib.metadata.version("llama-cpp-python")
    kind = "server" if has_server else "tools"
    folder = folder / f"llama-{kind}-{version}"
    binaries = folder / "build" / "bin"
    if all((binaries / name).is_file() for name in targets):
        return binaries
    cmake = shutil.which("cmake")
    if cmake is None:
        raise CannotBuild("building llama.cpp's programs needs cmake")
    sources = _download(folder, version)
    switch = "ON" if has_server else "OFF"
    options = _OPTIONS | {"LLAMA_BUILD_SERVER": switch, "LLAMA_BUILD_MTMD": switch}
    # The same kernels on both sides of a comparison: the Makefile's reason holds here too.
    if "amx_tile" in read_cpu_flags() and "AMX_INT8" not in library_info().features:
        options |= {"CMAKE_C_FLAGS": _NO_AMX, "CMAKE_CXX_FLAGS": _NO_AMX}
    jobs = str(len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1)
    flags = [f"-D{name}={value}" for name, value in options.items()]
    for command in (
        [cmake, "-S", str(sources), "-B", str(folder / "build"), *flags],
        [cmake, "--build", str(folder / "build"), "--parallel", jobs, "--target", *targets],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError((done.stdout + done.stderr)[-4000:])
    return binaries


def _download(folder: Path, version: str) -> Path:
    """Fetch the source distribution and return the folder of llama.cpp's sources in it."""
    name = f"llama_cpp_python-{version}"
    sources = folder / name / "vendor" / "llama.cpp"
    if sources.is_dir():
        return sources
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder)]
    command += ["--no-binary", "llama-cpp-python", f"llama-cpp-python=={version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotBuild(f"llama.cpp's sources need PyPI: {done.stderr.strip().splitlines()[-1]}")
    with tarfile.open(folder / f"{name}.tar.gz") as archive:
        members = [m for m in archive if m.name.startswith(f"{name}/vendor/llama.cpp/")]
        archive.extractall(folder, members, filter="data")
    return sources
