"""Where a cell runs: on this machine; the seam for other machines.

A `Place` turns a `Cell` into an `Observation`; all judging, retrying and recording is done with
that, wherever it comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from llmedge.bench.cell import Begun, Cell, Measured, load_only, measure
from llmedge.bench.watch import CellWatch, Seen
from llmedge.core.errors import EngineError, ResourceError, UnsupportedError, UsageError
from llmedge.host.child import Child, ChildDied
from llmedge.host.page_cache import drop_pages, resident_share

if TYPE_CHECKING:
    from llmedge.core.progress import Task

_MAX_LEFT = 0.01  # of a file that still is in memory when it is cold
_NOT_YET = ("cap:", "ssh:", "adb:")
_HINT = "--on host"


@dataclass(frozen=True, slots=True)
class Observation:
    """What one try of a cell gave.

    Attributes:
        measured: What the process found.
        seen: What was seen of it from outside.
    """

    measured: Measured
    seen: Seen


class Place(Protocol):
    """Somewhere that cells can run.

    Attributes:
        name: As `--on` takes it, and as fingerprints carry it.
    """

    name: str

    def run(self, cell: Cell, task: Task) -> Observation:
        """Measure a cell in a fresh process.

        Raises:
            ResourceError: The process was killed, or could not get the memory.
        """
        ...

    def load_cold(self, cell: Cell) -> float | None:
        """Load a model from the disk in a fresh process and return the seconds.

        `None` where the system kept the file in memory: another program may be using it.
        """
        ...


class Host:
    """This machine, without a limit."""

    name = "host"

    def run(self, cell: Cell, task: Task) -> Observation:
        """Measure a cell in a fresh process."""
        return observe(Child(measure, cell), cell, task)

    def load_cold(self, cell: Cell) -> float | None:
        """Load a model whose file's pages were dropped, and were seen to be gone."""
        if not make_cold(cell):
            return None
        with Child(load_only, cell) as child:
            try:
                return child.wait()
            except ChildDied as death:
                raise _killed(cell, death) from None


def parse_place(text: str) -> Place:
    """Read `--on`.

    Raises:
        UsageError: It names no place.
        UnsupportedError: It names one that cannot be measured.
    """
    if text == "host":
        return Host()
    if text.startswith(_NOT_YET):
        raise UnsupportedError(f"{text}: only this machine is measured, and without a limit", _HINT)
    raise UsageError(f"{text!r} is no place to measure", _HINT)


def make_cold(cell: Cell) -> bool:
    """Drop the file's pages, and tell whether they are gone."""
    drop_pages(cell.path)
    share = resident_share(cell.path)
    return share is not None and share <= _MAX_LEFT


def observe(child: Child[None], cell: Cell, task: Task) -> Observation:
    """Run a measuring child to its end, and watch it.

    Raises:
        ResourceError: It was killed.
    """
    with child, CellWatch(child.pid) as watch:
        try:
            for message in child.messages():
                if isinstance(message, Measured):
                    # The process waits for a word, so that its memory can still be read.
                    seen = watch.stop()
                    child.say("done")
                    child.wait()
                    return Observation(message, seen)
                if isinstance(message, Begun):
                    watch.mark()
                else:
                    task.update(float(message))
        except ChildDied as death:
            raise _killed(cell, death) from None
    raise EngineError("the measuring process ended without a result")


def _killed(cell: Cell, death: ChildDied) -> ResourceError:
    return ResourceError(
        f"measuring {cell.path.name} ended by {death.cause}: "
        f"{death.stderr or 'most likely the system ran out of memory'}",
        "try a smaller model, or a smaller --batch and --ubatch",
    )
