"""Runs what reads a text that comes in pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llmedge.chat_format.scanner import Scanner, Steps

T = TypeVar("T")


def run(scan: Scanner, steps: Steps[T], pieces: Iterable[str]) -> T:
    """Feed pieces while steps want them, then the end; return the result."""
    waiting = iter(pieces)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value
        piece = next(waiting, None)
        if piece is None:
            scan.end()
        else:
            scan.add(piece)


def rest(scan: Scanner) -> str:
    """Return what has arrived and was not taken."""
    left: list[str] = []
    scan.end()
    run(scan, scan.until(("\0",), left.append), ())
    return "".join(left)
