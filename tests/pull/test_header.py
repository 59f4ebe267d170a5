"""A model judged before it is pulled."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING

import pytest
from local_hub import Faults, LocalHub

from llmedge.core.errors import IntegrityError, NetworkError, NotFoundError, UnsupportedError
from llmedge.gguf.reader import read_header
from llmedge.hub.client import Hub
from llmedge.pull.header import fetch_header
from llmedge.store.reference import HubReference

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REPO = "acme/Smol-GGUF"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, smollm2: Path, tiny_model: Path) -> Path:
    root = tmp_path_factory.mktemp("hub")
    (root / REPO).mkdir(parents=True)
    shutil.copy(smollm2, root / REPO / "Smol-Q4_1.gguf")
    (root / REPO / "Smol-Q8_0.gguf").write_bytes(random.Random(1).randbytes(100_000))
    for part in (1, 2):
        shutil.copy(tiny_model, root / REPO / f"Smol-F16-0000{part}-of-00002.gguf")
    (root / "acme" / "None").mkdir()
    (root / "acme" / "None" / "config.json").write_text("{}")
    return root


@pytest.fixture
def hub(root: Path) -> Iterator[LocalHub]:
    with LocalHub(root, Faults()) as hub:
        yield hub


def sent_bytes(hub: LocalHub) -> int:
    return sum(request.sent_bytes for request in hub.requests if "resolve" in request.path)


@pytest.mark.parametrize("ignores_range", [False, True])
def test_the_header_comes_without_the_weights(
    hub: LocalHub, smollm2: Path, tmp_path: Path, *, ignores_range: bool
):
    hub.faults.ignores_range = ignores_range
    with Hub(hub.url) as client:
        found = fetch_header(client, HubReference(REPO, None, "Q4_1"), tmp_path)
    there = read_header(smollm2)
    assert found.tensors == there.tensors
    assert (found.metadata, found.file_bytes) == (there.metadata, there.file_bytes)
    assert found.path.stat().st_blocks * 512 < 3 * there.data_offset
    if not ignores_range:
        assert sent_bytes(hub) <= 2 * max(1 << 20, there.data_offset)


def test_what_cannot_be_judged_is_refused(hub: LocalHub, tmp_path: Path):
    with Hub(hub.url) as client:
        for repo, variant, error in (
            (REPO, "Q8_0", IntegrityError),
            (REPO, "F16", UnsupportedError),
            (REPO, "Q2_K", NotFoundError),
            ("acme/None", None, NotFoundError),
            ("acme/Nobody", None, NetworkError),
        ):
            with pytest.raises(error):
                fetch_header(client, HubReference(repo, None, variant), tmp_path)


def test_the_command(cli, hub: LocalHub, home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HUB_CACHE", str(home / "hub"))
    result = cli("check", f"{REPO}:Q4_1", "--target", "android-4gb", "--min-words", "hi=1")
    assert result.code == 0, result.err
    assert "judged by its header" in result.err
    assert not (home / "hub").exists()
    assert cli("check", "acme/Nobody:Q4_0").code == 9  # the Hub says no more than 401
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert cli("check", f"{REPO}:Q4_1").code == 3
