"""Render docs/cli.md from the command line itself, or say that it is stale.

Usage: python scripts/render_docs.py [--check]
"""

import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer.main

from llmedge.cli.app import app

TARGET = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
HEAD = """# The command line

Rendered by `scripts/render_docs.py` from `llmedge --help`; do not edit.
"""


def render() -> str:
    parts = [HEAD]
    walk(typer.main.get_command(app), "llmedge", parts)
    return "\n".join(parts)


def walk(command: Any, path: str, parts: list[str]) -> None:
    children = getattr(command, "commands", {})
    if not children:
        parts.append(page(command, path))
    for name, child in children.items():
        walk(child, f"{path} {name}", parts)


def page(command: Any, path: str) -> str:
    lines = [f"## `{path}`", "", (command.help or "").strip(), ""]
    rows = [row(parameter) for parameter in command.params if parameter.name != "help"]
    if rows:
        lines += ["| option | default | meaning |", "|:--|:--|:--|", *rows, ""]
    return "\n".join(lines)


def row(parameter: Any) -> str:
    is_option = parameter.param_type_name == "option"
    names = ", ".join(parameter.opts) if is_option else parameter.metavar or parameter.name
    shows_default = is_option and getattr(parameter, "show_default", True)
    no_default = parameter.default is None or parameter.default is False or parameter.required
    default = "" if no_default or not shows_default else f"`{parameter.default}`"
    if isinstance(shows_default, str):  # what stands for a default of None
        default = f"`{shows_default}`"
    annotation = parameter.type_descriptor.annotation
    choices = get_args(annotation) if get_origin(annotation) is Literal else ()
    values = f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""
    return f"| `{names}` | {default} | {(parameter.help or '').strip()}{values} |"


def main() -> None:
    text = render()
    if "--check" not in sys.argv:
        TARGET.write_text(text, encoding="utf-8")
    elif not TARGET.is_file() or TARGET.read_text(encoding="utf-8") != text:
        sys.exit(f"{TARGET.name} is stale: python scripts/render_docs.py")


if __name__ == "__main__":
    main()
