import io
import os
import struct
import subprocess
import sys
import time

import pytest

from llmedge.host.interpreter import (
    ChildDied,
    Interpreter,
    read_frame,
    take_streams,
    write_frame,
)
from llmedge.host.process import is_running

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")


def echo() -> None:
    stream, output = take_streams()
    os.write(1, b"noise on stdout\n")
    while True:
        write_frame(output, read_frame(stream))


def tell_environment() -> None:
    _, output = take_streams()
    write_frame(output, repr(sorted(os.environ)).encode())


def abort() -> None:
    os.write(2, b"noise\n" * 100_000 + b"GGML_ASSERT(x) failed\n")
    os.abort()


def test_frames_go_there_and_back_untouched_by_what_is_printed():
    with Interpreter(__name__, "echo") as child:
        for data in (b"", b"\x00\xff" * 100_000):
            write_frame(child.input, data)
            assert read_frame(child.output) == data
        pid = child.pid
    assert not is_running(pid)


def test_a_child_gets_the_environment_that_it_is_given():
    kept = {name: value for name, value in os.environ.items() if name != "PATH"}
    with Interpreter(__name__, "tell_environment", kept) as child:
        names = read_frame(child.output).decode()
    assert "'PATH'" not in names
    assert "'HOME'" in names


def test_a_death_is_told_with_its_last_words_only():
    with Interpreter(__name__, "abort") as child:
        end = child.obituary()
    assert isinstance(end, ChildDied)
    assert end.cause == "SIGABRT"
    assert end.stderr.splitlines()[-1] == "GGML_ASSERT(x) failed"
    assert len(end.stderr.splitlines()) == 8


def test_a_function_that_is_not_there_is_an_exit():
    with Interpreter("llmedge.host.interpreter", "nothing") as child:
        end = child.obituary()
    assert isinstance(end, RuntimeError)
    assert "nothing" in str(end)


@pytest.mark.parametrize("data", [b"", b"\x01", struct.pack("<Q", 5) + b"four"])
def test_a_frame_that_is_cut_off_is_the_end(data: bytes):
    with pytest.raises(EOFError):
        read_frame(io.BytesIO(data))


def test_a_frame_larger_than_allowed_is_not_read():
    with pytest.raises(EOFError):
        read_frame(io.BytesIO(struct.pack("<Q", 1 << 62)), max_bytes=1 << 20)


def chatter() -> None:
    stream, output = take_streams()
    read_frame(stream)
    for _ in range(64):
        os.write(2, b"warning\n" * (1 << 17))
    os.write(2, b"the last\n")
    write_frame(output, b"said")
    read_frame(stream)
    os.abort()


def test_a_child_that_writes_megabytes_to_stderr_is_kept_short():
    with Interpreter(__name__, "chatter") as child:
        write_frame(child.input, b"")
        assert read_frame(child.output) == b"said"  # nobody stalls it, 64 MiB later
        assert len(child._last_words.text) <= 1 << 16
        write_frame(child.input, b"")
        end = child.obituary()
    assert isinstance(end, ChildDied)
    assert end.stderr.splitlines()[-1] == "the last"


def leave_a_grandchild() -> None:
    take_streams()
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(4)"])
    os.write(2, b"gone\n")
    os.abort()


def test_who_holds_stderr_after_the_child_keeps_nobody_waiting():
    start = time.monotonic()
    with Interpreter(__name__, "leave_a_grandchild") as child:
        end = child.obituary()
    assert isinstance(end, ChildDied)
    assert end.stderr == "gone"
    assert time.monotonic() - start < 3.9
