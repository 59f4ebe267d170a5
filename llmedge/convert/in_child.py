"""Runs a step of a conversion in a process of its own, and says what ended it if something did."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from llmedge.core.errors import ResourceError
from llmedge.host.child import Child, ChildDied

if TYPE_CHECKING:
    from collections.abc import Callable

ResultT = TypeVar("ResultT")


def run_in_child(what: str, target: Callable[..., ResultT], *args: object) -> ResultT:
    """Run a function in a child process and return its result.

    Args:
        what: What it does, for an error: `reading PATH`.
        target: A module-level function that takes a `Talk` and `args`.
        args: Picklable arguments.

    Raises:
        LlmedgeError: The function raised it.
        ResourceError: The process was ended, most often for want of memory.
    """
    with Child(target, *args) as child:
        try:
            return child.wait()
        except ChildDied as death:
            raise ResourceError(
                f"{what} ended a process by {death.cause}",
                "free memory and try again; if it happens again the files are damaged",
            ) from None
