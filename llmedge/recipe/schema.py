"""What a recipe may say: one TOML file a product, checked strictly."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
)

from llmedge.core.errors import LlmedgeError, NotFoundError, UsageError
from llmedge.gguf.mixes import find_mix, require_imatrix

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")
_MAX_REFERENCE_CHARS = 250

Name = Annotated[str, StringConstraints(pattern=f"^{_NAME.pattern}$")]
Repo = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$")]
Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Language = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}$")]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SourceTable(_Table):
    """`[source]`: where the checkpoint comes from."""

    repo: Repo
    revision: Commit | None = None
    gated: bool = False


class VariantTable(_Table):
    """`[[variant]]`: one file to make."""

    mix: str

    @field_validator("mix")
    @classmethod
    def _is_known(cls, mix: str) -> str:
        try:
            return require_imatrix(find_mix(mix), has_imatrix=False).name
        except LlmedgeError as error:
            raise ValueError(f"{error.message}; {error.hint}") from None


class GatesTable(_Table):
    """`[gates]`: what a variant must reach to be kept."""

    max_mean_kld: Annotated[float, Field(gt=0)] | None = None
    min_top1: Annotated[float, Field(gt=0, le=1)] | None = None


class ServeTable(_Table):
    """`[serve]`: how the model is served."""

    ctx: Annotated[int, Field(ge=256)] = 4096
    type_k: Literal["f16", "q8_0"] = "f16"
    type_v: Literal["f16", "q8_0"] = "f16"
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    system: dict[Language, str] = {}


class Recipe(_Table):
    """A recipe."""

    schema_version: Literal[1]
    name: Name
    title: str
    license: str
    languages: Annotated[list[Language], Field(min_length=1)]
    source: SourceTable
    variant: Annotated[list[VariantTable], Field(min_length=1)]
    gates: GatesTable = GatesTable()
    serve: ServeTable = ServeTable()


def shipped_folder() -> Path:
    """Return the folder of the shipped recipes: in the package, or in the source tree."""
    packaged = Path(__file__).parent / "shipped"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "recipes"


def find_recipe(reference: str) -> Path:
    """Return a recipe's file by its path or by a shipped one's name.

    Raises:
        NotFoundError: There is none.
    """
    path = Path(reference)
    if len(reference) <= _MAX_REFERENCE_CHARS and path.is_file():
        return path
    shipped = shipped_folder() / f"{reference}.toml"
    if _NAME.fullmatch(reference) and shipped.is_file():
        return shipped
    names = ", ".join(sorted(found.stem for found in shipped_folder().glob("*.toml")))
    raise NotFoundError(f"no recipe {reference[:80]!r}", f"give a file, or one of: {names}")


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        UsageError: It is no TOML, or a key or value is wrong; all of them are named.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # of TOML, of UTF-8, of numbers
        raise UsageError(f"{path} is not valid TOML: {error}") from None
    try:
        return Recipe.model_validate(table)
    except ValidationError as error:
        problems = [f"{_key(item['loc'])}: {item['msg']}" for item in error.errors()]
        raise UsageError(f"{path}:\n  " + "\n  ".join(problems), "see recipes/README.md") from None


def _key(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location)
