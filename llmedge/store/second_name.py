"""A model under a second name, where another program looks for it: the same bytes, no copy."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from llmedge.core.errors import NotFoundError, ResourceError, UnsupportedError, UsageError
from llmedge.store.atomic import make_folder, replacing
from llmedge.store.gguf_names import part_names
from llmedge.store.hf_cache import list_repositories
from llmedge.store.reference import model_name

if TYPE_CHECKING:
    from llmedge.core.settings import Settings

Means: TypeAlias = Literal["hard link", "symbolic link", "copy", "there already"]
_OWN_PUBLISHER = "llmedge"


@dataclass(frozen=True, slots=True)
class SecondName:
    """A file under its second name.

    Attributes:
        path: The second name.
        means: How it came there.
    """

    path: Path
    means: Means


def lm_studio_folder(settings: Settings, model: Path, home: Path) -> Path:
    """Return where LM Studio looks for a model: `models/PUBLISHER/NAME` in its own folder.

    Source: LM Studio's documentation, "Import models"; the pointer is what it leaves in the user's
    home when its folder was moved.

    Args:
        settings: To tell what was pulled from the Hub, and from whom.
        model: The model's file.
        home: The user's home.

    Raises:
        NotFoundError: LM Studio never ran here.
    """
    own = _lm_studio_home(home)
    for repository in list_repositories(settings.hf_cache):
        if model.is_relative_to(repository.folder):
            return own / "models" / repository.repo
    return own / "models" / _OWN_PUBLISHER / model_name(model)


def require_folder(asked: str, model: Path) -> Path:
    """Return a folder that was named, if it is one.

    Raises:
        NotFoundError: It is not there.
        UnsupportedError: It is the name of a program that takes no links.
    """
    folder = Path(asked).expanduser()
    if folder.is_dir():
        return folder
    if asked == "ollama":
        raise UnsupportedError(
            "Ollama reads no model files of others: it keeps copies in a form of its own",
            f"write `FROM {model}` into a Modelfile, then: ollama create NAME -f Modelfile",
        )
    if asked == "llama.cpp":
        raise UnsupportedError(
            "llama.cpp has no folder for models",
            f"llama-server -m {model}; or --to FOLDER, and llama-server --models-dir FOLDER",
        )
    raise NotFoundError(f"{asked} is not a folder", "make it first, or write --to lmstudio")


def give_second_name(model: Path, folder: Path, *, may_copy: bool = False) -> list[SecondName]:
    """Show a model, with every part of a split one, in another folder.

    A hard link where both are on one disk: either name may be deleted. Elsewhere a symbolic link,
    which ends with the first name, or a copy where that is wanted.

    Raises:
        NotFoundError: A part is missing.
        ResourceError: The system makes no links there, or the disk is full.
        UsageError: Another file has the name.
    """
    parts = _parts(model)
    for part in parts:  # all of them, or none
        _is_there(part, folder / part.name)
    return [
        SecondName(folder / part.name, _show(part, folder, may_copy=may_copy)) for part in parts
    ]


def _lm_studio_home(home: Path) -> Path:
    places = [home / ".lmstudio", home / ".cache" / "lm-studio"]
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = (home / ".lmstudio-home-pointer").read_text(encoding="utf-8").strip()
        places.insert(0, home / text)  # an absolute path stays as it is
    for place in places:
        if place != home and place.is_dir():
            return place
    raise NotFoundError("LM Studio has no folder here", "start it once, or name a folder with --to")


def _parts(model: Path) -> list[Path]:
    parts = [model.with_name(name) for name in part_names(model.name)]
    for part in parts:
        if not part.is_file():
            raise NotFoundError(
                f"{part.name} is missing beside {model.name}", "pull the model again"
            )
    return parts


def _is_there(part: Path, target: Path) -> bool:
    if not os.path.lexists(target):
        return False
    if target.exists() and target.samefile(part):
        return True
    what = "a broken link" if not target.exists() else "another file"
    raise UsageError(f"{target} exists and is {what}", "move it away, or name another folder")


def _show(part: Path, folder: Path, *, may_copy: bool) -> Means:
    target = folder / part.name
    if _is_there(part, target):
        return "there already"
    make_folder(folder)
    source = part.resolve()  # the bytes, not the cache's own link to them
    with contextlib.suppress(OSError):
        os.link(source, target)
        return "hard link"
    if may_copy:
        with replacing(target) as partial:
            shutil.copyfile(source, partial)
        return "copy"
    try:
        target.symlink_to(source)
    except FileExistsError:
        raise UsageError(f"{target} was just made by somebody else", "look at it first") from None
    except OSError as error:
        raise ResourceError(
            f"no link to {part.name} can be made in {folder}: {error.strerror}",
            "add --copy to have its bytes twice",
        ) from None
    return "symbolic link"
