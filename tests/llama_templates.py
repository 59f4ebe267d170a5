"""The chat templates in the llama.cpp sources that llama-cpp-python was built from."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import subprocess
import sys
import tarfile
import tempfile
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
        folder = Path(pytestconfig.cache.mkdir("llama-templates")) / version
        if not folder.is_dir():
            _fetch(folder, version)
    templates = {path.stem: path.read_text("utf-8") for path in sorted(folder.glob("*.jinja"))}
    assert templates, f"{folder} has no templates"
    return templates


def _fetch(folder: Path, version: str) -> None:
    """Fetch the source distribution and keep its templates; another process may do the same."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", work]
        requirement = ["--no-binary", "llama-cpp-python", f"llama-cpp-python=={version}"]
        done = subprocess.run([*command, *requirement], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"llama.cpp's templates need PyPI: {done.stderr.strip().splitlines()[-1]}")
        found = Path(work) / "templates"
        found.mkdir()
        with tarfile.open(Path(work) / f"llama_cpp_python-{version}.tar.gz") as members:
            for member in members:
                source = members.extractfile(member) if member.isfile() else None
                if source and _PLACE in member.name and member.name.endswith(".jinja"):
                    (found / Path(member.name).name).write_bytes(source.read())
        with contextlib.suppress(OSError):  # the other process was first
            found.rename(folder)
