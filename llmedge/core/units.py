"""Bytes, rates and durations as text, and back.

`MB` and `GB` are decimal, `MiB` and `GiB` binary, a bare number is bytes.
"""

from __future__ import annotations

import re

from llmedge.core.errors import UsageError

_BYTE_UNITS = {
    "": 1,
    "b": 1,
    "k": 1000,
    "kb": 1000,
    "m": 1000**2,
    "mb": 1000**2,
    "g": 1000**3,
    "gb": 1000**3,
    "t": 1000**4,
    "tb": 1000**4,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
    "tib": 1024**4,
}
_BYTES = re.compile(r"\s*(\d{1,19}(?:\.\d{1,19})?)\s*([a-zA-Z]*)\s*", re.ASCII)


def parse_bytes(text: str) -> int:
    """Turn `1.9GB`, `3GiB`, `500k` or `1024` into a number of bytes.

    Raises:
        UsageError: The text is not a size.
    """
    match = _BYTES.fullmatch(text)
    unit = _BYTE_UNITS.get(match.group(2).lower()) if match else None
    if match is None or unit is None:
        raise UsageError(
            f"{text!r} is not a size in bytes",
            "write it like 1.9GB (decimal), 3GiB (binary) or 1024 (bytes)",
        )
    return int(float(match.group(1)) * unit) if "." in match.group(1) else int(match[1]) * unit


def format_mb(n_bytes: float) -> str:
    """Format a file size in decimal units, as file managers and phone stores do."""
    if n_bytes >= 1000**3:
        return f"{n_bytes / 1000**3:.2f} GB"
    if n_bytes >= 1000**2:
        return f"{n_bytes / 1000**2:.1f} MB"
    return f"{n_bytes / 1000:.1f} kB"


def format_mib(n_bytes: float) -> str:
    """Format an amount of memory in binary units, as llama.cpp's log does."""
    if n_bytes >= 1024**3:
        return f"{n_bytes / 1024**3:.2f} GiB"
    return f"{n_bytes / 1024**2:.1f} MiB"


def format_seconds(seconds: float) -> str:
    """Format a duration: `0.42 s`, `12.3 s`, `4 min 10 s`, `2 h 05 min`."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
