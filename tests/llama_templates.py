"""The chat templates in the llama.cpp sources that llama-cpp-python was built from."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

_GIVEN = os.environ.get("LLMEDGE_TEST_LLAMA_SOURCES")  # before each test gets its own environment
_PLACE = "vendor/llama.cpp/models/templates/"


@pytest.fixture(scope="session")
def llama_templates(pytestconfig: pytest.Config) -> dict[str, str]:
    """Return the templates by file stem, of $LLMEDGE_TEST_LLAMA_SOURCES or fetched once."""
    if _GIVEN:
        folder = Path(_GIVEN) / "models" / "templates"
    else:
        version = importlib.metadata.version("llama-cpp-python")
        folder = Path(pytestconfig.cache.mkdir(f"llama-templates-{version}"))
        if not any(folder.glob("*.jinja")):
            _unpack(_archive(pytestconfig, version), folder)
    templates = {path.stem: path.read_text("utf-8") for path in sorted(folder.glob("*.jinja"))}
    assert templates, f"{folder} has no templates"
    return templates


def _archive(pytestconfig: pytest.Config, version: str) -> Path:
    """Return the source distribution, where tests of llama.cpp's tools keep it, too."""
    folder = Path(pytestconfig.cache.mkdir(f"llama-tools-{version}"))
    archive = folder / f"llama_cpp_python-{version}.tar.gz"
    if not archive.is_file():
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder)]
        requirement = ["--no-binary", "llama-cpp-python", f"llama-cpp-python=={version}"]
        done = subprocess.run([*command, *requirement], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"llama.cpp's templates need PyPI: {done.stderr.strip().splitlines()[-1]}")
    return archive


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as members:
        for member in members:
            source = members.extractfile(member) if member.isfile() else None
            if source and _PLACE in member.name and member.name.endswith(".jinja"):
                (folder / Path(member.name).name).write_bytes(source.read())
