"""schemathesis asks what the description allows and what it does not, over a real socket."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmedge.core.settings import load_settings
from llmedge.runtime.context import ContextOptions
from llmedge.serve.operations import OPERATIONS
from llmedge.serve.server import ServeOptions, background_server, open_engine

# Values have ranges, and words name things: not all that has the right type can be meant.
# Of methods that are not there test_openapi asks, with the content type that is asked for first.
LEFT_OUT = "positive_data_acceptance,unsupported_method"


@pytest.fixture(scope="module")
def url(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory):
    settings = load_settings({"LLMEDGE_HOME": str(tmp_path_factory.mktemp("home"))})
    # A small context: what has no limit is over soon.
    options = ServeOptions(port=0, context=ContextOptions(n_ctx=128, n_seq_max=2))
    engine = open_engine(tiny_model, options, settings)
    with background_server(engine, options) as url:
        yield url
    engine.close()


def examine(url: str, folder: Path, *options: object) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"),
            *("--exclude-checks", LEFT_OUT, "--continue-on-failure", "--no-color"),
            *("--request-timeout", "60", *map(str, options)),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONWARNINGS": "ignore", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    assert "Tested:" in done.stdout


def test_no_request_breaks_the_endpoint_or_its_description(url: str, tmp_path: Path):
    # An alias has its path's handler.
    paths = {operation.paths[0] for operation in OPERATIONS}
    options = [word for path in sorted(paths) for word in ("--include-path", path)]
    examine(url, tmp_path, "--phases", "examples,fuzzing", "-n", 2, "--seed", 1, *options)


@pytest.mark.slow
def test_no_request_of_thousands_breaks_the_endpoint_or_its_description(url: str, tmp_path: Path):
    examine(url, tmp_path, "--max-examples", 20, "--workers", 2)
