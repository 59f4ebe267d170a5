"""Recipes as files: found, put together with what they extend, checked, every mistake located."""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from pydantic import ValidationError

from llmedge.core.errors import NotFoundError, UsageError
from llmedge.recipe.schema import NAME, TABLES, Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic_core import ErrorDetails

Key: TypeAlias = tuple[int | str, ...]
_MAX_REFERENCE_CHARS = 250
_MAX_BYTES = 1 << 20
_MAX_EXTENDS = 8
_SET = "--set"


@dataclass(frozen=True, slots=True)
class LoadedRecipe:
    """A recipe with where it comes from.

    Attributes:
        recipe: What it says.
        path: Its file.
        sha256: The hash of what it says, with what it extends: comments and order do not count.
    """

    recipe: Recipe
    path: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    table: dict[str, object]
    lines: dict[Key, int]


def shipped_folder() -> Path:
    """Return the folder of the shipped recipes: in the package, or in the source tree."""
    packaged = Path(__file__).parent / "shipped"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "recipes"


def shipped_recipes() -> list[Path]:
    """Return the shipped recipes' files, by name."""
    return sorted(shipped_folder().glob("*.toml"))


def is_recipe(reference: str) -> bool:
    """Whether a reference can only mean a recipe: a TOML file, or a shipped one's name."""
    is_shipped = NAME.fullmatch(reference) and (shipped_folder() / f"{reference}.toml").is_file()
    return reference.endswith(".toml") or bool(is_shipped)


def find_recipe(reference: str) -> Path:
    """Return a recipe's file by its path or by a shipped one's name.

    Raises:
        NotFoundError: There is none.
    """
    path = Path(reference)
    if len(reference) <= _MAX_REFERENCE_CHARS and path.is_file():
        return path
    shipped = shipped_folder() / f"{reference}.toml"
    if NAME.fullmatch(reference) and shipped.is_file():
        return shipped
    names = [found.stem for found in shipped_recipes()]
    close = difflib.get_close_matches(Path(reference).stem.lower(), names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"give a file, or one of: {', '.join(names)}"
    raise NotFoundError(f"no recipe {reference[:80]!r}", hint)


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read and check a recipe.

    Args:
        path: Its file.
        overrides: `KEY=VALUE`, such as `serve.ctx=2048`: said instead of what the file says.

    Raises:
        UsageError: It is no TOML, or a key or value is wrong; all of them are named.
        NotFoundError: What it extends is not there.
    """
    files = _chain(path)
    table: dict[str, object] = {}
    for file in reversed(files):
        table = _merged(table, file.table)
    said = [_override(override) for override in overrides]
    for override in said:
        table = _merged(table, override)
    # A mistake of the command line is not looked for in the files.
    given = [key for override in said for key in _keys(override)]
    tables = {key[:length] for key in given for length in range(1, len(key))}
    files = [_File(Path(_SET), {}, {key: 0 for key in given if key not in tables}), *files]
    table.pop("extends", None)
    try:
        recipe = Recipe.model_validate(table)
    except ValidationError as error:
        problems = [_problem(item, files) for item in error.errors()]
        raise UsageError("\n  ".join(problems), "recipes/README.md has all keys") from None
    whole = json.dumps(recipe.model_dump(), sort_keys=True, ensure_ascii=False)
    return LoadedRecipe(recipe, path, hashlib.sha256(whole.encode()).hexdigest())


def _chain(path: Path) -> list[_File]:
    """Return a recipe's file and those that it extends, itself first."""
    files: list[_File] = []
    while True:
        if any(file.path.samefile(path) for file in files):
            raise UsageError(f"{path} extends itself", "take the circle out")
        if len(files) == _MAX_EXTENDS:
            raise UsageError(f"{files[0].path} extends more than {_MAX_EXTENDS} recipes")
        files.append(_read(path))
        base = files[-1].table.get("extends")
        if base is None:
            return files
        if not isinstance(base, str):
            raise UsageError(f"{path}: extends: give a file or a shipped recipe's name")
        beside = path.parent / base
        path = beside if len(base) <= _MAX_REFERENCE_CHARS and beside.is_file() else _base(base)


def _base(reference: str) -> Path:
    try:
        return find_recipe(reference)
    except NotFoundError as error:
        raise NotFoundError(f"extends: {error.message}", error.hint) from None


def _read(path: Path) -> _File:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError(f"{path} is too large for a recipe")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise NotFoundError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise UsageError(f"{path} is not valid TOML: it is not UTF-8") from None
    try:
        return _File(path, tomllib.loads(text), _lines(text))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None


def _lines(text: str) -> dict[Key, int]:
    """Return the line that every key stands in, counted from 1.

    Each entry is parsed by itself: the least number of lines that is TOML belongs to it.
    """
    lines, found, inside = text.splitlines(), dict[Key, int](), Key()
    number = 0
    while number < len(lines):
        end = number + 1
        while (part := _parsed("\n".join(lines[number:end]))) is None and end < len(lines):
            end += 1
        is_header = lines[number].lstrip().startswith("[")
        for key in _keys(part or {}):
            # `[[variant]]` parses as a list of one; here it is the next of its list.
            if is_header:
                inside = _numbered(key, found)
                found.setdefault(inside, number + 1)
            else:
                found.setdefault(inside + key, number + 1)
        number = end
    return found


def _parsed(text: str) -> dict[str, object] | None:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError):
        return None


