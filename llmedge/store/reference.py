"""What users call a model: `name`, `name:Q4_K_M`, `ORG/NAME[@REV][:VARIANT]` or a file's path."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from llmedge.core.errors import UsageError

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_VARIANT = r"(?::(?P<variant>[A-Za-z0-9][A-Za-z0-9_.-]*))?"
_NAME = re.compile(rf"(?P<name>{_PART}){_VARIANT}", re.ASCII)
_HUB = re.compile(
    rf"(?P<org>{_PART})/(?P<repo>{_PART})(?:@(?P<revision>[A-Za-z0-9._/-]+))?{_VARIANT}", re.ASCII
)
_QUANT = re.compile(r"[-._](i?q\d\w*|[bf]f?(?:16|32)|mxfp4\w*|nvfp4|tq\d_\d)$", re.IGNORECASE)
_MAX_CHARS = 300


@dataclass(frozen=True, slots=True)
class FileReference:
    """A file by its path."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class NameReference:
    """A model in the store.

    Attributes:
        name: Its name, in lower case.
        variant: One of its variants, in capitals; `None` leaves the choice to the store.
    """

    name: str
    variant: str | None = None

    def __str__(self) -> str:
        return self.name + (f":{self.variant}" if self.variant else "")


@dataclass(frozen=True, slots=True)
class HubReference:
    """A repository on the Hugging Face Hub.

    Attributes:
        repo: `ORG/NAME`.
        revision: Branch, tag or commit; `None` is the main branch.
        variant: One of its variants, in capitals.
    """

    repo: str
    revision: str | None = None
    variant: str | None = None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return self.repo + revision + (f":{self.variant}" if self.variant else "")


Reference: TypeAlias = FileReference | NameReference | HubReference


def parse_reference(text: str) -> Reference:
    """Read a reference as users type it.

    A text is a path when it begins with `.`, `/`, `~` or a drive, has a backslash, or ends in
    `.gguf`.

    Raises:
        UsageError: It is none of the three forms.
    """
    if text and len(text) <= _MAX_CHARS:
        if _is_path(text):
            return FileReference(_expand(text))
        if match := _NAME.fullmatch(text):
            return NameReference(match["name"].lower(), _upper(match["variant"]))
        if match := _HUB.fullmatch(text):
            return HubReference(
                f"{match['org']}/{match['repo']}", match["revision"], _upper(match["variant"])
            )
    raise UsageError(
        f"{text[:80]!r} does not name a model",
        "write name, name:Q4_K_M, ORG/NAME:Q4_K_M or ./file.gguf",
    )


def model_name(path: Path) -> str:
    """Return the store name for a file: its stem in lower case, without the quant type.

    `SmolLM2-135M-Instruct.Q4_1.gguf` gives `smollm2-135m-instruct`.
    """
    stem = _QUANT.sub("", path.name.removesuffix(".gguf"))
    name = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")
    return name or "model"


def variant_name(path: Path) -> str:
    """Return the quant type in a file's name, in capitals; "" where there is none.

    `SmolLM2-135M-Instruct.Q4_1.gguf` gives `Q4_1`.
    """
    match = _QUANT.search(path.name.removesuffix(".gguf"))
    return match[1].upper() if match else ""


def _expand(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UsageError(
            f"{text!r} does not name a model: it begins with the home of nobody known here",
            "write the path in full: /home/…/file.gguf, or name:Q4_K_M",
        ) from None


def _is_path(text: str) -> bool:
    has_drive = len(text) > 2 and text[1] == ":" and text[2] in "\\/"
    return text[0] in "./~" or "\\" in text or has_drive or text.lower().endswith(".gguf")


def _upper(variant: str | None) -> str | None:
    return variant.upper() if variant else None
