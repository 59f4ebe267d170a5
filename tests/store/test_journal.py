import pytest

from llmedge.core.errors import NotFoundError
from llmedge.store.journal import Journal


def test_what_was_found_is_there_for_the_next_process(tmp_path):
    path = tmp_path / "deep" / "facts.jsonl"
    Journal(path).add({"a b.c": (0.1, 2.0), "d": (3.0,)})
    again = Journal(path)
    assert "a b.c" in again
    assert again["a b.c"] == (0.1, 2.0)
    assert "e" not in again


@pytest.mark.parametrize("n_cut", range(1, 14))
def test_a_line_cut_off_by_a_kill_is_lost_and_no_other(tmp_path, n_cut: int):
    path = tmp_path / "facts.jsonl"
    journal = Journal(path)
    journal.add({"first": (1.0,)})
    journal.add({"second": (2.0,)})
    path.write_bytes(path.read_bytes()[:-n_cut])
    cut = Journal(path)
    assert "first" in cut
    cut.add({"third": (3.0,)})
    again = Journal(path)
    assert "first" in again
    assert again["third"] == (3.0,)
    assert ("second" in again) == (n_cut == 1)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    journal = Journal(tmp_path / "file" / "facts.jsonl")
    with pytest.raises(NotFoundError, match="file"):
        journal.add({"a": (1.0,)})


@pytest.mark.parametrize("line", [b'{"a\xff": [1]}', b"\xff", b'{"a": [null]}', b'{"a": [1e999]}'])
def test_a_damaged_line_is_lost_and_no_other(tmp_path, line: bytes):
    path = tmp_path / "facts.jsonl"
    path.write_bytes(b'{"first": [1]}\n' + line + b'\n{"last": [2]}\n')
    journal = Journal(path)
    assert (journal["first"], journal["last"]) == ((1.0,), (2.0,))
    assert "a" not in journal
