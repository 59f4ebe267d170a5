"""A GGUF file's header from the Hub: enough to judge a model, without its weights."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from llmedge.core.errors import IntegrityError, NotFoundError, UnsupportedError
from llmedge.gguf.reader import read_header
from llmedge.pull.line import Line
from llmedge.pull.remote_file import RangeFile
from llmedge.store.gguf_names import choose_gguf, model_files

if TYPE_CHECKING:
    from pathlib import Path

    from llmedge.gguf.reader import Header
    from llmedge.hub.client import Hub
    from llmedge.store.reference import HubReference

_FIRST_BYTES = 1 << 20
_MAX_BYTES = 256 << 20  # no header is longer


def fetch_header(hub: Hub, reference: HubReference, folder: Path) -> Header:
    """Return the header of a GGUF file on the Hub.

    What is asked for doubles until the header is whole: twice its size at most comes over the line.
    The file that the header names is as long as the one on the Hub, with a hole for its weights.

    Args:
        hub: Where it is.
        reference: The repository and the variant.
        folder: Where the file is put; it takes the header's size of the disk.

    Raises:
        NetworkError: The Hub is out of reach, or refuses.
        NotFoundError: There is no such repository, revision or variant, or it has no GGUF file.
        UnsupportedError: The model is split into several files.
        IntegrityError: The file is damaged.
    """
    repository = hub.describe(reference.repo, reference.revision)
    paths = [file.path for file in repository.files]
    if not model_files(paths):
        raise NotFoundError(
            f"{repository.repo} has no GGUF file to judge",
            f"llmedge pull {repository.repo}, then check a variant made of it",
        )
    chosen = choose_gguf(repository.repo, paths, reference.variant)
    if len(chosen) > 1:
        raise UnsupportedError(
            f"{chosen[0]} is one of {len(chosen)} parts of a model",
            f"llmedge pull {reference}, then check it",
        )
    file = next(file for file in repository.files if file.path == chosen[0])
    remote = RangeFile(hub, repository, file, Line())
    return _fetch(remote, folder / PurePosixPath(file.path).name)


def _fetch(remote: RangeFile, path: Path) -> Header:
    n_bytes, wanted = 0, min(_FIRST_BYTES, remote.n_bytes)
    while True:
        with path.open("r+b" if n_bytes else "wb") as copy:
            copy.seek(n_bytes)
            copy.write(remote.read(n_bytes, wanted - n_bytes))
            copy.truncate(remote.n_bytes)  # a hole: it takes no disk
        n_bytes = wanted
        try:
            header = read_header(path)
            # What is not here yet reads as zeros: only a header that ends before them is one.
            if header.data_offset <= n_bytes:
                return header
        except IntegrityError:
            if n_bytes >= min(remote.n_bytes, _MAX_BYTES):
                raise
        wanted = min(2 * n_bytes, remote.n_bytes)
