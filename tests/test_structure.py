"""What the house promises of itself: layers, sizes, duties, and a start that loads little."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "llmedge"
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = ("llama_cpp", "transformers", "torch", "huggingface_hub", "numpy", "tokenizers")


def contracts() -> list[dict[str, object]]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["tool"]["importlinter"]["contracts"]


def layers() -> list[list[str]]:
    lines = next(contract for contract in contracts() if contract["id"] == "layers")["layers"]
    return [[name.strip() for name in line.split("|")] for line in lines]  # type: ignore[union-attr]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_has_a_duty_and_at_most_400_lines(path: Path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    duty = (ast.get_docstring(ast.parse(text)) or "").splitlines()
    assert duty
    assert duty[0].endswith((".", ":", "?")), duty[0]


def test_every_package_stands_in_the_layers_and_the_other_way_round():
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages == {name for line in layers() for name in line}


def test_the_architecture_page_shows_the_layers_in_their_order():
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)/` \|", page, flags=re.MULTILINE)
    assert rows == [name for line in layers() for name in line]


def test_the_architecture_page_names_the_only_importers():
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    for contract in contracts():
        if contract["type"] != "protected":
            continue
        importers = {str(name).split(".")[1] for name in contract["allowed_importers"]}  # type: ignore[union-attr]
        for module in contract["protected_modules"]:  # type: ignore[union-attr]
            (row,) = [line for line in page.splitlines() if line.startswith(f"| `{module}` |")]
            assert set(re.findall(r"`(\w+)/`", row)) == importers


def test_the_architecture_page_knows_every_verb():
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "llmedge", "--help"], capture_output=True, text=True
    )
    verbs = re.findall(r"^  (\w+)  ", done.stdout.partition("Commands:")[2], flags=re.MULTILINE)
    assert len(verbs) > 9
    for verb in verbs:
        assert f"`{verb}`" in page


def test_importing_the_command_line_loads_nothing_heavy():
    code = "import sys, llmedge.cli.app; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & set(HEAVY)


def test_only_the_settings_read_the_environment():
    readers = [
        path
        for path in MODULES
        if re.search(
            r"os\.(environ\b(?!\[\"GGML_NO_BACKTRACE\"\] =)|getenv)",
            path.read_text(encoding="utf-8"),
        )
    ]
    assert readers == [PACKAGE / "core" / "settings.py"]


def test_only_the_output_module_writes_to_the_terminal():
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        if path.relative_to(PACKAGE).parts[0] != "cli":
            assert "sys.stdout.write" not in text
            assert "rich" not in re.findall(r"^(?:from|import) (\w+)", text, flags=re.MULTILINE)


def test_tests_mirror_the_package():
    untested = []
    for path in MODULES:
        relative = path.relative_to(PACKAGE)
        if path.name.startswith("__") or len(relative.parts) == 1:
            continue
        names = " ".join(
            test.read_text(encoding="utf-8") for test in (ROOT / "tests").rglob("*.py")
        )
        dotted = "llmedge." + ".".join(relative.with_suffix("").parts)
        # Every class of the table of architectures is in test_parity, every guard in test_guards.
        is_of_the_table = path.name.startswith(("arch_", "edits_"))
        if dotted not in names and relative.parts[0] != "cli" and not is_of_the_table:
            untested.append(dotted)
    assert untested == []
