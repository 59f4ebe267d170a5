"""`llmedge chat` on a real pseudo-terminal: what is typed, shown and interrupted there."""

import codecs
import os
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("pseudo-terminals are POSIX's", allow_module_level=True)
import fcntl
import pty
import termios

CTRL_C, CTRL_D = "\x03", "\x04"
LOCAL_FLAGS = 3  # the index of tcgetattr's c_lflag


class Screen:
    """A program on a pseudo-terminal."""

    def __init__(self, *command: object) -> None:
        self.master, slave = pty.openpty()
        environ = os.environ | {"TERM": "dumb", "PYTHONUTF8": "1"}
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environ,
            start_new_session=True,
            preexec_fn=lambda: make_controlling(slave),
        )
        os.close(slave)
        self.shown = ""
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def wait_for(self, pattern: str, timeout_s: float = 30) -> str:
        """Read until a pattern is shown; return what was shown before it."""
        deadline = time.monotonic() + timeout_s
        while not (match := re.search(pattern, self.shown)):
            assert time.monotonic() < deadline, self.shown
            ready, _, _ = select.select([self.master], [], [], 0.1)
            if ready:
                try:
                    self.shown += self.decoder.decode(os.read(self.master, 4096))
                except OSError:  # the program has ended
                    assert re.search(pattern, self.shown), self.shown
        before, self.shown = self.shown[: match.end()], self.shown[match.end() :]
        return before

    def wait_for_prompt(self) -> None:
        """Read until the prompt is shown and the line editor has the terminal.

        Ctrl-D typed before it would be lost: the editor reads what the terminal made of it.
        """
        self.wait_for("> ")
        deadline = time.monotonic() + 30
        while termios.tcgetattr(self.master)[LOCAL_FLAGS] & termios.ICANON:
            assert time.monotonic() < deadline, "the terminal is still in line mode"
            time.sleep(0.01)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def close(self) -> int:
        code = self.process.wait(60)
        os.close(self.master)
        return code


def make_controlling(slave: int) -> None:
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)


@pytest.fixture
def screen(smollm2: Path, home: Path):
    command = [sys.executable, "-m", "llmedge", "chat", smollm2, "--ctx", 2048]
    screen = Screen(*command, "--temperature", 0, "--max-tokens", 400)
    yield screen
    if screen.process.poll() is None:
        screen.process.kill()
        screen.close()


def test_a_conversation_with_commands_lines_and_an_end(screen: Screen):
    screen.wait_for("/help helps")
    screen.wait_for("> ")
    screen.type("What is the capital of India?\n")
    assert "New Delhi" in screen.wait_for(r"Delhi\.\r?\n> ")
    screen.type('"""\nSay\nyes\n"""\n')
    screen.wait_for("… ")
    screen.wait_for(r"\n> ")
    screen.type("/stats\n")
    assert "tokens/s" in screen.wait_for(r"of 2048")
    screen.type("/nonsense\n")
    screen.wait_for("unknown command /nonsense")
    screen.wait_for_prompt()
    screen.type(CTRL_D)
    assert screen.close() == 0


def test_ctrl_c_stops_an_answer_and_the_conversation_goes_on(screen: Screen):
    screen.wait_for("> ")
    for _ in range(3):
        screen.type("Tell me a very long story about a king.\n")
        screen.wait_for(r"king\.\r?\n[^>]{40}")
        screen.type(CTRL_C)
        screen.wait_for(r"\(stopped\)")
        screen.wait_for("> ")
    screen.type("/reset\n")
    screen.wait_for("forgotten")
    screen.type("What is the capital of India?\n")
    screen.wait_for("Delhi")
    screen.type("/bye\n")
    assert screen.close() == 0


def test_ctrl_c_at_the_prompt_leaves(screen: Screen):
    screen.wait_for_prompt()
    time.sleep(0.5)  # nobody is faster than readline's set-up after it has shown the prompt
    screen.type(CTRL_C)
    assert screen.close() == 130


def test_hindi_is_typed_and_shown(screen: Screen):
    screen.wait_for("> ")
    screen.type("भारत की राजधानी क्या है?\n")
    shown = screen.wait_for(r"\n> ", timeout_s=60)
    assert "भारत की राजधानी क्या है?" in shown
    assert "\N{REPLACEMENT CHARACTER}" not in shown
    screen.type("/bye\n")
    assert screen.close() == 0
