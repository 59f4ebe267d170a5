"""`llmedge recipe`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmedge.cli.output import note, write
from llmedge.core.errors import UsageError

if TYPE_CHECKING:
    from llmedge.pull.run import PullReport
    from llmedge.store.reference import HubReference

app = typer.Typer()

_Recipe = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A file, or a shipped recipe's name.")
]
_Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="File to write; stdout by default.", show_default=False),
]


@app.callback(invoke_without_command=True)
def recipe_command(context: typer.Context) -> None:
    """Work with recipes: one TOML file a product."""
    if context.invoked_subcommand is None:
        write(context.get_help() + "\n")


@app.command("check")
def check_command(
    recipes: Annotated[list[str], typer.Argument(help="A file, or a shipped recipe's name.")],
) -> None:
    """Check recipes; every mistake is named with its file, line and key."""
    from llmedge.convert.registry import BY_CLASS
    from llmedge.core.errors import UnsupportedError
    from llmedge.recipe.load import find_recipe, load_recipe

    for reference in recipes:
        recipe = load_recipe(find_recipe(reference)).recipe
        architecture = recipe.source.architecture
        if architecture is not None and architecture not in BY_CLASS:
            raise UnsupportedError(
                f"{recipe.name}: llmedge converts no {architecture}",
                "`llmedge convert --list-architectures` shows what it converts",
            )
        mixes = ", ".join(variant.label for variant in recipe.variant)
        note(f"{recipe.name}: ok ({recipe.title}, {recipe.license}; {mixes})")
        if recipe.source.revision is None:
            note(f"  no commit is pinned: llmedge recipe lock {reference}")


@app.command("show")
def show_command(
    recipe: _Recipe,
    *,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Say something else; may be repeated."),
    ] = None,
) -> None:
    """Print a recipe whole: with what it extends and what --set says."""
    from llmedge.recipe.export import as_toml
    from llmedge.recipe.load import find_recipe, load_recipe

    write(as_toml(load_recipe(find_recipe(recipe), set_ or ()).recipe))


@app.command("schema")
def schema_command() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from llmedge.recipe.schema import Recipe

    write(json.dumps(Recipe.model_json_schema(), indent=2) + "\n")


@app.command("new")
def new_command(
    repo: Annotated[str, typer.Argument(metavar="ORG/NAME", help="A checkpoint on the Hub.")],
    output: _Output = None,
    *,
    lang: Annotated[str, typer.Option(help="Languages of the product.")] = "en",
) -> None:
    """Write a recipe to begin with, from what the Hub says of a checkpoint."""
    from llmedge.recipe.export import as_new
    from llmedge.recipe.stage_work import Pulled, read_architecture
    from llmedge.store.reference import HubReference, model_name, parse_reference

    reference = parse_reference(repo)
    if not isinstance(reference, HubReference):
        raise UsageError(f"{repo!r} is nothing on the hub", "llmedge recipe new ORG/NAME")
    report = _look(reference, "config.json")
    facts = {
        "name": model_name(Path(f"{report.repo.partition('/')[2]}.gguf")),
        "license": report.license,
        "commit": report.commit,
        "architecture": read_architecture(Pulled(report.repo, report.commit, str(report.folder))),
    }
    languages = [code.strip() for code in lang.split(",")]
    _give(as_new(report.repo, facts, languages), output)


@app.command("lock")
def lock_command(recipe: _Recipe, output: _Output = None) -> None:
    """Pin a recipe to the commit that the Hub has now, and to what each file hashes to.

    What is written is a recipe that extends the given one.
    """
    from llmedge.cli.pull import PullFlags, fetch
    from llmedge.core.settings import load_settings
    from llmedge.recipe.export import as_lock
    from llmedge.recipe.load import find_recipe, load_recipe, shipped_folder
    from llmedge.store.reference import HubReference

    path = find_recipe(recipe)
    source = load_recipe(path).recipe.source
    flags = PullFlags(list(source.include), list(source.exclude), dry_run=True)
    report = fetch(HubReference(source.repo), load_settings(), flags)
    is_shipped = path.parent == shipped_folder()
    base = path.stem if is_shipped else str(path.resolve() if output else path)
    if output is not None and not is_shipped and output.parent.resolve() == path.parent.resolve():
        base = path.name
    _give(as_lock(base, report.commit, {file.path: file.oid for file in report.files}), output)


@app.command("export")
def export_command(
    recipe: _Recipe,
    output: _Output = None,
    *,
    modelfile: Annotated[bool, typer.Option("--modelfile", help="For Ollama.")] = False,
    model_yaml: Annotated[bool, typer.Option("--model-yaml", help="For LM Studio.")] = False,
    preset_ini: Annotated[bool, typer.Option("--preset-ini", help="For llama-server.")] = False,
) -> None:
    """Write what a recipe says of serving in another program's words.

    The file that it names is the variant in the store, or where that is not made yet its name.
    """
    from llmedge.core.settings import load_settings
    from llmedge.recipe.export import as_model_yaml, as_modelfile, as_preset_ini
    from llmedge.recipe.load import find_recipe, load_recipe
    from llmedge.store.catalog import variant_path

    if modelfile + model_yaml + preset_ini != 1:
        raise UsageError("say for whom", "one of --modelfile, --model-yaml, --preset-ini")
    said = load_recipe(find_recipe(recipe)).recipe
    path = variant_path(load_settings(), said.name, said.served)
    file = str(path) if path.is_file() else f"./{path.name}"
    if modelfile:
        text = as_modelfile(said, file)
    else:
        text = as_preset_ini(said, file) if preset_ini else as_model_yaml(said)
    _give(text, output)


def _look(reference: HubReference, name: str) -> PullReport:
    """Fetch one small file, and with it what the Hub says of its repository."""
    from llmedge.cli.pull import PullFlags, fetch
    from llmedge.core.settings import load_settings

    return fetch(reference, load_settings(), PullFlags(include=[name]))


def _give(text: str, output: Path | None) -> None:
    """Write a text to a file that is not there yet, or to stdout."""
    from llmedge.store.atomic import require_new, write_bytes

    if output is None:
        write(text)
        return
    require_new(output, overwrite=False)
    write_bytes(output, text.encode())
    note(str(output))
