"""What does an importance matrix cost next to a plain decode of the same tokens?

Both decode the same pieces of text in the same batches, in turn, on contexts of one model: plain,
once with the logits of every token and once with those of the last, and with everything watched as
`llmedge imatrix` does it. Prints CPU seconds, medians over rounds, and their ratios as JSON.

Usage: python scripts/bench_imatrix.py [MODEL.gguf] [--rounds N] [--chunks N] [--threads N]
"""

import argparse
import contextlib
import json
import statistics
import time
from pathlib import Path

from llmedge.host.load import LoadWatch
from llmedge.measure.calibration import CalibrationChunk, CalibrationOptions, select_chunks
from llmedge.measure.logits import rows_at_once
from llmedge.measure.model_text import ModelText
from llmedge.quantize.collect import OUTPUTS
from llmedge.quantize.collector import Collector
from llmedge.recipe.demo import embedded_model
from llmedge.runtime.batch import Batch
from llmedge.runtime.context import Context, ContextOptions, DecodeResult
from llmedge.runtime.library import library_info
from llmedge.runtime.model import Model
from llmedge.runtime.observer import Observation

N_CTX = 512


def decode(context: Context, chunks: tuple[CalibrationChunk, ...], *, all_logits: bool) -> float:
    """Decode the chunks and return the CPU seconds that it took, those of all threads."""
    start = time.process_time()
    with Batch(context.n_batch) as batch:
        for chunk in chunks:
            context.clear()
            for at in range(0, N_CTX, batch.n_max):
                part = chunk.tokens[at : at + batch.n_max]
                batch.fill(part, at, n_logits=len(part) if all_logits else 1)
                if context.decode(batch) is not DecodeResult.OK:
                    raise SystemExit("the context is too small")
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU of an importance matrix, as JSON")
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--chunks", type=int, default=4)
    parser.add_argument("--threads", type=int)
    flags = parser.parse_args()
    seconds: dict[str, list[float]] = {"plain": [], "plain_last_logits": [], "imatrix": []}
    watch = LoadWatch()
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(Model.load(flags.model or embedded_model()))
        options = CalibrationOptions({"en": 1.0, "code": 1.0}, n_tokens=flags.chunks * N_CTX)
        chunks = select_chunks(ModelText(model), options)
        n_parts = -(-N_CTX // rows_at_once(model.vocab.n_tokens, N_CTX))
        n_rows = -(-N_CTX // n_parts)
        shape = ContextOptions(
            n_ctx=N_CTX, n_batch=n_rows, n_ubatch=n_rows, n_threads=flags.threads
        )
        plain = stack.enter_context(Context(model, shape))
        collector = Collector([tensor.name for tensor in model.header.tensors])
        watched = stack.enter_context(Context(model, shape, Observation(collector, OUTPUTS)))
        for number in range(flags.rounds + 1):
            measured = {
                "plain": decode(plain, chunks, all_logits=True),
                "imatrix": decode(watched, chunks, all_logits=True),
                "plain_last_logits": decode(plain, chunks, all_logits=False),
            }
            for key, value in measured.items() if number else ():
                seconds[key].append(value)
        name, n_threads = model.path.name, watched.n_threads
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    report: dict[str, object] = {
        "schema": "llmedge.bench_imatrix/1",
        "model": name,
        "rounds": flags.rounds,
        "n_tokens": len(chunks) * N_CTX,
        "n_batch": n_rows,
        "threads": n_threads,
        "llama_cpp": library_info().label,
        "other_cpu": round(watch.stop().other_cpu, 3),
        "cpu_s": {key: round(value, 3) for key, value in medians.items()},
        "of_plain": round(medians["imatrix"] / medians["plain"], 3),
        "of_plain_last_logits": round(medians["imatrix"] / medians["plain_last_logits"], 3),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
