"""What do plans, importance matrices and their text gain, and what do they cost?

  smollm2    at the size of Q4_K_M, Q4_K_S and Q3_K_M: a measured plan against the mix, both with
             the same importance matrix, on held-out text; CPU seconds of the trials
  gemma3     the same on Gemma 3 270M
  languages  Gemma 3 270M as Q4_K_M: an importance matrix of the languages of the test against one
             of English only, language by language
  trials     CPU seconds of measuring every tensor of SmolLM2 as it is, rows of 576
  none       SmolLM2 as Q4_K_M: with an importance matrix against without
  memory     peak memory of quantizing a model of 1.2 billion weights, against llama-quantize with
             the same buffer (LLMEDGE_TEST_LLAMA_TOOLS names the folder of that program)

Prints JSON. Usage: python scripts/bench_quality.py [PART …] [--folder DIR]
Everything measured is kept in the folder, and not measured again.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import reference_models
from bench_convert import SHAPES, Tree, fetch_vocabulary, make_checkpoint, run_convert

from llmedge.core.progress import SilentProgress
from llmedge.core.settings import Settings, load_settings
from llmedge.gguf.mixes import find_mix
from llmedge.measure.calibration import PRESETS, CalibrationOptions
from llmedge.measure.comparison import CompareOptions, compare, paired_difference
from llmedge.measure.corpus import shipped_corpus
from llmedge.quantize.execute import quantize
from llmedge.quantize.imatrix import ImatrixOptions, collect_imatrix
from llmedge.quantize.job import QuantizeOptions
from llmedge.quantize.search import SearchOptions, search
from llmedge.quantize.target import Target
from llmedge.quantize.working_copy import Measured
from llmedge.runtime.context import ContextOptions
from llmedge.runtime.model import ModelOptions

MIXES = ("Q4_K_M", "Q4_K_S", "Q3_K_M")
# What each model knows.
SMOLLM2 = {"en": 0.4, "code": 0.2, "maths": 0.2, "chat": 0.2}
GEMMA3 = {"en": 0.25, "hi": 0.25, "ta": 0.25, "bn": 0.25}
LANGUAGES: tuple[str, ...] = ("hi", "ta", "bn", "te", "mr")
BUFFER = "256MiB"
CHUNKS = CompareOptions(max_chunks=8, model=ModelOptions(), context=ContextOptions(n_ctx=512))


@dataclasses.dataclass(frozen=True)
class Bench:
    """Where everything lies."""

    folder: Path
    settings: Settings
    tools: Path | None = None

    def model(self, name: str) -> Path:
        """Return a 16-bit model, made once."""
        path = self.folder / f"{name}-F16.gguf"
        return path if path.exists() else reference_models.MODELS[name](path)

    def imatrix(self, source: Path, weights: Mapping[str, float]) -> tuple[Path, float]:
        """Return an importance matrix, and the CPU seconds that it took now."""
        start = cpu_s()
        options = ImatrixOptions(CalibrationOptions(weights))
        report = collect_imatrix(source, options, self.settings, SilentProgress())
        return report.path, cpu_s() - start

    def variant(self, source: Path, mix: str, imatrix: Path | None, name: str) -> Path:
        """Return a variant, made once."""
        path = self.folder / f"{source.stem}-{name}.gguf"
        if not path.exists():
            options = QuantizeOptions(output=path, imatrix=imatrix)
            quantize(source, find_mix(mix), options, self.settings, SilentProgress())
        return path


def cpu_s() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def bench_plans(bench: Bench, name: str, weights: Mapping[str, float]) -> dict[str, Any]:
    source = bench.model(name)
    imatrix, imatrix_cpu_s = bench.imatrix(source, weights)
    rows: dict[str, Any] = {}
    rejected = 0
    measuring_cpu_s = 0.0
    for number, mix in enumerate(MIXES):
        size = bench.variant(source, mix, imatrix, mix).stat().st_size
        target = Target("size", size, f"{mix}-SIZE")
        start = cpu_s()
        options = SearchOptions(
            target,
            "generic",
            CalibrationOptions(weights),
            QuantizeOptions(output=bench.folder, overwrite=True, imatrix=imatrix, dry_run=True),
        )
        files = Measured(source, source)
        search(source, files, options, bench.settings, SilentProgress())
        if number == 0:
            measuring_cpu_s = cpu_s() - start
        real = dataclasses.replace(options.quantize, dry_run=False)
        options = dataclasses.replace(options, quantize=real)
        report = search(source, files, options, bench.settings, SilentProgress())
        if not (report.plan and report.stock and report.difference):
            sys.exit(f"there is no mix of the size of {mix}")
        rejected += not report.is_plan
        plan_bytes = report.variant.file_bytes if report.is_plan else None
        rows[mix] = {
            "stock": report.stock_mix,
            "stock_bytes": size,
            "plan_bytes": plan_bytes,
            "stock_kld": round(report.stock.mean_kld, 5),
            "plan_kld": round(report.plan.mean_kld, 5),
            "change": round(report.plan.mean_kld / report.stock.mean_kld - 1, 4),
            "difference_a_chunk_95": [round(value, 5) for value in report.difference],
            "by_text": {
                text: [round(report.stock.klds[text], 5), round(report.plan.klds[text], 5)]
                for text in report.plan.klds
            },
            "top1": [round(report.stock.top1_agreement, 4), round(report.plan.top1_agreement, 4)],
            "types": dict(report.variant.types),
        }
    return {
        "imatrix_cpu_s": round(imatrix_cpu_s, 1),
        "measuring_cpu_s": round(measuring_cpu_s, 1),
        "rejected_plans": f"{rejected} of {len(MIXES)}",
        "sizes": rows,
    }


def bench_trials(bench: Bench) -> dict[str, Any]:
    source = bench.model("smollm2-narrow")
    imatrix, imatrix_cpu_s = bench.imatrix(source, SMOLLM2)
    options = SearchOptions(
        Target("bpw", 6.0, "6BPW"),
        "generic",
        CalibrationOptions(SMOLLM2),
        QuantizeOptions(output=bench.folder, imatrix=imatrix, dry_run=True),
    )
    start = cpu_s()
    search(source, Measured(source, source), options, bench.settings, SilentProgress())
    return {
        "imatrix_cpu_s": round(imatrix_cpu_s, 1),
        "measuring_cpu_s": round(cpu_s() - start, 1),
    }


def bench_languages(bench: Bench) -> dict[str, Any]:
    source = bench.model("gemma3")
    own = dict.fromkeys(LANGUAGES, 1.0)
    variants = {
        label: bench.variant(source, "Q4_K_M", bench.imatrix(source, weights)[0], f"Q4_K_M-{label}")
        for label, weights in (("own", own), ("english", PRESETS["english"]))
    }
    return compared(bench, source, variants, ("en", *LANGUAGES))


def bench_none(bench: Bench) -> dict[str, Any]:
    source = bench.model("smollm2")
    imatrix, _ = bench.imatrix(source, SMOLLM2)
    variants = {
        "with": bench.variant(source, "Q4_K_M", imatrix, "Q4_K_M"),
        "without": bench.variant(source, "Q4_K_M", None, "Q4_K_M-none"),
    }
    return compared(bench, source, variants, tuple(SMOLLM2))


def compared(
    bench: Bench, source: Path, variants: Mapping[str, Path], kinds: tuple[str, ...]
) -> dict[str, Any]:
    """Compare two variants text by text."""
    one, other = variants
    corpora = [shipped_corpus(kind) for kind in kinds]
    found = compare(
        source, list(variants.values()), corpora, CHUNKS, bench.settings, SilentProgress()
    )
    rows: dict[str, Any] = {}
    for corpus in corpora:
        a, b = (found[variants[label], corpus] for label in (one, other))
        difference = paired_difference(a.chunk_klds, b.chunk_klds)
        rows[corpus.name] = {
            one: round(a.divergence.mean_kld, 5),
            other: round(b.divergence.mean_kld, 5),
            "change": round(a.divergence.mean_kld / b.divergence.mean_kld - 1, 4),
            "difference_a_chunk_95": [round(value, 5) for value in difference],
            "n_chunks": len(a.chunk_klds),
        }
    return rows


def bench_memory(bench: Bench) -> dict[str, Any]:
    if bench.tools is None:
        sys.exit("LLMEDGE_TEST_LLAMA_TOOLS must name the folder of llama-quantize")
    source = bench.folder / "llama-1.2b-BF16.gguf"
    if not source.exists():
        checkpoint = bench.folder / "llama-1.2b"
        if not checkpoint.exists():
            make_checkpoint(checkpoint, SHAPES["1.2b"], fetch_vocabulary(bench.folder))
        run_convert(checkpoint, "BF16", source)
    target = bench.folder / "quantized.gguf"
    ours = [sys.executable, "-m", "llmedge", "quantize", source, "-t", "Q4_K_M", "-o", target]
    ours += ["--no-imatrix", "--overwrite", "--max-buffer", BUFFER]
    theirs = [bench.tools / "llama-quantize", "--max-buffer-size", "256", source, target, "Q4_K_M"]
    peaks = {name: peak_mib(command) for name, command in (("llmedge", ours), ("llama", theirs))}
    target.unlink()
    return {**peaks, "difference_mib": round(peaks["llmedge"] - peaks["llama"], 1)}


def peak_mib(command: Sequence[object]) -> float:
    """Run a command and return the most resident memory of it and its children together."""
    process = subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    tree = Tree(psutil.Process(process.pid))
    if process.wait():
        sys.exit(f"{command[0]} failed")
    return round(tree.join() / (1 << 20), 1)


def main() -> None:
    parts: dict[str, Callable[[Bench], dict[str, Any]]] = {
        "smollm2": lambda bench: bench_plans(bench, "smollm2", SMOLLM2),
        "gemma3": lambda bench: bench_plans(bench, "gemma3", GEMMA3),
        "trials": bench_trials,
        "languages": bench_languages,
        "none": bench_none,
        "memory": bench_memory,
    }
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", default=list(parts))
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["LLMEDGE_HOME"] = str(folder / "home")
        tools = os.environ.pop("LLMEDGE_TEST_LLAMA_TOOLS", None)  # no setting of llmedge's
        bench = Bench(folder, load_settings(), Path(tools) if tools else None)
        print(json.dumps({name: parts[name](bench) for name in arguments.parts}, indent=2))


if __name__ == "__main__":
    main()
