"""How long do commands take that load no model? Prints the median wall time of each as JSON.

Usage: python scripts/bench_startup.py [ROUNDS]
"""

import json
import statistics
import subprocess
import sys
import time

from llmedge.recipe.demo import embedded_model

COMMANDS = (["--help"], ["list"], ["show", str(embedded_model())], ["--version"])


def seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    command = [sys.executable, "-m", "llmedge", *arguments]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 11
    results = {
        arguments[0]: round(statistics.median(seconds(arguments) for _ in range(rounds)), 3)
        for arguments in COMMANDS
    }
    report = {"schema": "llmedge.bench_startup/1", "rounds": rounds, "median_s": results}
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
