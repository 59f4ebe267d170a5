"""llama.cpp's own tools for slow tests, of the sources that llama-cpp-python was built from."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import llama_build
import pytest

TOOLS = ("llama-imatrix", "llama-perplexity", "llama-quantize")
_GIVEN = os.environ.get("LLMEDGE_TEST_LLAMA_TOOLS")  # before each test gets its own environment


@pytest.fixture(scope="session")
def llama_tools(pytestconfig: pytest.Config) -> Path:
    """Return the folder of `TOOLS`: $LLMEDGE_TEST_LLAMA_TOOLS, or one they are built into once."""
    if _GIVEN:
        folder = Path(_GIVEN)
        missing = [name for name in TOOLS if not (folder / name).is_file()]
        assert not missing, f"{folder} (LLMEDGE_TEST_LLAMA_TOOLS) has no {', '.join(missing)}"
        return folder
    try:
        return llama_build.build(Path(pytestconfig.cache.mkdir("llama")), TOOLS)
    except llama_build.CannotBuild as reason:
        pytest.skip(str(reason))


def run_tool(tools: Path, name: str, *arguments: object) -> str:
    """Run a tool and return what it printed on both streams; the test fails where the tool does."""
    command = [str(part) for part in (tools / name, *arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    text = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, f"{' '.join(command)}\n{text[-4000:]}"
    return text
