"""Runs a step of a conversion in a process of its own, and says what ended it if something did."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from llmedge.core.errors import IntegrityError, ResourceError
from llmedge.host.child import Child, ChildDied, ChildTimedOut

if TYPE_CHECKING:
    from collections.abc import Callable

ResultT = TypeVar("ResultT")

# A hostile normalizer may make any text of a character. The largest vocabularies take seconds and
# 200 MB; address space is a multiple of that.
_SILENCE_S = 240.0
_MAX_ADDRESS_BYTES = 6 << 30


def run_in_child(what: str, target: Callable[..., ResultT], *args: object) -> ResultT:
    """Run a function in a child process and return its result.

    Args:
        what: What it does, for an error: `reading PATH`.
        target: A module-level function that takes a `Talk` and `args`.
        args: Picklable arguments.

    Raises:
        LlmedgeError: The function raised it.
        ResourceError: The process was ended, most often for want of memory.
        IntegrityError: It did not come to an end.
    """
    with Child(target, *args, max_address_bytes=_MAX_ADDRESS_BYTES) as child:
        try:
            return child.wait(_SILENCE_S)
        except ChildTimedOut:
            raise IntegrityError(
                f"{what} took longer than {_SILENCE_S:.0f} s and was ended",
                "no real tokenizer does: get the checkpoint from elsewhere",
            ) from None
        except ChildDied as death:
            raise ResourceError(
                f"{what} ended a process by {death.cause}",
                "free memory and try again; if it happens again the files are damaged",
            ) from None
