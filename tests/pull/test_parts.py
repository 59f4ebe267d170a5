"""The pieces of a pull: hours, patience, parts, choice of files."""

import datetime
import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.core.errors import (
    ConnectionLostError,
    InterruptedByUser,
    NetworkError,
    NotFoundError,
    UsageError,
)
from llmedge.hub.repository import RemoteFile, Repository
from llmedge.pull.line import Line, Patience
from llmedge.pull.part import PartFile
from llmedge.pull.select import select_files
from llmedge.pull.window import Window, parse_window

DAY = datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("clock", "wait_s"),
    [("22:59", 60), ("23:00", 0), ("03:10", 0), ("05:59", 0), ("06:00", 17 * 3600)],
)
def test_hours_may_pass_midnight(clock: str, wait_s: int):
    hour, minute = map(int, clock.split(":"))
    now = DAY.replace(hour=hour, minute=minute)
    assert parse_window("23:00-06:00").opens_in_s(now) == wait_s


@given(st.integers(0, 86399), st.integers(0, 86399), st.integers(0, 86399))
def test_after_the_wait_the_window_is_open(start: int, stop: int, clock: int):
    if start != stop:
        window = Window(start, stop)
        now = DAY + datetime.timedelta(seconds=clock)
        wait = window.opens_in_s(now)
        assert 0 <= wait < 86400
        assert window.opens_in_s(now + datetime.timedelta(seconds=wait)) == 0


@pytest.mark.parametrize("text", ["23-6", "24:00-06:00", "06:00-06:00", "", "23:00", "1:60-2:00"])
def test_what_is_no_span_of_hours_is_refused(text: str):
    with pytest.raises(UsageError, match="no span of hours"):
        parse_window(text)


def test_pauses_double_up_to_the_longest_and_are_jittered():
    patience = Patience(base_s=1, cap_s=10)
    for idle, longest in ((1, 1), (2, 2), (4, 8), (9, 10)):
        pauses = {patience.pause_s(idle) for _ in range(50)}
        assert len(pauses) > 1
        assert all(longest * 0.5 <= pause <= longest * 1.5 for pause in pauses)


def test_attempts_that_bring_something_are_never_too_many():
    line = Line(Patience(n_idle=2, base_s=0.001))
    for _ in range(50):
        line.recover(ConnectionLostError("cut"), idle=0)
    line.recover(ConnectionLostError("cut"), idle=1)
    with pytest.raises(NetworkError, match="given up after 2"):
        line.recover(ConnectionLostError("cut"), idle=2)
    assert line.n_retries == 51


def test_a_line_that_is_stopped_ends_every_wait():
    line = Line(rate=1)
    line.stop()
    with pytest.raises(InterruptedByUser):
        line.take(1000)
    assert line.network_bytes == 1000


def test_a_line_waits_for_its_hours():
    now = datetime.datetime.now().astimezone()
    soon = (now.hour * 60 + now.minute) * 60 + now.second + 2
    told: list[str] = []
    line = Line(window=Window(soon % 86400, (soon + 3600) % 86400), tell=told.append)
    assert not line.is_open()
    line.wait_until_open()
    assert line.is_open()
    assert "waiting" in told[0]


def remote(data: bytes, path: str = "a.bin") -> RemoteFile:
    return RemoteFile(path, len(data), hashlib.sha256(data).hexdigest())


@given(st.binary(max_size=300), st.lists(st.integers(1, 50), max_size=20))
def test_a_part_taken_up_by_any_number_of_processes_is_the_file(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, steps: list[int]
):
    path = tmp_path_factory.mktemp("part") / "x.part"
    file = remote(data)
    for step in [*steps, len(data)]:
        with PartFile(path, file) as part:
            assert not part.missing_bytes or not part.is_sound()
            part.append(data[part.n_bytes : part.n_bytes + step])
    with PartFile(path, file) as part:
        part.append(data[part.n_bytes :])
        assert part.is_sound()
        part.publish(path.with_name("x"))
    assert path.with_name("x").read_bytes() == data
    assert not path.exists()


def test_a_part_longer_than_its_file_is_begun_anew(tmp_path: Path):
    path = tmp_path / "x.part"
    path.write_bytes(b"much too long")
    with PartFile(path, remote(b"short")) as part:
        assert part.n_bytes == 0


def test_a_part_that_is_a_link_does_not_lead_elsewhere(tmp_path: Path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "x.part").symlink_to(victim)
    with PartFile(tmp_path / "x.part", remote(b"short")) as part:
        part.append(b"sh")
    assert victim.read_bytes() == b"precious"


def test_a_small_file_is_held_against_gits_hash(tmp_path: Path):
    oid = hashlib.sha1(b"blob 5\0short").hexdigest()
    with PartFile(tmp_path / "x.part", RemoteFile("a.txt", 5, oid)) as part:
        part.append(b"short")
        assert part.is_sound()


def repository(*paths: str) -> Repository:
    files = tuple(RemoteFile(path, 1, "0" * 40) for path in sorted(paths))
    return Repository("acme/x", "1" * 40, is_gated=False, license=None, files=files)


def names(files: list[RemoteFile]) -> list[str]:
    return [file.path for file in files]


def test_a_checkpoint_comes_without_pickles_programs_and_second_copies():
    chosen = select_files(
        repository(
            "LICENSE", "USE_POLICY.md", "config.json", "consolidated.safetensors", "tok.py",
            "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "x.gguf",
            "original/consolidated.00.safetensors", "pytorch_model.bin", "chat_template.jinja",
            "tokenizer.model", ".gitattributes",
        )
    )  # fmt: skip
    assert names(chosen) == [
        "LICENSE", "USE_POLICY.md", "chat_template.jinja", "config.json",
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "tokenizer.model",
    ]  # fmt: skip


def test_weights_in_mistrals_layout_alone_are_taken():
    assert names(select_files(repository("consolidated.safetensors", "params.json"))) == [
        "consolidated.safetensors",
        "params.json",
    ]


def test_pickles_alone_are_refused_with_the_reason():
    with pytest.raises(NotFoundError, match="can run code") as caught:
        select_files(repository("pytorch_model.bin", "config.json"))
    assert "--include" in caught.value.hint


def test_a_repository_of_gguf_files_gives_one_of_them_and_its_licence():
    files = repository("x-Q8_0.gguf", "x-Q4_K_M.gguf", "README.md", "mmproj-x.gguf", "big.json")
    assert names(select_files(files)) == ["README.md", "x-Q4_K_M.gguf"]
    assert names(select_files(files, "Q8_0")) == ["README.md", "x-Q8_0.gguf"]


def test_a_variant_and_globs_are_too_much():
    with pytest.raises(UsageError, match="names a file"):
        select_files(repository("x-Q8_0.gguf"), "Q8_0", ["*.gguf"])


def test_nothing_left_says_what_there_is():
    with pytest.raises(NotFoundError) as caught:
        select_files(repository("a.json", "b.json"), exclude=["*"])
    assert caught.value.hint == "it has a.json, b.json"
