"""`llmedge up`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from llmedge.cli.calibration import CalibrationFlags
from llmedge.cli.options import RunFlags, grouped
from llmedge.cli.output import make_progress, note
from llmedge.cli.pull import HubSource, LineFlags
from llmedge.cli.run import run_recipe
from llmedge.cli.serve import EndpointFlags, serve_files
from llmedge.core.errors import UsageError

if TYPE_CHECKING:
    from llmedge.core.settings import Settings


@grouped
def up_command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|RECIPE",
            help="name:Q4_K_M, ORG/NAME:Q4_K_M, ./file.gguf; or a recipe: its name, ./file.toml.",
            show_default=False,
        ),
    ],
    *,
    lang: Annotated[
        str | None,
        typer.Option(
            help="Languages of the product, hi,ta,en, which a variant made here is calibrated on.",
            show_default=False,
        ),
    ] = None,
    line: LineFlags,
    endpoint: EndpointFlags,
    run: RunFlags,
) -> None:
    """Serve a model, and first pull, convert and quantize whatever is not here yet.

    Of ORG/NAME:VARIANT, a GGUF file that the repository has, else the variant made of its weights.
    Of a recipe, all its stages run, and what it says of context and cache is how it is served.
    """
    from llmedge.core.settings import load_settings
    from llmedge.recipe.load import is_recipe
    from llmedge.recipe.up import make_ready
    from llmedge.store.reference import parse_reference

    if endpoint.models_dir is not None:
        raise UsageError("up serves one model, not --models-dir", "llmedge serve --models-dir …")
    settings = load_settings()
    if is_recipe(model) and not _is_users_own(model, settings):
        if lang is not None:
            raise UsageError("a recipe says its languages itself", "leave --lang away")
        _serve_recipe(model, line, endpoint, run)
        return
    options = endpoint.serve_options(run, settings)  # refused now, not after the gigabytes
    source = HubSource(settings, line.pull_flags())
    texts = CalibrationFlags(lang=lang).calibration_options()
    reference = parse_reference(model)
    path = make_ready(reference, source, texts, settings, make_progress(), note)
    serve_files([path], endpoint, options, settings)


def _is_users_own(name: str, settings: Settings) -> bool:
    """Whether the store has a model called like a recipe, which no recipe made."""
    from llmedge.store.catalog import list_entries

    entries = [entry for entry in list_entries(settings) if entry.name == name]
    return any(entry.manifest is None or entry.manifest.recipe is None for entry in entries)


def _serve_recipe(reference: str, line: LineFlags, endpoint: EndpointFlags, run: RunFlags) -> None:
    from llmedge.core.settings import load_settings
    from llmedge.recipe.gates import require_passed
    from llmedge.recipe.load import find_recipe, load_recipe
    from llmedge.recipe.run import RunOptions
    from llmedge.store.catalog import variant_path

    loaded, settings = load_recipe(find_recipe(reference)), load_settings()
    serve = loaded.recipe.serve
    flags = replace(run, ctx=run.ctx or serve.ctx, type_k=serve.type_k, type_v=serve.type_v)
    options = endpoint.serve_options(flags, settings)  # refused now, not after the gigabytes
    # What has been made before is served where there is no line, too.
    options_of_run = RunOptions(resume=True, n_threads=run.threads)
    record, _ = run_recipe(loaded, options_of_run, line, settings)
    require_passed(record)
    path = variant_path(settings, record.recipe, record.served)
    serve_files([path], endpoint, options, settings)
