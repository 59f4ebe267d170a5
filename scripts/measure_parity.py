"""How closely does llama.cpp follow each registered class? Writes llmedge/convert/parity.json.

Runs every checkpoint of tests/convert/cases.py and keeps the worst figures of each class; ends with
an error when one is out of bounds. Usage: python scripts/measure_parity.py
"""

import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main() -> None:
    from tests.convert.cases import CASES
    from tests.convert.parity import difference

    worst: dict[str, dict[str, float]] = {}
    failed: list[str] = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            measured = difference(case, Path(folder))
        if not measured.is_within(case.tolerance):
            failed.append(case.name)
        row = worst.setdefault(
            case.converted_class, {"argmax": 1.0, "kl": 0.0, "cosine": 1.0, "relative": 0.0}
        )
        row["argmax"] = min(row["argmax"], measured.argmax)
        row["cosine"] = min(row["cosine"], round(measured.cosine, 9))
        row["kl"] = max(row["kl"], float(f"{max(measured.kl, 0):.2g}"))
        row["relative"] = max(row["relative"], float(f"{measured.relative:.2g}"))
    if failed:
        sys.exit(f"out of bounds: {', '.join(failed)}")
    target = ROOT / "llmedge" / "convert" / "parity.json"
    target.write_text(json.dumps(dict(sorted(worst.items())), indent=2) + "\n")
    print(f"{len(worst)} classes, {len(CASES)} checkpoints")


if __name__ == "__main__":
    main()
