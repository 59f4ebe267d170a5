import hashlib
import os
from pathlib import Path

import pytest

from llmedge.core.errors import IntegrityError
from llmedge.store.hashes import remembered_hash
from tests.fakes import RecordingProgress


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" * 1000)
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_is_hashed_once(path: Path, tmp_path: Path):
    first, second = RecordingProgress(), RecordingProgress()
    assert remembered_hash(path, tmp_path / "state", first) == sha256(path)
    assert first.totals == {"hashing model.gguf": 4000}
    assert first.updates[-1][1] == 4000
    assert remembered_hash(path, tmp_path / "state", second) == sha256(path)
    assert second.totals == {}


def test_a_file_that_changed_is_hashed_again(path: Path, tmp_path: Path):
    remembered_hash(path, tmp_path / "state", RecordingProgress())
    path.write_bytes(b"FUGG" * 1000)
    os.utime(path, ns=(1, 1))
    assert remembered_hash(path, tmp_path / "state", RecordingProgress()) == sha256(path)


@pytest.mark.parametrize("text", ["", "no hash", "é" * 64])
def test_a_damaged_memory_is_not_believed(path: Path, tmp_path: Path, text: str):
    state = tmp_path / "state"
    remembered_hash(path, state, RecordingProgress())
    (mark,) = (state / "hashes").iterdir()
    mark.write_text(text, encoding="utf-8")
    assert remembered_hash(path, state, RecordingProgress()) == sha256(path)


def test_a_home_that_cannot_be_written_is_no_obstacle(path: Path, tmp_path: Path):
    blocked = tmp_path / "file"
    blocked.touch()
    assert remembered_hash(path, blocked, RecordingProgress()) == sha256(path)


class ReplacingProgress(RecordingProgress):
    """Puts another file of the same size in place while one is read."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def task(self, description: str, *, total: float, unit: str):
        other = self._path.with_name("other")
        other.write_bytes(b"FUGG" * 1000)
        other.replace(self._path)
        return super().task(description, total=total, unit=unit)


def test_a_file_that_is_replaced_meanwhile_gets_no_hash(path: Path, tmp_path: Path):
    with pytest.raises(IntegrityError, match=r"model\.gguf changed while it was read"):
        remembered_hash(path, tmp_path / "state", ReplacingProgress(path))
    assert not (tmp_path / "state").exists()
