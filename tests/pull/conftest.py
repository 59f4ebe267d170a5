"""A hub on loopback, and a pull from it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from local_hub import Faults, LocalHub

from llmedge.hub.client import Hub
from llmedge.pull.line import Line, Patience
from llmedge.pull.run import Pull, PullReport, Selection
from llmedge.store.reference import HubReference, parse_reference
from tests.fakes import RecordingProgress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REPO = "acme/tiny-1B"
WEIGHTS = "model.safetensors"
N_BYTES = 1_500_000


def write_checkpoint(root: Path, n_bytes: int = N_BYTES) -> bytes:
    """Write a repository with one large file; return what is in that."""
    folder = root / REPO
    folder.mkdir(parents=True)
    data = random.Random(7).randbytes(n_bytes)
    (folder / WEIGHTS).write_bytes(data)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "empty.txt").write_text("")
    (folder / "README.md").write_text("# tiny")
    (folder / "modeling.py").write_text("raise SystemExit")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    return data


@dataclass
class Puller:
    """Pulls with little patience, and keeps what it was told."""

    hub: LocalHub
    cache: Path
    weights: bytes
    told: list[str] = field(default_factory=list)
    free_bytes: int = 1 << 40

    def line(self, **options: object) -> Line:
        patience = Patience(n_idle=4, base_s=0.01, cap_s=0.05)
        return Line(patience, tell=self.told.append, **options)  # type: ignore[arg-type]

    def __call__(
        self,
        model: str = REPO,
        *,
        token: str | None = None,
        line: Line | None = None,
        selection: Selection | None = None,
    ) -> PullReport:
        reference = parse_reference(model)
        assert isinstance(reference, HubReference)
        with Hub(self.hub.url, token, timeout_s=5) as hub:
            pull = Pull(hub, self.cache, reference, line or self.line(), selection or Selection())
            return pull.run(RecordingProgress(), lambda folder: self.free_bytes)

    def parts(self) -> list[Path]:
        return list(self.cache.rglob("*.part"))


@pytest.fixture
def puller(tmp_path: Path) -> Iterator[Puller]:
    weights = write_checkpoint(tmp_path / "hub")
    with LocalHub(tmp_path / "hub", Faults()) as hub:
        yield Puller(hub, tmp_path / "hf", weights)
