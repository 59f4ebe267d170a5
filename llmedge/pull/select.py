"""Which files of a repository are pulled: by default only such that cannot run code."""

from __future__ import annotations

import fnmatch
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from llmedge.core.errors import NotFoundError, UsageError
from llmedge.store.gguf_names import choose_gguf, model_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmedge.hub.repository import RemoteFile, Repository

# Weights, configurations, tokenizers, templates and texts. Pickles (.bin, .pt) and programs (.py)
# run what they hold when they are loaded.
_SAFE = (".safetensors", ".json", ".jinja", ".model", ".tiktoken", ".txt", ".md", ".vocab")
_TEXTS = re.compile(r"(licen[cs]e|notice|copying|use_policy)([-._].*)?", re.IGNORECASE)
# The same weights once more, in the layout of another program.
_SECOND_COPY = re.compile(r"consolidated.*\.safetensors")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def select_files(
    repository: Repository,
    variant: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> list[RemoteFile]:
    """Return the files to pull.

    With a variant, or where there are GGUF files only, that is one GGUF file with its parts, and
    the licence and card beside it. Otherwise it is the checkpoint.

    Args:
        repository: What there is.
        variant: A GGUF variant.
        include: Globs over paths or names; they take the place of the default.
        exclude: Globs that leave files out.

    Raises:
        NotFoundError: Nothing is left, or there is no such variant.
        UsageError: A variant and globs at once.
    """
    if variant and include:
        raise UsageError(
            f"{repository.repo}:{variant} names a file, and so does --include", "leave one away"
        )
    paths = [file.path for file in repository.files]
    if include:
        chosen = {path for path in paths if _matches(path, include)}
    elif variant or (model_files(paths) and not _weights(paths)):
        texts = {path for path in paths if "/" not in path and _is_text(path)}
        chosen = {*choose_gguf(repository.repo, paths, variant), *texts}
    else:
        chosen = _checkpoint(repository.repo, paths)
    chosen -= {path for path in chosen if _matches(path, exclude)}
    if not chosen:
        raise NotFoundError(
            f"no file of {repository.repo} is left to pull",
            f"it has {', '.join(paths[:12])}{' …' if len(paths) > 12 else ''}",
        )
    return [file for file in repository.files if file.path in chosen]


def _checkpoint(repo: str, paths: list[str]) -> set[str]:
    safe = {path for path in paths if path.endswith(_SAFE) or _is_text(path)}
    weights = _weights(paths)
    pickles = [path for path in paths if path.endswith(_PICKLES)]
    if not weights and pickles:
        raise NotFoundError(
            f"{repo} has its weights as pickles only ({pickles[0]}), which can run code",
            "look for a copy in safetensors; --include '*.bin' pulls them all the same",
        )
    if any(not _is_second_copy(path) for path in weights):
        safe -= {path for path in weights if _is_second_copy(path)}
    return safe


def _weights(paths: list[str]) -> list[str]:
    return [path for path in paths if path.endswith(".safetensors")]


def _is_second_copy(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(_SECOND_COPY.fullmatch(parts[-1])) or parts[0] == "original"


def _is_text(path: str) -> bool:
    name = PurePosixPath(path).name
    return name == "README.md" or _TEXTS.fullmatch(name) is not None


def _matches(path: str, globs: Sequence[str]) -> bool:
    name = PurePosixPath(path).name
    return any(fnmatch.fnmatchcase(path, glob) or fnmatch.fnmatchcase(name, glob) for glob in globs)
