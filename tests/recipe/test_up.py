"""`llmedge up`: from a name to a served model, with a hub on loopback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING

import pytest
from local_hub import Faults, LocalHub

from llmedge.cli.calibration import CalibrationFlags
from llmedge.core.errors import NotFoundError, UsageError
from llmedge.recipe.up import Snapshot, make_ready
from llmedge.store.manifest import read_manifest
from llmedge.store.reference import HubReference, parse_reference
from tests.convert.tiny_llama import make_llama
from tests.fakes import RecordingProgress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from llmedge.core.settings import Settings

REPO = "acme/Tiny-1M"
GGUF = "acme/Tiny-1M-GGUF"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    root = tmp_path_factory.mktemp("hub")
    make_llama(root / REPO)
    (root / GGUF).mkdir()
    shutil.copy(tiny_model, root / GGUF / "Tiny-1M-Q8_0.gguf")
    return root


@pytest.fixture
def hub(root: Path) -> Iterator[LocalHub]:
    with LocalHub(root, Faults()) as hub:
        yield hub


class Disk:
    """Repositories that lie in folders, and what was asked of them."""

    def __init__(self, root: Path) -> None:
        self.root, self.asked = root, []

    def look(self, reference: HubReference) -> Snapshot:
        folder = self.root / reference.repo
        names = tuple(path.name for path in folder.iterdir())
        return Snapshot("1" * 40, folder, names)

    def fetch(self, reference: HubReference) -> Snapshot:
        self.asked.append(str(reference))
        if reference.variant:
            raise NotFoundError(f"{reference} is not among the files", "look")
        return self.look(reference)


def ready(name: str, source: Disk, settings: Settings) -> Path:
    texts, progress = (
        CalibrationFlags(calibration_tokens=512).calibration_options(),
        RecordingProgress(),
    )
    return make_ready(parse_reference(name), source, texts, settings, progress, lambda _: None)


def test_a_variant_is_made_of_weights_where_there_is_no_file_of_it(root, settings: Settings):
    source = Disk(root)
    path = ready(f"{REPO}:q8_0", source, settings)
    assert path.name.endswith("-Q8_0.gguf")
    assert source.asked == [f"{REPO}:Q8_0", REPO]
    manifest = read_manifest(path)
    assert manifest is not None
    assert manifest.variant == "Q8_0"


def test_a_file_or_variant_that_is_here_asks_nobody(root, settings: Settings, tiny_model: Path):
    source = Disk(root)
    assert ready(str(tiny_model), source, settings) == tiny_model
    assert source.asked == []
    with pytest.raises(NotFoundError, match="no model nothing in the store"):
        ready("nothing", source, settings)


def test_a_mix_that_there_is_not_is_refused_before_the_weights_are_fetched(root, settings):
    source = Disk(root)
    with pytest.raises(UsageError, match="Q4_KM"):
        ready(f"{REPO}:Q4_KM", source, settings)
    assert source.asked == [f"{REPO}:Q4_KM"]


def environment(hub: LocalHub, home: Path) -> dict[str, str]:
    places = {"LLMEDGE_HOME": home, "HF_HUB_CACHE": home / "hub"}
    return {**os.environ, "HF_ENDPOINT": hub.url, **{k: str(v) for k, v in places.items()}}


def start(model: str, hub: LocalHub, home: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "llmedge", "up", model, "--port", "0", "--threads", "1"]
    return subprocess.Popen(
        command,
        env=environment(hub, home),
        stderr=subprocess.PIPE,
        text=True,
    )


def serve(model: str, hub: LocalHub, home: Path) -> tuple[str, str]:
    """Return the id of the model that is served at last, and all that was said before."""
    said = ""
    with start(model, hub, home) as process:
        try:
            line = ""
            while not line.startswith("serving "):
                line = process.stderr.readline()
                assert line, said
                said += line
            url = line.rpartition(" on ")[2].split()[0]
            with urllib.request.urlopen(f"{url}/models", timeout=30) as answer:
                (served,) = json.load(answer)["data"]
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
        finally:
            process.kill()
    return served["id"], said


def test_a_repository_of_gguf_files_is_served_from_the_cache(hub: LocalHub, tmp_path: Path):
    model, said = serve(GGUF, hub, tmp_path)
    assert model == "Tiny-1M-Q8_0"
    assert "license: " in said
    n_requests = len(hub.requests)
    assert serve(GGUF, hub, tmp_path)[0] == model
    assert len(hub.requests) == n_requests


def test_killed_again_and_again_it_ends_with_the_variant_of_an_undisturbed_run(
    hub: LocalHub, tmp_path: Path
):
    began = time.monotonic()
    model, said = serve(REPO, hub, tmp_path / "calm")
    took = time.monotonic() - began
    assert model.endswith(":Q4_K_M")
    assert "making Q4_K_M of acme/Tiny-1M@" in said
    for share in (0.2, 0.4, 0.5, 0.6, 0.8):
        with start(REPO, hub, tmp_path / "killed") as process:
            time.sleep(took * share)
            process.kill()
            process.communicate()
    assert serve(REPO, hub, tmp_path / "killed")[0] == model
    hashes = [
        manifest.sha256
        for home in ("calm", "killed")
        for path in (tmp_path / home / "models").glob("*/*.gguf")
        if (manifest := read_manifest(path)) is not None
    ]
    entry = read_manifest(next((tmp_path / "calm/models").glob("*/*.gguf")))
    assert entry.source.repo == REPO
    assert f"{REPO}@{entry.source.revision[:12]}" in said
    assert len(hashes) == 2
    assert len(set(hashes)) == 1
    assert "making" not in serve(f"{REPO}@main", hub, tmp_path / "killed")[1]
