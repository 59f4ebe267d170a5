from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from llmedge.convert.in_child import run_in_child
from llmedge.core.errors import ResourceError

if TYPE_CHECKING:
    from llmedge.host.child import Talk


def double(talk: Talk, number: int) -> int:
    del talk
    return 2 * number


def die(talk: Talk) -> None:
    del talk
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_result_comes_back():
    assert run_in_child("doubling", double, 21) == 42


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_death_is_an_error_that_says_what_was_done():
    with pytest.raises(ResourceError, match="reading x ended a process by SIGKILL"):
        run_in_child("reading x", die)
