"""Render the table in recipes/README.md from the recipes and the records of their runs.

Records lie in recipes/measured/NAME.json: `llmedge run NAME` on an idle machine writes one.

Usage: python scripts/render_recipes.py [--check]
"""

import sys
from pathlib import Path

from llmedge.core.units import format_mb, format_mib
from llmedge.recipe.gates import describe_gates
from llmedge.recipe.load import load_recipe, shipped_recipes
from llmedge.store.run_records import read_run

TARGET = Path(__file__).resolve().parent.parent / "recipes" / "README.md"
BEGIN, END = "<!-- rendered by scripts/render_recipes.py -->\n", "<!-- end -->\n"
HEAD = "| recipe | licence | languages | devices | measured |\n|:--|:--|:--|:--|:--|\n"


def render() -> str:
    return BEGIN + HEAD + "".join(row(path) for path in shipped_recipes()) + END


def row(path: Path) -> str:
    recipe = load_recipe(path).recipe
    gates = [gate for gate in describe_gates(recipe) if not gate.startswith("runs on ")]
    cells = (
        f"[{recipe.name}]({path.name})",
        recipe.license,
        " ".join(recipe.languages),
        ", ".join(recipe.devices),
        measured(path) + "".join(f"; {gate}" for gate in gates),
    )
    return f"| {' | '.join(cells)} |\n"


def measured(path: Path) -> str:
    record = path.parent / "measured" / f"{path.stem}.json"
    if not record.is_file():
        return "unmeasured"
    run = read_run(record)
    found: list[str] = []
    for item in run.variants:
        losses = ", ".join(f"KLD {q.mean_kld:.4f} in {q.text}" for q in item.quality)
        speed = ""
        if item.speed:
            memory = format_mib(item.speed.resident_bytes)
            speed = f", {item.speed.tg_per_s:.0f} tokens/s, {memory} resident"
        found.append(f"{item.variant}: {format_mb(item.file_bytes)}, {losses}{speed}")
    return f"{'; '.join(found)} ({run.machine['processor']}, {run.started[:10]})"


def main() -> None:
    text = TARGET.read_text(encoding="utf-8")
    begin, end = text.index(BEGIN), text.index(END) + len(END)
    fresh = text[:begin] + render() + text[end:]
    if "--check" not in sys.argv:
        TARGET.write_text(fresh, encoding="utf-8")
    elif fresh != text:
        sys.exit(f"{TARGET} is stale: run python scripts/render_recipes.py")


if __name__ == "__main__":
    main()
