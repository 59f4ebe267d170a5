"""A Unix socket to listen on: for its owner alone, and never another server's."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from typing import TYPE_CHECKING

from llmedge.core.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

_BACKLOG = 128
_OWNER_ONLY = 0o177


def bind_path(path: Path) -> socket.socket:
    """Listen on a path; a socket there that nobody answers is replaced.

    Raises:
        UsageError: The system has no such sockets, something else lies there, or another server
            listens on it.
    """
    if sys.platform == "win32":
        raise UsageError("Unix sockets are not for this system", "use --host and --port")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            with (
                socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe,
                contextlib.suppress(ConnectionRefusedError),
            ):
                probe.connect(str(path))
                raise UsageError(f"another server listens on {path}", "choose another path")
            path.unlink()
        # Never open to others, not even between the calls.
        before = os.umask(_OWNER_ONLY)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise UsageError(f"{path} cannot be listened on: {error.strerror or error}") from None
    except BaseException:
        listener.close()
        raise
    return listener
