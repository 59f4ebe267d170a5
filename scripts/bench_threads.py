"""What does libgomp's spin wait cost and bring, on an idle machine and on a busy one?

Decodes with the embedded model under several settings, each in a process of its own, alone and
beside busy loops. Prints tokens per second as JSON; docs/threads.md says what was chosen.

Usage: python scripts/bench_threads.py [ROUNDS]
"""

import json
import os
import statistics
import subprocess
import sys

BUSY_LOOPS = (1, 3)
SETTINGS: dict[str, dict[str, str]] = {
    "libgomp's default": {"GOMP_SPINCOUNT": "300000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=100": {"GOMP_SPINCOUNT": "100"},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
}
MEASURE = """
import json, sys, time
from llmedge.bench.run import generate
from llmedge.recipe.demo import embedded_model
from llmedge.runtime.batch import Batch
from llmedge.runtime.context import Context, ContextOptions
from llmedge.runtime.model import Model
n = int(sys.argv[1])
with Model.load(embedded_model()) as m, Context(m, ContextOptions(n_ctx=n)) as c, Batch(8) as b:
    generate(c, b, [7] * 8)
    start = time.perf_counter()
    generate(c, b, [7] * n)
    print(n / (time.perf_counter() - start))
"""


def measure(setting: dict[str, str], n_tokens: int) -> float:
    environ = {name: value for name, value in os.environ.items() if "OMP_" not in name}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(n_tokens)],
        env=environ | setting,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    idle: dict[str, list[float]] = {name: [] for name in SETTINGS}
    busy: dict[int, dict[str, list[float]]] = {
        n_loops: {name: [] for name in SETTINGS} for n_loops in BUSY_LOOPS
    }
    for _ in range(rounds):
        for name, setting in SETTINGS.items():
            idle[name].append(measure(setting, 128))
    for n_loops in BUSY_LOOPS:
        command = [sys.executable, "-c", "while True: pass"]
        loops = [subprocess.Popen(command) for _ in range(n_loops)]
        for _ in range(rounds):
            for name, setting in SETTINGS.items():
                busy[n_loops][name].append(measure(setting, 24))
        for loop in loops:
            loop.kill()
            loop.wait()
    report = {
        "schema": "llmedge.bench_threads/1",
        "rounds": rounds,
        "tokens_per_s": {
            name: {
                "idle": round(statistics.median(idle[name]), 1),
                **{
                    f"beside_{n_loops}_busy_loops": round(statistics.median(rates[name]), 1)
                    for n_loops, rates in busy.items()
                },
            }
            for name in SETTINGS
        },
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
