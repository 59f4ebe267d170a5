"""Processes of this machine."""

from __future__ import annotations

import psutil


def is_running(pid: int) -> bool:
    """Whether a process with this id runs."""
    return psutil.pid_exists(pid)
