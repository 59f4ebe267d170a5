import ctypes
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmedge.host import files
from llmedge.host.files import LockFile, RangeReader, append, flush, flush_folder
from llmedge.host.native import byte_test
from llmedge.host.process import has_program


def test_appending_keeps_what_was_there(tmp_path: Path):
    path = tmp_path / "lines"
    append(path, b"one\n")
    append(path, b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"


def test_flushing_changes_nothing(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"x")
    flush(path)
    flush_folder(tmp_path)
    assert path.read_bytes() == b"x"


def test_a_byte_is_tested_without_python():
    flag = ctypes.create_string_buffer(2)
    function = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)
    test = ctypes.cast(byte_test(), function)
    assert test(ctypes.addressof(flag)) is False
    flag[0] = b"\x01"
    assert test(ctypes.addressof(flag)) is True


def test_programs_are_found_by_name():
    assert not has_program("no-such-program-anywhere")


def test_a_lock_is_held_by_one_at_a_time(tmp_path: Path):
    with LockFile(tmp_path / "lock") as first:
        assert first.is_ours
        with LockFile(tmp_path / "lock") as second:
            assert not second.is_ours
    with LockFile(tmp_path / "lock") as third:
        assert third.is_ours
        third.close(remove=True)
    assert not (tmp_path / "lock").exists()


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "lock"
    real, calls = files._lock, 0

    def lock_after_a_removal(descriptor: int) -> bool:
        nonlocal calls
        calls += 1
        if calls == 1:
            path.unlink()  # its last holder ends between our two calls
        return real(descriptor)

    monkeypatch.setattr(files, "_lock", lock_after_a_removal)
    with LockFile(path) as lock:
        assert lock.is_ours
        assert calls == 2
        with LockFile(path) as other:
            assert not other.is_ours


def test_ranges_are_read_by_many_threads_at_once(tmp_path: Path):
    data = bytes(range(256)) * 1000
    (tmp_path / "data").write_bytes(data)
    with RangeReader(tmp_path / "data") as reader, ThreadPoolExecutor(8) as pool:
        starts = list(range(0, len(data), 777))
        parts = pool.map(lambda start: bytes(reader.read(start, 777)), starts)
        assert b"".join(parts) == data
        assert bytes(reader.read(len(data) - 3, 10)) == data[-3:]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in folders")
def test_a_pipe_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="regular"):
        RangeReader(tmp_path / "pipe")
