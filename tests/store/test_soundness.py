import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from llmedge.core.errors import NotFoundError
from llmedge.core.settings import Settings
from llmedge.store.catalog import variant_path
from llmedge.store.hf_cache import CachedRepository
from llmedge.store.manifest import Source, sidecar_path, write_manifest
from llmedge.store.reference import parse_reference
from llmedge.store.soundness import Soundness, candidates, examine
from tests.fakes import RecordingProgress
from tests.store.test_manifest import MANIFEST

COMMIT = "1" * 40
BYTES = b"weights"
SHA256 = hashlib.sha256(BYTES).hexdigest()
GIT = hashlib.sha1(b"blob 2\0{}", usedforsecurity=False).hexdigest()


@pytest.fixture
def here(settings: Settings, tmp_path: Path) -> Settings:
    """A store with one variant, and a cache with one repository."""
    settings = replace(settings, hf_cache=tmp_path / "hub")
    path = variant_path(settings, "a", "Q4_0")
    path.parent.mkdir(parents=True)
    path.write_bytes(BYTES)
    write_manifest(
        path,
        replace(
            MANIFEST,
            name="a",
            variant="Q4_0",
            file_bytes=len(BYTES),
            sha256=SHA256,
            source=Source("f", "0" * 64),
        ),
    )
    repository = CachedRepository(settings.hf_cache, "acme/x")
    repository.blob(SHA256).parent.mkdir(parents=True)
    for oid, data, name in ((SHA256, BYTES, "sub/a.gguf"), (GIT, b"{}", "config.json")):
        repository.blob(oid).write_bytes(data)
        repository.link(COMMIT, name, oid)
    repository.write_ref("main", COMMIT)
    return settings


def states(settings: Settings, *models: str) -> dict[str, str]:
    return {each.name: each.state for each in reports(settings, *models)}


def reports(settings: Settings, *models: str) -> list[Soundness]:
    asked = candidates(settings, [parse_reference(model) for model in models])
    return [examine(each, RecordingProgress()) for each in asked]


def test_all_that_is_here_is_sound(here: Settings):
    assert states(here) == {
        "a:Q4_0": "sound",
        "acme/x/sub/a.gguf": "sound",
        "acme/x/config.json": "sound",
    }


@pytest.mark.parametrize("oid", [SHA256, GIT])
def test_a_changed_byte_in_the_cache_is_found(here: Settings, oid: str):
    blob = CachedRepository(here.hf_cache, "acme/x").blob(oid)
    blob.write_bytes(bytes([blob.read_bytes()[0] ^ 1]) + blob.read_bytes()[1:])
    assert sorted(states(here, "acme/x").values()) == ["damaged", "sound"]
    assert states(here, "a") == {"a:Q4_0": "sound"}


def test_a_changed_byte_in_a_variant_is_found_by_name_and_by_path(here: Settings):
    path = variant_path(here, "a", "Q4_0")
    path.write_bytes(b"wEights")
    (found,) = reports(here, "a:Q4_0")
    assert found.state == "damaged"
    assert SHA256[:12] in found.reason
    assert states(here, str(path)) == {"a-Q4_0.gguf": "damaged"}


def test_a_variant_cut_short_is_not_even_read(here: Settings):
    variant_path(here, "a", "Q4_0").write_bytes(b"w")
    (found,) = reports(here, "a")
    assert found.state == "damaged"
    assert "1 bytes" in found.reason


def test_a_link_without_bytes_is_damaged(here: Settings):
    CachedRepository(here.hf_cache, "acme/x").blob(SHA256).unlink()
    assert states(here, "acme/x")["acme/x/sub/a.gguf"] == "damaged"


def test_a_file_without_a_sidecar_has_no_hash(here: Settings, tmp_path: Path):
    sidecar_path(variant_path(here, "a", "Q4_0")).unlink()
    (tmp_path / "own.gguf").write_bytes(b"x")
    assert states(here, "a", str(tmp_path / "own.gguf")) == {
        "a:Q4_0": "no hash",
        "own.gguf": "no hash",
    }


@pytest.mark.parametrize("model", ["b", "acme/y", "./none.gguf"])
def test_what_is_not_here_is_said(here: Settings, model: str):
    with pytest.raises(NotFoundError):
        candidates(here, [parse_reference(model)])
