"""llama-bench's own form: its rows from our results, and our results from its rows.

Source: tools/llama-bench/llama-bench.cpp of llama.cpp (`test::get_fields` and the JSON printers).
"""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from llmedge.bench.fingerprint import Fingerprint
from llmedge.bench.record import BenchResult, Energy, Heat, ModelFacts, Rate
from llmedge.core.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Row = dict[str, object]

_FLASH = {"auto": -1, "off": 0, "on": 1}
_LOAD_MODES = {"read": "none", "direct": "dio"}  # llama-bench's words where they differ
_NS = 1e9
# What must be in a row to be of any use.
_NEEDED = ("model_filename", "n_prompt", "n_gen", "avg_ts", "n_threads")


def export_rows(results: Sequence[BenchResult]) -> list[Row]:
    """Return llama-bench's array: two rows a result, the prompt's and the generation's."""
    return [row for result in results for row in _rows(result)]


def import_rows(text: str, name: str) -> tuple[list[BenchResult], int]:
    """Read llama-bench's JSON or JSON lines.

    Rows of one setting are joined: a prompt's and a generation's make one result. Each is flagged
    `unchecked`: nobody knows what else the machine did.

    Args:
        text: What it printed with `-o json` or `-o jsonl`.
        name: The file's, for errors.

    Returns:
        The results, and how many rows were left out: those that mix prompt and generation.

    Raises:
        IntegrityError: It is something else.
    """
    rows = _parse(text, name)
    joined: dict[tuple[object, ...], list[Row]] = {}
    n_left_out = 0
    for row in rows:
        if bool(row["n_prompt"]) == bool(row["n_gen"]):
            n_left_out += 1
            continue
        ignored = ("n_prompt", "n_gen", "test_time")
        key = tuple(
            (field, str(value))
            for field, value in row.items()
            if field not in ignored and not field.startswith(("avg_", "stddev_", "samples_"))
        )
        joined.setdefault(key, []).append(row)
    return [result for group in joined.values() for result in _join(group)], n_left_out


def _rows(result: BenchResult) -> Iterator[Row]:
    conditions, facts = result.fingerprint, result.facts
    words = conditions.llama_cpp.replace("(", " ").replace(")", " ").split()
    version = words[1] if len(words) > 1 else "0"
    digits = "".join(char for char in version.rpartition(".")[2] if char.isdigit())
    common: Row = {
        "build_commit": words[-1] if words else "unknown",
        "build_number": int(digits or 0),
        "cpu_info": conditions.cpu,
        "gpu_info": "",
        "backends": "CPU",
        "model_filename": facts.file,
        "model_type": facts.description,
        "model_size": facts.tensor_bytes,
        "model_n_params": facts.n_params,
        "n_batch": conditions.n_batch,
        "n_ubatch": conditions.n_ubatch,
        "n_threads": conditions.n_threads,
        "cpu_mask": "0x0",
        "cpu_strict": False,
        "poll": 50,
        "type_k": conditions.type_k,
        "type_v": conditions.type_v,
        "n_gpu_layers": conditions.n_gpu_layers,
        "n_cpu_moe": 0,
        "split_mode": "layer",
        "main_gpu": 0,
        "no_kv_offload": False,
        "flash_attn": _FLASH.get(conditions.flash_attention, -1),
        "devices": "auto",
        "tensor_split": "0.00",
        "tensor_buft_overrides": "none",
        "load_mode": _LOAD_MODES.get(conditions.load_mode, conditions.load_mode),
        "lazy_mode": "off",
        "embeddings": False,
        "no_op_offload": 0,
        "no_host": False,
        "repack": conditions.repack,
        "fit_target": 0,
        "fit_min_ctx": 0,
    }
    for n_prompt, n_gen, rate in (
        (result.prompt.n_tokens, 0, result.prompt),
        (0, result.generation.n_tokens, result.generation),
    ):
        if not rate.samples:
            continue
        ns = [round(rate.n_tokens / sample * _NS) for sample in rate.samples]
        yield {
            **common,
            "n_prompt": n_prompt,
            "n_gen": n_gen,
            "n_depth": result.n_depth,
            "test_time": result.created,
            "avg_ns": round(statistics.fmean(ns)),
            "stddev_ns": round(statistics.stdev(ns)) if len(ns) > 1 else 0,
            "avg_ts": rate.mean,
            "stddev_ts": rate.standard_deviation,
            "samples_ns": ns,
            "samples_ts": list(rate.samples),
        }


