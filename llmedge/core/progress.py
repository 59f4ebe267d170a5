"""How long work reports itself, without knowing who shows it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol


class Task(Protocol):
    """One piece of work with a known amount."""

    def update(self, completed: float, note: str = "") -> None:
        """Set how much is done, in the task's unit, and what is being done now."""
        ...


class Progress(Protocol):
    """Something that shows tasks."""

    def task(self, description: str, *, total: float, unit: str) -> AbstractContextManager[Task]:
        """Open a task; leaving the context ends it.

        Args:
            description: What is being done, for a person.
            total: The amount of work.
            unit: `bytes`, `tokens`, or another word for what `total` counts.
        """
        ...


class _Silent(AbstractContextManager["_Silent"]):
    def __exit__(self, *exc: object) -> None:
        return None

    def update(self, completed: float, note: str = "") -> None:
        """Show nothing."""


class SilentProgress:
    """Progress for callers that show none."""

    def task(self, description: str, *, total: float, unit: str) -> AbstractContextManager[Task]:
        """Open a task that shows nothing."""
        del description, total, unit
        return _Silent()
