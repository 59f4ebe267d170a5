import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from llmedge.core.errors import NotFoundError, ResourceError, UsageError
from llmedge.store.atomic import (
    make_folder,
    replacing,
    require_new,
    sweep_partials,
    work_folder,
    write_bytes,
)


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_file_appears_whole(tmp_path: Path):
    target = tmp_path / "new" / "file"
    with replacing(target) as partial:
        partial.write_bytes(b"half")
        assert not target.exists()
        partial.write_bytes(b"whole")
    assert target.read_bytes() == b"whole"
    assert [path.name for path in target.parent.iterdir()] == ["file"]


def test_an_error_leaves_what_was_there(tmp_path: Path):
    target = tmp_path / "file"
    target.write_bytes(b"old")

    def write_half() -> None:
        with replacing(target) as partial:
            partial.write_bytes(b"half of the new")
            raise UsageError("no")

    with pytest.raises(UsageError):
        write_half()
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_nothing_written_is_a_resource_error(tmp_path: Path):
    with pytest.raises(ResourceError, match="could not be written"), replacing(tmp_path / "file"):
        pass


def test_a_full_disk_is_a_resource_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="No space left on device"):
        write_bytes(tmp_path / "file", b"x")
    assert list(tmp_path.iterdir()) == []


def test_what_killed_processes_left_is_swept_by_the_next_write(tmp_path: Path):
    orphan = tmp_path / f".file.{dead_pid()}.partial"
    alive = tmp_path / f".other.{os.getpid()}.partial"
    foreign = tmp_path / ".something.partial"
    for path in (orphan, alive, foreign):
        path.touch()
    write_bytes(tmp_path / "file", b"x")
    assert {path.name for path in tmp_path.iterdir()} == {"file", alive.name, foreign.name}
    assert sweep_partials(tmp_path) == []


def test_a_folder_that_is_a_file_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(NotFoundError, match="cannot be made") as caught:
            make_folder(folder)
        assert "-o" in caught.value.hint


def test_a_work_folder_is_beside_the_file_and_goes_with_the_work(tmp_path: Path):
    target = tmp_path / "deep" / "model.gguf"
    with work_folder(target) as folder:
        assert folder.parent == target.parent
        (folder / "half").write_text("x")
    assert [*target.parent.iterdir()] == []


def test_a_work_folder_goes_after_an_error_too(tmp_path: Path):
    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise LookupError

    with pytest.raises(LookupError), work_folder(tmp_path / "model.gguf") as folder:
        fail(folder)
    assert [*tmp_path.iterdir()] == []


def test_what_killed_processes_left_is_swept_and_what_runs_is_not(tmp_path: Path):
    gone, kept, others = (
        tmp_path / name
        for name in (f".model.{dead_pid()}.work", f".model.{os.getppid()}.work", ".other.1.work")
    )
    for folder in (gone, kept, others):
        folder.mkdir()
    with work_folder(tmp_path / "model.gguf"):
        assert not gone.exists()
        assert kept.exists()
        assert others.exists()


def test_a_file_is_replaced_only_where_that_is_wanted_and_nothing_else_ever(tmp_path: Path):
    target, other = tmp_path / "target", tmp_path / "other"
    require_new(target, overwrite=False)
    target.write_bytes(b"")
    with pytest.raises(UsageError, match="exists"):
        require_new(target, overwrite=False)
    require_new(target, overwrite=True)
    with pytest.raises(UsageError, match="no regular file"):
        require_new(tmp_path, overwrite=True)
    with pytest.raises(UsageError, match="by this very run"):
        require_new(other, overwrite=True, others=[tmp_path / "x" / ".." / "other"])
    other.hardlink_to(target)
    with pytest.raises(UsageError, match="by this very run"):
        require_new(other, overwrite=True, others=[target])


def test_a_place_that_cannot_be_written_is_named_with_the_reason(tmp_path: Path):
    name = "n" * 250
    with (
        pytest.raises(ResourceError, match="nnn could not be written: File name too long"),
        replacing(tmp_path / name),
    ):
        pytest.fail("there is no place to write")


def test_two_threads_may_write_the_same_file(tmp_path: Path):
    both = threading.Barrier(2)
    errors: list[Exception] = []

    def write(data: bytes) -> None:
        try:
            with replacing(tmp_path / "file") as partial:
                partial.write_bytes(data)
                both.wait(10)
        except (OSError, ResourceError) as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(data,)) for data in (b"one", b"two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert (tmp_path / "file").read_bytes() in (b"one", b"two")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
