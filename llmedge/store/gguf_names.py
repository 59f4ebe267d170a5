"""Which GGUF file of a repository is meant, and which files belong to it.

The choice is llama.cpp's, so that a reference means the same file there and here. Source: its
`common/download.cpp`, `find_best_model`.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from llmedge.core.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable

_PREFERRED = ("Q4_K_M", "Q8_0")
_BESIDE_MODELS = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")
_SPLIT = re.compile(r"(?P<prefix>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
_TAG = re.compile(r"[-.]([A-Z0-9_]+)$", re.IGNORECASE)


def model_files(paths: Iterable[str]) -> list[str]:
    """Return the files that a model begins with: not projectors, drafts, or later parts."""
    found: list[str] = []
    for path in sorted(paths):
        name = path.rpartition("/")[2]
        split = _SPLIT.fullmatch(name)
        is_first = split is None or int(split["index"]) == 1
        if name.endswith(".gguf") and is_first and not any(kind in name for kind in _BESIDE_MODELS):
            found.append(path)
    return found


def choose_gguf(repo: str, paths: Iterable[str], variant: str | None) -> list[str]:
    """Return the file of a variant, all of its parts in order.

    Args:
        repo: For the error.
        paths: The repository's files, with `/`.
        variant: `None` means the usual one: Q4_K_M, then Q8_0, then the first.

    Raises:
        NotFoundError: There is no such variant, or a part of it is missing; the hint names what
            there is.
    """
    every = list(paths)
    models = model_files(every)
    for wanted in (variant,) if variant else _PREFERRED:
        pattern = re.compile(re.escape(wanted) + "[.-]", re.IGNORECASE)
        for path in models:
            if pattern.search(path):
                return _with_parts(repo, path, every)
    if variant is None and models:
        return _with_parts(repo, models[0], every)
    wanted = f"{repo}:{variant}" if variant else repo
    raise NotFoundError(f"{wanted} is not among the files of {repo}", _hint(repo, models, variant))


def variant_of(path: str) -> str:
    """Return the variant in a file's name, in capitals; the whole stem where there is none."""
    name = path.rpartition("/")[2]
    split = _SPLIT.fullmatch(name)
    prefix = split["prefix"] if split else name.removesuffix(".gguf")
    match = _TAG.search(prefix)
    return match[1].upper() if match else prefix


def part_names(name: str) -> list[str]:
    """Return the names of all parts of a split model, given any; the name itself of a whole one."""
    split = _SPLIT.fullmatch(name)
    if split is None:
        return [name]
    count = int(split["count"])
    return [f"{split['prefix']}-{i:05d}-of-{count:05d}.gguf" for i in range(1, count + 1)]


def _with_parts(repo: str, path: str, every: list[str]) -> list[str]:
    folder, slash, name = path.rpartition("/")
    parts = [f"{folder}{slash}{part}" for part in part_names(name)]
    missing = sorted(set(parts) - set(every))
    if missing:
        raise NotFoundError(f"{repo} has no {missing[0]}, a part of {name}", "tell its author")
    return parts


def _hint(repo: str, models: list[str], variant: str | None) -> str:
    names = list(dict.fromkeys(variant_of(path) for path in models))
    if not names:
        return f"it has no GGUF files; a checkpoint is converted: llmedge convert {repo}"
    close = difflib.get_close_matches(variant or "", names, n=1, cutoff=0.4)
    return f"did you mean {repo}:{(close or names)[0]}? It has {', '.join(names)}"
