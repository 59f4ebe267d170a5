"""Files that are whole or not there: written aside, flushed to the disk, renamed."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import shutil
import threading
from typing import TYPE_CHECKING

from llmedge.core.errors import NotFoundError, ResourceError, UsageError
from llmedge.host.files import flush, flush_folder
from llmedge.host.process import is_running

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from pathlib import Path

_PARTIAL = re.compile(r"\..+\.(\d+)\.partial")


def require_new(target: Path, *, overwrite: bool, others: Iterable[Path] = ()) -> None:
    """Refuse to replace a file unless that is wanted.

    Args:
        target: What is to be written.
        overwrite: Whether a file there may be replaced.
        others: What the same run reads or writes besides: never replaced.

    Raises:
        UsageError: It exists, or is no file that could be replaced by another.
    """
    hint = "choose another name or folder with -o"
    for path in others:
        if _is_same(target, path):
            raise UsageError(f"{target} is read or written by this very run as well", hint)
    if not target.exists():
        return
    if not target.is_file():
        raise UsageError(f"{target} is in the way: it is no regular file", hint)
    if not overwrite:
        raise UsageError(f"{target} exists", "add --overwrite to replace it")


def _is_same(one: Path, other: Path) -> bool:
    if one.exists() and other.exists():
        return one.samefile(other)
    return one.resolve() == other.resolve()


@contextlib.contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Give a place to write, and put what was written there under the final name.

    An error inside leaves the final name as it was and removes what was written. What a killed
    process leaves is removed by the next write into the same folder.

    Args:
        path: The final name; its folder is made.

    Raises:
        ResourceError: The disk is full or read-only.
    """
    make_folder(path.parent)
    sweep_partials(path.parent)
    # Two threads may write the same file, each whole.
    writer = f"{threading.get_ident()}.{os.getpid()}"
    partial = path.with_name(f".{path.name}.{writer}.partial")
    try:
        # What llama.cpp says of a file that it cannot open names neither the file nor the reason.
        partial.touch()
        partial.unlink()
        yield partial
        flush(partial)
        os.replace(partial, path)  # noqa: PTH105 - the point of this module, said plainly
        flush_folder(path.parent)
    except OSError as error:
        raise ResourceError(
            f"{path} could not be written: {error.strerror or error}",
            "check the disk's free space and permissions",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def work_folder(target: Path) -> Generator[Path]:
    """Give a folder beside a file in the making, on its disk; it goes when the work is done.

    What killed processes left there for the same file goes first.

    Args:
        target: The file; the folder's name comes from it.

    Raises:
        NotFoundError: The folder around it cannot be made.
        ResourceError: The disk is full or read-only.
    """
    make_folder(target.parent)
    for folder in target.parent.glob(f".{glob.escape(target.stem)}.*.work"):
        number = folder.name.split(".")[-2]
        if number.isdecimal() and not is_running(int(number)):
            shutil.rmtree(folder, ignore_errors=True)
    folder = target.with_name(f".{target.stem}.{os.getpid()}.work")
    make_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a small file whole.

    Raises:
        ResourceError: The disk is full or read-only.
    """
    with replacing(path) as partial:
        partial.write_bytes(data)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents.

    Raises:
        NotFoundError: Something on the way is a file, or may not be entered.
        ResourceError: The disk is full or read-only.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        kind = ResourceError if error.errno in (errno.ENOSPC, errno.EROFS) else NotFoundError
        raise kind(
            f"the folder {folder} cannot be made: {error.strerror}", "choose another with -o"
        ) from None


def sweep_partials(folder: Path) -> list[Path]:
    """Remove what processes that no longer run left behind; return what was removed."""
    removed: list[Path] = []
    for path in folder.glob(".*.partial"):
        match = _PARTIAL.fullmatch(path.name)
        if match and not is_running(int(match[1])):
            path.unlink(missing_ok=True)
            removed.append(path)
    return removed
