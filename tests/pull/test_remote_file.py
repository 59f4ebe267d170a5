"""Weights that are read from the Hub and never kept."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from local_hub import Faults, LocalHub

from llmedge.core.errors import NetworkError, UnsupportedError
from llmedge.hub.client import Hub
from llmedge.pull import remote_file
from llmedge.pull.line import Line, Patience
from llmedge.pull.remote_file import RangeFile
from llmedge.store.manifest import hash_file, read_manifest
from tests.convert.tiny_llama import make_llama

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REPO = "acme/Tiny-1M"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hub")
    make_llama(root / REPO)
    return root


@pytest.fixture
def hub(root: Path) -> Iterator[LocalHub]:
    with LocalHub(root, Faults()) as hub:
        yield hub


def opened(client: Hub) -> RangeFile:
    repository = client.describe(REPO)
    file = next(file for file in repository.files if file.path == "model.safetensors")
    return RangeFile(client, repository, file, Line(Patience(3, 0.01, 0.02)))


@pytest.mark.parametrize("fault", ["", "cut", "ignores_range"])
def test_pieces_are_those_of_the_file(hub: LocalHub, root: Path, fault: str):
    hub.faults.cut_bytes = 40_000 if fault == "cut" else 0
    hub.faults.ignores_range = fault == "ignores_range"
    whole = (root / REPO / "model.safetensors").read_bytes()
    with Hub(hub.url) as client:
        file = opened(client)
        assert file.n_bytes == len(whole)
        for start, n_bytes in ((0, 8), (5, 100_000), (len(whole) - 3, 100), (len(whole) + 9, 5)):
            assert file.read(start, n_bytes) == whole[start : start + n_bytes]


def test_a_server_that_cannot_do_it_is_named(hub: LocalHub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote_file, "_MAX_SKIP_BYTES", 1000)
    with Hub(hub.url) as client:
        file = opened(client)
        hub.faults.ignores_range = True
        with pytest.raises(UnsupportedError, match="knows no ranges"):
            file.read(5000, 10)
        hub.faults.ignores_range = False
        hub.faults.statuses = [503] * 9
        with pytest.raises(NetworkError, match="given up after 3 attempts"):
            file.read(5000, 10)


def test_the_same_variant_is_made_without_the_weights_on_the_disk(
    cli, hub: LocalHub, root: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HUB_CACHE", str(home / "hub"))
    far, near = tmp_path / "far.gguf", tmp_path / "near.gguf"
    result = cli("convert", REPO, "--remote", "-t", "Q8_0", "-o", far)
    assert result.code == 0, result.err
    assert "held to its place and length" in result.err
    assert not list((home / "hub").rglob("*.safetensors"))
    n_weights = (root / REPO / "model.safetensors").stat().st_size
    sent = sum(item.sent_bytes for item in hub.requests if "safetensors" in item.path)
    assert sent < 1.5 * n_weights + (1 << 20)  # some tensors are looked at beforehand
    manifest = read_manifest(far)
    assert manifest is not None
    assert manifest.source.repo == REPO
    assert cli("pull", REPO).code == 0
    assert cli("convert", REPO, "-t", "Q8_0", "-o", near).code == 0
    assert hash_file(far) == hash_file(near)


def test_what_is_not_there_is_refused(
    cli, hub: LocalHub, root: Path, home: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HUB_CACHE", str(home / "hub"))
    (root / "acme" / "Broken").mkdir(exist_ok=True)
    for name in ("config.json", "tokenizer.json"):
        source = root / REPO / name
        (root / "acme" / "Broken" / name).write_bytes(source.read_bytes())
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    text = json.dumps(index)
    (root / "acme" / "Broken" / "model.safetensors.index.json").write_text(text)
    assert cli("convert", "acme/Broken", "--remote", "-t", "Q8_0").code == 3
    assert cli("convert", "tiny", "--remote").code == 2
    assert cli("convert", REPO, "--remote", "--verify").code == 2
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert cli("convert", REPO, "--remote").code == 9
