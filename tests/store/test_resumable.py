from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from llmedge.core.errors import UsageError
from llmedge.store.resumable import ResumableFile, partial_path

if TYPE_CHECKING:
    from pathlib import Path

PIECES = [bytes([n]) * 1000 for n in range(5)]


def write(target: Path, n_pieces: int, identity: str = "x", *, resume: bool = True) -> int:
    """Write pieces up to a number, and return how many were there already."""
    with ResumableFile(target, identity, resume=resume) as file:
        n_found = file.n_pieces
        for piece in PIECES[n_found:n_pieces]:
            file.write(piece)
            file.end_piece()
        if n_pieces < len(PIECES):
            file.write(b"half of the ne")
        elif n_pieces == len(PIECES):
            assert file.finish() == hashlib.sha256(b"".join(PIECES)).hexdigest()
            file.publish()
    return n_found


def test_a_file_goes_on_after_its_last_whole_piece(tmp_path: Path):
    target = tmp_path / "m.gguf"
    assert write(target, 2) == 0
    assert write(target, 3) == 2
    assert write(target, 5) == 3
    assert target.read_bytes() == b"".join(PIECES)
    assert list(tmp_path.iterdir()) == [target]


def test_another_identity_starts_anew(tmp_path: Path):
    write(tmp_path / "m.gguf", 3)
    assert write(tmp_path / "m.gguf", 5, identity="y") == 0


def test_starting_anew_can_be_asked_for(tmp_path: Path):
    write(tmp_path / "m.gguf", 3)
    assert write(tmp_path / "m.gguf", 5, resume=False) == 0


@pytest.mark.parametrize(("damage_at", "n_believed"), [(500, 0), (1500, 1), (2999, 2)])
def test_a_piece_that_never_reached_the_disk_is_written_again(
    tmp_path: Path, damage_at: int, n_believed: int
):
    target = tmp_path / "m.gguf"
    write(target, 3)
    with partial_path(target).open("r+b") as file:
        file.seek(damage_at)
        file.write(b"\xff")
    assert write(target, 5) == n_believed
    assert target.read_bytes() == b"".join(PIECES)


def test_a_file_shorter_than_its_journal_is_believed_as_far_as_it_goes(tmp_path: Path):
    target = tmp_path / "m.gguf"
    write(target, 4)
    with partial_path(target).open("r+b") as file:
        file.truncate(2500)
    assert write(target, 5) == 2


def test_a_torn_or_foreign_journal_is_no_harm(tmp_path: Path):
    target = tmp_path / "m.gguf"
    write(target, 3)
    journal = partial_path(target).with_name(partial_path(target).name + ".journal")
    journal.write_bytes(journal.read_bytes()[:-20])
    assert write(target, 3) == 2
    journal.write_bytes(b"\xff\xfe")
    assert write(target, 3) == 0
    journal.write_text("x\nnot a number at all\n\n")
    assert write(target, 5) == 0


def test_a_finished_file_that_was_not_published_is_kept(tmp_path: Path):
    with ResumableFile(tmp_path / "m.gguf", "x") as file:
        file.write(PIECES[0])
        file.end_piece()
        file.finish()
    assert not (tmp_path / "m.gguf").exists()
    with ResumableFile(tmp_path / "m.gguf", "x") as file:
        assert file.n_pieces == 1
        file.finish()
        file.publish()
    assert (tmp_path / "m.gguf").read_bytes() == PIECES[0]


def test_two_processes_cannot_write_one_file(tmp_path: Path):
    with (
        ResumableFile(tmp_path / "m.gguf", "x"),
        pytest.raises(UsageError, match="another process"),
    ):
        ResumableFile(tmp_path / "m.gguf", "x")