def _parse(text: str, name: str) -> list[Row]:
    try:
        document: object = json.loads(text)
    except (ValueError, RecursionError):
        try:
            document = [json.loads(line) for line in text.splitlines() if line.strip()]
        except (ValueError, RecursionError):
            document = None
    if isinstance(document, dict):
        document = [cast("Row", document)]  # of JSON lines, one line
    if not isinstance(document, list) or not document:
        raise _foreign(name)
    rows = cast("list[object]", document)
    if not all(isinstance(row, dict) and all(key in row for key in _NEEDED) for row in rows):
        raise _foreign(name)
    return cast("list[Row]", rows)


def _foreign(name: str) -> IntegrityError:
    return IntegrityError(
        f"{name} is no output of llama-bench", "make it with `llama-bench -m MODEL -o json`"
    )


def _join(rows: Sequence[Row]) -> list[BenchResult]:
    """Make results of one setting's rows: each prompt with each generation, or one alone."""
    prompts = [row for row in rows if row["n_prompt"]]
    generations = [row for row in rows if row["n_gen"]]
    count = max(len(prompts), len(generations))
    results: list[BenchResult] = []
    for at in range(count):
        prompt = prompts[at] if at < len(prompts) else None
        generation = generations[at] if at < len(generations) else None
        base = _result(generation or prompt or {})
        results.append(
            replace(
                base,
                prompt=_rate(prompt, "n_prompt"),
                generation=_rate(generation, "n_gen"),
            )
        )
    return results


def _rate(row: Row | None, key: str) -> Rate:
    if row is None:
        return Rate(0, ())
    samples = cast("list[float]", row.get("samples_ts") or [row["avg_ts"]])
    return Rate(_int(row, key), tuple(float(sample) for sample in samples))


def _result(row: Row) -> BenchResult:
    file = _text(row, "model_filename").replace("\\", "/").rpartition("/")[2]
    modes = {theirs: ours for ours, theirs in _LOAD_MODES.items()}
    flash = {number: word for word, number in _FLASH.items()}
    n_params, n_bytes = _int(row, "model_n_params"), _int(row, "model_size")
    mode = _text(row, "load_mode", "mmap")
    return BenchResult(
        model=file.removesuffix(".gguf"),
        facts=ModelFacts(
            file=file,
            file_bytes=0,
            tensor_bytes=n_bytes,
            n_params=n_params,
            bits_per_weight=round(n_bytes * 8 / n_params, 4) if n_params else 0.0,
            description=_text(row, "model_type"),
        ),
        n_depth=_int(row, "n_depth"),
        prompt=Rate(0, ()),
        generation=Rate(0, ()),
        latency=None,
        load=None,
        memory=None,
        energy=Energy(),
        heat=Heat(),
        words=(),
        readings=None,
        flags=("unchecked",),
        reasons=("llama-bench does not look at what else the machine does",),
        fingerprint=Fingerprint(
            place="host",
            cpu=_text(row, "cpu_info"),
            machine="",
            n_cores=0,
            cores="",
            memory_bytes=0,
            llama_cpp=f"llama.cpp b{_int(row, 'build_number')} ({_text(row, 'build_commit')})",
            features=(),
            openmp="",
            power_source="",
            n_threads=_int(row, "n_threads"),
            n_ctx=0,
            n_batch=_int(row, "n_batch"),
            n_ubatch=_int(row, "n_ubatch"),
            type_k=_text(row, "type_k"),
            type_v=_text(row, "type_v"),
            flash_attention=flash.get(_int(row, "flash_attn"), "auto"),
            load_mode=modes.get(mode, mode),
            repack=bool(row.get("repack", True)),
            n_gpu_layers=_int(row, "n_gpu_layers"),
        ),
        created=_text(row, "test_time"),
        measured_by="llama-bench",
    )


def _int(row: Row, key: str) -> int:
    value = row.get(key, 0)
    return int(value) if isinstance(value, int | float) else 0


def _text(row: Row, key: str, default: str = "") -> str:
    value = row.get(key, default)
    return value if isinstance(value, str) else default
