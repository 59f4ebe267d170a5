"""Does llmedge's decode loop cost anything next to a bare one on the same context?

`llmedge bench`'s token generation and a loop of bare `llama_decode` calls alternate on one context.
Prints tokens per second, medians over rounds, and the median ratio as JSON.

Usage: python scripts/bench_decode.py [ROUNDS] [TOKENS]
"""

import json
import statistics
import sys
import time
from collections.abc import Callable

from llmedge.bench.cell import generate
from llmedge.host.load import LoadWatch
from llmedge.recipe.demo import embedded_model
from llmedge.runtime.batch import Batch
from llmedge.runtime.context import Context, ContextOptions
from llmedge.runtime.library import library, library_info
from llmedge.runtime.model import Model


def bare(context: Context, batch: Batch, n_tokens: int) -> None:
    lib, raw, pointer = library(), batch.pointer, context.pointer
    context.clear()
    raw.n_tokens = 1
    raw.n_seq_id[0], raw.seq_id[0][0], raw.logits[0] = 1, 0, True
    for position in range(n_tokens):
        raw.token[0], raw.pos[0] = 7, position
        if lib.llama_decode(pointer, raw):
            sys.exit("llama_decode failed")


def decode(context: Context, batch: Batch, tokens: list[int]) -> None:
    context.clear()
    generate(context, batch, tokens)


def rate(run: Callable[[], None], n_tokens: int) -> float:
    start = time.perf_counter()
    run()
    return n_tokens / (time.perf_counter() - start)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    n_tokens = int(sys.argv[2]) if len(sys.argv) > 2 else 128
    tokens = [7] * n_tokens
    rates: dict[str, list[float]] = {"bare": [], "llmedge": []}
    watch = LoadWatch()
    with (
        Model.load(embedded_model()) as model,
        Context(model, ContextOptions(n_ctx=n_tokens)) as context,
        Batch(context.n_batch) as batch,
    ):
        pair = (
            ("bare", lambda: bare(context, batch, n_tokens)),
            ("llmedge", lambda: decode(context, batch, tokens)),
        )
        for number in range(rounds + 1):
            for key, run in pair if number % 2 else reversed(pair):
                measured = rate(run, n_tokens)
                if number:
                    rates[key].append(measured)
        n_threads = context.n_threads
    ratios = [b / a for a, b in zip(rates["bare"], rates["llmedge"], strict=True)]
    report = {
        "schema": "llmedge.bench_decode/1",
        "rounds": rounds,
        "n_tokens": n_tokens,
        "threads": n_threads,
        "llama_cpp": library_info().label,
        "other_cpu": round(watch.stop().other_cpu, 3),
        "bare_tokens_per_s": round(statistics.median(rates["bare"]), 2),
        "llmedge_tokens_per_s": round(statistics.median(rates["llmedge"]), 2),
        "median_ratio": round(statistics.median(ratios), 4),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
