"""`llmedge recipe`."""

from __future__ import annotations

from typing import Annotated

import typer

from llmedge.cli.output import note, write

app = typer.Typer()


@app.callback(invoke_without_command=True)
def recipe_command(context: typer.Context) -> None:
    """Work with recipes: one TOML file a product."""
    if context.invoked_subcommand is None:
        write(context.get_help() + "\n")


@app.command("check")
def check_command(
    recipes: Annotated[list[str], typer.Argument(help="A file, or a shipped recipe's name.")],
) -> None:
    """Check recipes; every mistake is named with its key."""
    from llmedge.recipe.schema import find_recipe, load_recipe

    for reference in recipes:
        recipe = load_recipe(find_recipe(reference))
        mixes = ", ".join(variant.mix for variant in recipe.variant)
        note(f"{recipe.name}: ok ({recipe.title}, {recipe.license}; {mixes})")
