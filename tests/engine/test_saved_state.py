import os
import stat
from pathlib import Path

import pytest

from llmedge.core.errors import IntegrityError
from llmedge.engine.saved_state import StateInMemory
from llmedge.engine.state_folder import StateFolder, lasting_salt

KEY = ("alice", (("lora", 0.5),))


def write(folder: StateFolder, first: int, n_bytes: int = 1000) -> None:
    folder.write(KEY, [first, 2, 3], bytes([first]) * n_bytes)


def only_file(tmp_path: Path) -> Path:
    (path,) = tmp_path.glob("*/*.state")
    return path


def test_a_state_is_found_again_by_who_runs_the_same_model_the_same_way(tmp_path: Path):
    write(StateFolder(tmp_path, b"one", 1 << 20), 7)
    (kept,) = StateFolder(tmp_path, b"one", 1 << 20).find()
    assert (kept.key, kept.tokens, kept.state.n_tokens) == (KEY, [7, 2, 3], 3)
    assert kept.state.read() == b"\7" * 1000
    assert StateFolder(tmp_path, b"other", 1 << 20).find() == []


def test_nobody_else_may_read_it(tmp_path: Path):
    top = tmp_path / "cache"
    write(StateFolder(top, b"one", 1 << 20), 7)
    lasting_salt(top)
    paths = [top, *top.rglob("*")]
    assert len(paths) == 4
    for path in paths:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_what_was_used_longest_ago_makes_room(tmp_path: Path):
    folder = StateFolder(tmp_path, b"one", 3000)
    for first in (1, 2):
        write(folder, first)
        os.utime(max(tmp_path.glob("*/*.state"), key=os.path.getmtime), (first, first))
    folder.find()[0].state.read()
    write(folder, 3)
    assert [kept.tokens[0] for kept in folder.find()] == [1, 3]
    write(StateFolder(tmp_path, b"other", 1500), 4)
    assert folder.find() == []


def test_one_that_is_larger_than_all_may_be_is_not_written(tmp_path: Path):
    folder = StateFolder(tmp_path, b"one", 500)
    write(folder, 1)
    assert folder.find() == []


@pytest.mark.parametrize("at", [5, 18, 30, 500, -1])
def test_a_damaged_file_is_never_used(tmp_path: Path, at: int):
    folder = StateFolder(tmp_path, b"one", 1 << 20)
    write(folder, 1)
    path = only_file(tmp_path)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    for kept in folder.find():
        with pytest.raises(IntegrityError):
            kept.state.read()
    assert not path.exists()


@pytest.mark.parametrize("n_bytes", [0, 10, 25, 60, 1000])
def test_a_file_that_was_cut_is_never_used(tmp_path: Path, n_bytes: int):
    folder = StateFolder(tmp_path, b"one", 1 << 20)
    write(folder, 1)
    path = only_file(tmp_path)
    path.write_bytes(path.read_bytes()[:n_bytes])
    for kept in folder.find():
        with pytest.raises(IntegrityError):
            kept.state.read()
    assert not path.exists()


def test_the_salt_stays_the_same_for_a_folder(tmp_path: Path):
    salt = lasting_salt(tmp_path / "a")
    assert lasting_salt(tmp_path / "a") == salt
    assert lasting_salt(tmp_path / "b") != salt


def test_a_state_in_memory_counts_its_bytes():
    state = StateInMemory(3, b"abc")
    assert (state.n_tokens, state.n_bytes, state.read()) == (3, 3, b"abc")
