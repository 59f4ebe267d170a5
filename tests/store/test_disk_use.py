import os
from dataclasses import replace
from pathlib import Path

from llmedge.core.settings import Settings
from llmedge.store.disk_use import DiskUse, disk_use
from llmedge.store.hf_cache import CachedRepository

COMMIT = "1" * 40


def by_kind(settings: Settings) -> dict[str, DiskUse]:
    return {each.kind: each for each in disk_use(settings)}


def write(path: Path, n_bytes: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * n_bytes)
    return path


def test_an_empty_home_takes_nothing(settings: Settings, tmp_path: Path):
    assert disk_use(replace(settings, hf_cache=tmp_path / "none")) == []


def test_what_may_be_deleted_is_told_from_what_may_not(settings: Settings, tmp_path: Path):
    settings = replace(settings, hf_cache=tmp_path / "hub")
    write(settings.models_dir / "a" / "a-Q4_0.gguf", 5000)
    write(settings.models_dir / "a" / ".a-Q8_0.gguf.unfinished", 700)
    write(settings.home / "records" / "bench.jsonl", 60)
    write(settings.state_dir / "hashes" / "x", 64)
    repository = CachedRepository(settings.hf_cache, "acme/x")
    write(repository.blob("a" * 64), 3000)
    write(repository.blob("b" * 64), 2000)
    write(repository.part("c" * 64), 100)
    repository.link(COMMIT, "a.gguf", "a" * 64)
    found = by_kind(settings)
    sizes = {kind: (each.n_bytes, each.is_reclaimable) for kind, each in found.items()}
    assert sizes == {
        "variants": (5000, False),
        "unfinished": (100, True),
        "unnamed": (2000, True),
        "hub cache": (3000, False),
        "records": (60, False),
        "remembered": (64, True),
    }
    unfinished = [each.n_bytes for each in disk_use(settings) if each.kind == "unfinished"]
    assert unfinished == [700, 100]


def test_a_file_with_two_names_counts_once(settings: Settings, tmp_path: Path):
    settings = replace(settings, hf_cache=tmp_path / "hub")
    path = write(settings.models_dir / "a" / "a-Q4_0.gguf", 5000)
    os.link(path, path.with_name("a-Q4_1.gguf"))
    assert by_kind(settings)["variants"].n_bytes == 5000
    assert by_kind(settings)["variants"].n_files == 1


def test_a_hole_takes_nothing(settings: Settings, tmp_path: Path):
    settings = replace(settings, hf_cache=tmp_path / "hub")
    path = write(settings.models_dir / "a" / "a-Q4_0.gguf", 10)
    os.truncate(path, 64 << 20)
    assert by_kind(settings)["variants"].n_bytes < 1 << 20
