import ctypes
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from llmedge.core.errors import UsageError
from llmedge.host.child import Child, ChildDied, ChildTimedOut, Talk
from llmedge.host.process import is_running

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")


def add(talk: Talk, a: int, b: int) -> int:
    talk.say("adding")
    return a + b


def echo(talk: Talk) -> object:
    return talk.hear()


def refuse(talk: Talk) -> None:
    raise UsageError("not like this", "like that")


def stumble(talk: Talk) -> None:
    raise KeyError("a bug")


def crash(talk: Talk) -> None:
    os.write(2, b"GGML_ASSERT(x) failed\n")
    ctypes.string_at(0)


def leave(talk: Talk) -> None:
    os._exit(3)


def sleep(talk: Talk, seconds: float) -> None:
    talk.say(os.getpid())
    time.sleep(seconds)


def print_much(talk: Talk) -> str:
    print("noise on stdout")  # noqa: T201 - that is the test
    os.write(1, b"more noise\n" * 10_000)
    return "clean"


def return_a_lock(talk: Talk) -> object:
    import threading

    return threading.Lock()


def allocate(talk: Talk, n_bytes: int) -> int:
    return len(bytearray(n_bytes))


def test_messages_come_before_the_result():
    with Child(add, 2, 3) as child:
        assert list(child.messages()) == ["adding"]
        assert child.result == 5


def test_the_result_is_not_there_before_the_end():
    with Child(add, 2, 3) as child, pytest.raises(RuntimeError, match="not returned"):
        _ = child.result


def test_the_parent_can_answer():
    with Child(echo) as child:
        child.say({"any": "thing"})
        assert child.wait() == {"any": "thing"}


def test_an_error_of_ours_comes_over_as_it_is():
    with Child(refuse) as child, pytest.raises(UsageError) as caught:
        child.wait()
    assert (caught.value.message, caught.value.hint) == ("not like this", "like that")


def test_a_bug_comes_over_with_its_traceback():
    with Child(stumble) as child, pytest.raises(RuntimeError, match="KeyError: 'a bug'") as caught:
        child.wait()
    assert "in stumble" in str(caught.value)


def test_a_crash_in_native_code_is_a_death_with_its_last_words():
    with Child(crash) as child, pytest.raises(ChildDied) as caught:
        child.wait()
    assert caught.value.cause == "SIGSEGV"
    assert "GGML_ASSERT(x) failed" in caught.value.stderr


def test_an_exit_is_a_bug_and_no_crash():
    with Child(leave) as child, pytest.raises(RuntimeError, match="code 3"):
        child.wait()


def test_a_result_that_cannot_be_sent_is_a_bug():
    with Child(return_a_lock) as child, pytest.raises(RuntimeError, match="pickle"):
        child.wait()


def test_a_function_that_the_child_cannot_import_is_a_bug_and_no_hang():
    function = type(add)(add.__code__, {})
    function.__module__, function.__qualname__ = "tests.host.test_child", "add"
    with pytest.raises((RuntimeError, pickle.PicklingError)), Child(function) as child:
        child.wait(silence_s=20)


def test_what_the_child_prints_does_not_reach_the_conversation():
    with Child(print_much) as child:
        assert child.wait() == "clean"


def test_silence_ends_a_child_that_hangs():
    with Child(sleep, 60) as child:
        start = time.monotonic()
        with pytest.raises(ChildTimedOut):
            child.wait(silence_s=0.5)
        assert time.monotonic() - start < 30
        assert not is_running(child.pid)


def test_closing_ends_the_child_and_twice_is_harmless():
    child = Child(sleep, 60)
    assert next(child.messages()) == child.pid
    child.close()
    child.close()
    assert not is_running(child.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux only")
def test_a_limit_on_the_address_space_holds():
    with (
        Child(allocate, 4 << 30, max_address_bytes=1 << 30) as child,
        pytest.raises(RuntimeError, match="MemoryError"),
    ):
        child.wait()
    with Child(allocate, 1 << 20, max_address_bytes=1 << 30) as child:
        assert child.wait() == 1 << 20


def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "from llmedge.host.child import Child\n"
        "from tests.host.test_child import sleep\n"
        "child = Child(sleep, 60)\n"
        "print(next(child.messages()), flush=True)\n"
        "child.wait()\n",
        encoding="utf-8",
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while has_life(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not has_life(pid)


def has_life(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_script_without_a_main_guard_can_start_a_child():
    code = (
        "from llmedge.host.child import Child; from tests.host.test_child import add; "
        "print(Child(add, 1, 1).wait())"
    )
    done = subprocess.run(
        [sys.executable, "-"],
        input=f"import sys; sys.path[:0] = {sys.path!r}\n{code}",
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
