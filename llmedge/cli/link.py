"""`llmedge link`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmedge.cli.options import ModelArgument, ShowFlags, grouped
from llmedge.cli.output import Table, note, show_results


@grouped
def link_command(
    model: ModelArgument,
    *,
    to: Annotated[
        str,
        typer.Option(
            metavar="lmstudio|FOLDER",
            help="LM Studio's models, or any folder: llama-server --models-dir FOLDER.",
            show_default=False,
        ),
    ],
    copy: Annotated[
        bool, typer.Option("--copy", help="Copy where no hard link can be made: to another disk.")
    ] = False,
    show: ShowFlags,
) -> None:
    """Show a model to another program under a second name, without a second copy."""
    from llmedge.core.settings import load_settings
    from llmedge.store.catalog import resolve
    from llmedge.store.reference import parse_reference
    from llmedge.store.second_name import give_second_name, lm_studio_folder, require_folder

    settings = load_settings()
    path = resolve(settings, parse_reference(model)).absolute()
    if to == "lmstudio":
        folder = lm_studio_folder(settings, path, Path.home())
    else:
        folder = require_folder(to, path)
    found = give_second_name(path, folder, may_copy=copy)
    rows = [(str(each.path), each.means) for each in found]
    show_results("link", found, Table(("file", "by"), rows), show.chosen)
    if any(each.means == "symbolic link" for each in found):
        note("a symbolic link ends with the model: `llmedge rm` leaves it pointing nowhere")
