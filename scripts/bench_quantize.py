"""Is quantizing through llmedge as fast as one bare `llama_model_quantize` call?

Both write the same variants of the embedded model, alternating in one run; start-up of the child
process and the dry run are left out. Prints medians and their ratio as JSON.

Usage: python scripts/bench_quantize.py [ROUNDS]
"""

import ctypes
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from llmedge.gguf.mixes import find_mix
from llmedge.gguf.reader import read_header
from llmedge.host.cpu import read_cpu
from llmedge.recipe.demo import embedded_model
from llmedge.runtime.library import library, library_info
from llmedge.runtime.quantizer import Quantizer, QuantizerOptions

MIXES = ("Q4_0", "Q4_K_M", "Q8_0", "Q5_K_M")


def bare(source: Path, target: Path, ftype: int, n_threads: int) -> float:
    """Call the library directly, in a fresh process too: warm memory would be an advantage."""
    command = [sys.executable, __file__, "--bare", source, target, ftype, n_threads]
    done = subprocess.run([str(part) for part in command], capture_output=True, check=True)
    return float(done.stdout)


def call_bare(source: str, target: str, ftype: str, n_threads: str) -> float:
    params = library().llama_model_quantize_default_params()
    params.ftype, params.nthread, params.allow_requantize = int(ftype), int(n_threads), True
    start = time.perf_counter()
    code = library().llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params))
    seconds = time.perf_counter() - start
    if code:
        sys.exit(f"llama_model_quantize failed with {code}")
    return seconds


def ours(source: Path, target: Path, ftype: int, n_threads: int) -> float:
    options = QuantizerOptions(ftype, n_threads, allow_requantize=True)
    with Quantizer(read_header(source), options) as quantizer:
        quantizer.plan()
        start = time.perf_counter()
        quantizer.run(target, lambda _: None)
        return time.perf_counter() - start


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    source, n_threads = embedded_model(), read_cpu().default_threads
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "out.gguf"
        for name in MIXES:
            ftype = find_mix(name).ftype
            times: dict[str, list[float]] = {"bare_s": [], "llmedge_s": []}
            for number in range(rounds + 1):
                pair = (("bare_s", bare), ("llmedge_s", ours))
                for key, run in pair if number % 2 else reversed(pair):
                    seconds = run(source, target, ftype, n_threads)
                    if number:  # the first round warms the page cache
                        times[key].append(seconds)
            medians = {key: round(statistics.median(values), 4) for key, values in times.items()}
            ratios = [b / a for a, b in zip(times["bare_s"], times["llmedge_s"], strict=True)]
            results[name] = {**medians, "median_ratio": round(statistics.median(ratios), 4)}
    report = {
        "schema": "llmedge.bench_quantize/1",
        "rounds": rounds,
        "threads": n_threads,
        "llama_cpp": library_info().label,
        "results": results,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--bare"]:
        print(call_bare(*sys.argv[2:]))
    else:
        main()
