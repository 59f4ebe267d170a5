"""`llmedge recipe`."""

from __future__ import annotations

from typing import Annotated

import typer

from llmedge.cli.output import note

app = typer.Typer(no_args_is_help=True, help="Work with recipes.")


@app.callback()
def recipe_command() -> None:
    """Work with recipes: one TOML file a product."""


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
