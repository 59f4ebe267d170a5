"""Processes of this machine, and this process's own streams."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from pathlib import Path
from typing import IO

import psutil


def is_running(pid: int) -> bool:
    """Whether a process with this id runs."""
    return psutil.pid_exists(pid)


def read_cpu_seconds(pid: int) -> float | None:
    """Read the processor time that a process has used, or `None` when it is gone."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return None
    return times.user + times.system


def has_program(name: str) -> bool:
    """Whether a program with this name can be run."""
    return shutil.which(name) is not None


def offer_to_memory_killer() -> None:
    """Let Linux end this process before others when memory runs out; no-op elsewhere."""
    # Source: proc_pid_oom_score_adj(5). Raising one's own value needs no privilege.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")


def open_nothing(mode: str) -> IO[str]:
    """Open a text stream that reads nothing, or writes nowhere."""
    return open(os.devnull, mode, encoding="utf-8")  # noqa: PTH123 - it stays open


def discard_stdout() -> None:
    """Send what is still to be written to stdout nowhere: its reader has gone.

    Python flushes stdout when it ends and would complain.
    """
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, sys.stdout.fileno())
    os.close(descriptor)
