"""Optional parts of llmedge: is one installed, and if not, the line that installs it."""

from __future__ import annotations

import importlib.util

from llmedge.core.errors import MissingExtraError


def require_extra(extra: str, *modules: str, reason: str) -> None:
    """Make sure that the modules of an extra can be imported.

    Args:
        extra: The extra's name in `pyproject.toml`.
        modules: Top-level modules that the extra brings.
        reason: What needs them, for the error.

    Raises:
        MissingExtraError: One of them is missing.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"{reason} needs {', '.join(missing)}, which is not installed",
            f"pip install 'llmedge[{extra}]'",
        )
