from pathlib import Path

import pytest

from llmedge.core.errors import NotFoundError, UsageError
from llmedge.store.hf_cache import CachedRepository, find_snapshot, list_repositories

COMMIT = "1" * 40


def filled(cache: Path) -> CachedRepository:
    repository = CachedRepository(cache, "acme/x")
    repository.blob("a" * 64).parent.mkdir(parents=True)
    repository.blob("a" * 64).write_bytes(b"bytes")
    repository.link(COMMIT, "sub/a.gguf", "a" * 64)
    return repository


def test_a_snapshot_is_found_by_branch_and_by_commit(tmp_path: Path):
    repository = filled(tmp_path)
    with pytest.raises(NotFoundError) as caught:
        find_snapshot(tmp_path, "acme/x", None)
    assert caught.value.hint == "llmedge pull acme/x"
    assert find_snapshot(tmp_path, "acme/x", COMMIT) == repository.snapshot(COMMIT)
    repository.write_ref("main", COMMIT)
    repository.write_ref("refs/pr/1", COMMIT)
    assert find_snapshot(tmp_path, "acme/x", None) == repository.snapshot(COMMIT)
    assert repository.commit("refs/pr/1") == COMMIT
    assert (repository.snapshot(COMMIT) / "sub" / "a.gguf").read_bytes() == b"bytes"


def test_a_link_is_relative_and_made_anew_where_it_led_elsewhere(tmp_path: Path):
    repository = filled(tmp_path)
    place = repository.snapshot(COMMIT) / "sub" / "a.gguf"
    assert not place.readlink().is_absolute()
    place.unlink()
    place.symlink_to("nowhere")
    repository.link(COMMIT, "sub/a.gguf", "a" * 64)
    assert place.read_bytes() == b"bytes"
    repository.link(COMMIT, "sub/a.gguf", "a" * 64)


def test_a_file_counts_as_there_only_with_its_whole_size(tmp_path: Path):
    repository = filled(tmp_path)
    assert repository.has(COMMIT, "sub/a.gguf", "a" * 64, 5)
    assert not repository.has(COMMIT, "sub/a.gguf", "a" * 64, 6)


def test_a_ref_to_nothing_is_no_snapshot(tmp_path: Path):
    repository = filled(tmp_path)
    repository.write_ref("main", "2" * 40)
    assert repository.commit(None) is None


@pytest.mark.parametrize("revision", ["../../etc", "/etc/passwd", "a/../../b"])
def test_a_revision_does_not_lead_out_of_the_cache(tmp_path: Path, revision: str):
    with pytest.raises(UsageError):
        CachedRepository(tmp_path, "acme/x").commit(revision)


def test_repositories_are_listed_by_name(tmp_path: Path):
    filled(tmp_path)
    (tmp_path / "models--b--y").mkdir()
    (tmp_path / "datasets--c--z").mkdir()
    assert [found.repo for found in list_repositories(tmp_path)] == ["acme/x", "b/y"]