def _keys(value: object, path: Key = ()) -> Iterator[Key]:
    """Yield the path of every table, list and value in a value, outer ones first."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, item in cast("dict[str, object]", value).items():
            yield from _keys(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(cast("list[object]", value)):
            yield from _keys(item, (*path, index))


def _numbered(path: Key, found: dict[Key, int]) -> Key:
    *outer, last = path
    while isinstance(last, int) and (*outer, last) in found:
        last += 1
    return (*outer, last)


def _merged(base: dict[str, object], own: dict[str, object]) -> dict[str, object]:
    """Return two tables as one; of a key in both, tables are merged and all else is replaced."""
    merged = dict(base)
    for key, value in own.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            tables = cast("dict[str, object]", below), cast("dict[str, object]", value)
            merged[key] = _merged(*tables)
        else:
            merged[key] = value
    return merged


def _override(text: str) -> dict[str, object]:
    """Read `serve.ctx=2048`; what is no TOML value is a string."""
    key, separator, value = text.partition("=")
    if separator:
        for said in (value, json.dumps(value)):
            if (table := _parsed(f"{key} = {said}")) is not None and "\n" not in text:
                return table
    raise UsageError(f"--set {text!r} sets nothing", "write it like --set serve.ctx=2048")


def _problem(item: ErrorDetails, files: Sequence[_File]) -> str:
    # Of `float | dict`, pydantic names the kind that it tried as well: no key is called so.
    location = tuple(part for part in item["loc"] if not (isinstance(part, str) and "[" in part))
    location = tuple(part for part in location if part not in ("constrained-float", "float"))
    key = ".".join(str(part) for part in location) or "the recipe"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        message = _unknown(location)
    elif item["type"] == "missing":
        message = "is missing"
    return f"{_place(location, files)}: {key}: {message}"


def _unknown(location: Key) -> str:
    first, last = str(location[0]), str(location[-1])
    inside = TABLES.get(first) if len(location) > 1 else Recipe
    known = sorted((inside or Recipe).model_fields)
    close = difflib.get_close_matches(last, known, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"there is no such key; {meant}known: {', '.join(known)}"


def _place(location: Key, files: Sequence[_File]) -> str:
    """Return the file and the line of a key, or of the nearest table around it."""
    for length in range(len(location), 0, -1):
        for file in files:
            if (number := file.lines.get(location[:length])) is not None:
                return f"{file.path}:{number}" if number else _SET
    return str(files[1].path)
