"""Does `llmedge serve` pass the tests that llama.cpp has for its own server?

The tests (`tools/server/tests`, pytest) lie in llama.cpp's sources and stay there; this runs them
against servers that are up already. They want packages that llmedge does not: install those of the
tests' `requirements.txt` that are missing, wget and filelock, and put them on PYTHONPATH.

    python scripts/run_llama_server_tests.py LLAMA_CPP [--server LLAMA_SERVER] [--files basic …]

Prints JSON: each test's outcome by server, and how many of llama-server's passes llmedge has, too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from bench_serve import free_port, started

from llmedge.recipe.demo import embedded_model

if TYPE_CHECKING:
    from collections.abc import Sequence

FILES = (
    "basic",
    "chat_completion",
    "completion",
    "tokenize",
    "compat_oai_responses",
    "compat_anthropic",
)
# What the tests start their server with: 512 tokens for two slots, and these defaults.
N_SLOTS, N_CTX, N_BATCH, N_PREDICT, SEED = 2, 256, 64, 64, 42
NAME = "tinyllama-2"
# llama-server answers any name by the one model that it has; llmedge only names that it was told.
ALIASES = (
    "test",
    "gpt-3.5-turbo",
    "gpt-3.5-turbo-instruct",
    "gpt-4.1",
    "davinci-002",
    "codellama70b",
)


def llmedge_command(model: Path, port: int, n_threads: int) -> list[object]:
    """Return how to start llmedge."""
    command: list[object] = [sys.executable, "-m", "llmedge", "serve", model, "--port", port]
    command += ["--ctx", N_CTX, "--slots", N_SLOTS, "--batch", N_BATCH, "--ubatch", N_BATCH]
    command += ["--seed", SEED, "--max-tokens", N_PREDICT, "--threads", n_threads]
    return [*command, *(word for alias in ALIASES for word in ("--alias", alias))]


def llama_server_command(server: Path, model: Path, port: int, n_threads: int) -> list[object]:
    """Return how to start llama-server with the same settings."""
    command: list[object] = [server, "-m", model, "--port", port, "--alias", NAME]
    command += ["-c", N_CTX * N_SLOTS, "-np", N_SLOTS, "-b", N_BATCH, "-ub", N_BATCH]
    return [*command, "--seed", SEED, "-n", N_PREDICT, "-t", n_threads, "--slots"]


def run_tests(tests: Path, port: int, files: Sequence[str]) -> dict[str, str]:
    """Run the tests against the server at a port and return their outcomes by name."""
    environ = os.environ | {"DEBUG_EXTERNAL": "1", "PORT": str(port)}
    environ["PYTHONDONTWRITEBYTECODE"] = "1"  # the sources stay as they are
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += [f"--junitxml={report}", *(f"unit/test_{name}.py" for name in files)]
        done = subprocess.run(
            command, cwd=tests, env=environ, capture_output=True, text=True, check=False
        )
        if not report.is_file():
            sys.exit(f"the tests did not run: {(done.stdout + done.stderr)[-2000:]}")
        cases = ElementTree.parse(report).iter("testcase")
        return {f"{case.get('classname')}::{case.get('name')}": _outcome(case) for case in cases}


def _outcome(case: ElementTree.Element) -> str:
    for kind, word in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
        if case.find(kind) is not None:
            return word
    return "passed"


def compared(outcomes: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Return what one server passes and the other does not."""
    passed = {
        server: {test for test, outcome in tests.items() if outcome == "passed"}
        for server, tests in outcomes.items()
    }
    summary: dict[str, Any] = {server: len(tests) for server, tests in passed.items()}
    if "llama-server" in passed:
        both = passed["llmedge"] & passed["llama-server"]
        summary["both"] = len(both)
        summary["llama-server only"] = sorted(passed["llama-server"] - both)
        summary["llmedge only"] = sorted(passed["llmedge"] - both)
    return summary


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sources", type=Path, help="folder of llama.cpp's sources")
    parser.add_argument("--server", type=Path, help="a llama-server to run them against, too")
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--files", nargs="*", default=FILES)
    chosen = parser.parse_args()
    tests = chosen.sources / "tools" / "server" / "tests"
    if not tests.is_dir():
        sys.exit(f"{tests} is not there: give the folder of llama.cpp's sources")
    outcomes: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        # A model's id is its file's name, and the tests ask for one by name.
        model = Path(folder, f"{NAME}.gguf")
        model.symlink_to((chosen.model or embedded_model()).absolute())
        ours, theirs = free_port(), free_port()
        commands = {"llmedge": (llmedge_command(model, ours, chosen.threads), ours)}
        if chosen.server is not None:
            command = llama_server_command(chosen.server, model, theirs, chosen.threads)
            commands["llama-server"] = (command, theirs)
        for name, (command, port) in commands.items():
            # One after the other: they share the machine's cores.
            with contextlib.ExitStack() as stack:
                stack.enter_context(started(name, command, port))
                outcomes[name] = run_tests(tests, port, chosen.files)
    result = {"schema": "llmedge.llama_server_tests/1", "passed": compared(outcomes)}
    print(json.dumps({**result, "outcomes": outcomes}, indent=2))


if __name__ == "__main__":
    main()
