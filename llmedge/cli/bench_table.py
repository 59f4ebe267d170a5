"""Benchmarks as text: the table, the formats that only they have, and remarks."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from llmedge.cli.output import Table, note, show_results, write
from llmedge.core.units import format_mb, format_mib

if TYPE_CHECKING:
    from llmedge.bench.record import BenchResult, Rate

BenchFormat = Literal["table", "md", "json", "jsonl", "csv", "sql", "llama-bench"]


# Beside the threads, which have a column always.
_SWEPT = {
    "batch": "n_batch",
    "ubatch": "n_ubatch",
    "type-k": "type_k",
    "type-v": "type_v",
    "flash-attn": "flash_attention",
    "load-mode": "load_mode",
}


def show_bench(results: Sequence[BenchResult], form: BenchFormat) -> None:
    """Write results to stdout."""
    if form == "llama-bench":
        from llmedge.bench.llama_bench import export_rows

        write(json.dumps(export_rows(results), ensure_ascii=False, indent=2) + "\n")
    elif form == "sql":
        from llmedge.bench.rows import to_sql

        write(to_sql(results))
    elif form == "csv":
        _write_csv(results)
    else:
        show_results("bench", results, _table(results), form)


def tell(results: Sequence[BenchResult]) -> None:
    """Say on stderr what the table has no room for."""
    for result in results:
        if result.flags:
            note(contention_note(result))
        if result.sustained:
            long = result.sustained
            begins = "not settled" if long.begins_s is None else f"from {long.begins_s:.0f} s on"
            note(
                f"{result.model}: {long.burst_tokens_per_s:.1f} tokens/s at first, then "
                f"{long.plateau_tokens_per_s:.1f} ({long.factor:.0%}, {begins})"
            )


def tell_best(results: Sequence[BenchResult], axes: Sequence[str]) -> None:
    """Name the best settings of a sweep on stderr."""
    from llmedge.bench.best import find_best

    for best in find_best(results, axes) if axes else ():
        alike = f"; within the noise: {', '.join(best.as_good)}" if best.as_good else ""
        what = "prompts" if best.figure == "pp" else "generation"
        note(
            f"{best.model} at depth {best.n_depth}: best for {what} is {best.setting} "
            f"({best.tokens_per_s:.1f} tokens/s){alike}"
        )


def contention_note(result: BenchResult) -> str:
    """Say what disturbed a measurement."""
    return (
        f"{result.model}: {', '.join(result.flags)} ({'; '.join(result.reasons)}): "
        "do not compare this result"
    )


def format_rate(rate: Rate) -> str:
    """Format a rate with its standard deviation, where there are several samples."""
    if not rate.samples:
        return ""
    spread = f" ± {rate.standard_deviation:.1f}" if len(rate.samples) > 1 else ""
    return f"{rate.mean:.1f}{spread}"


def _table(results: Sequence[BenchResult]) -> Table:
    languages = list(dict.fromkeys(w.language for result in results for w in result.words))
    # What a sweep may have varied is shown where it varies.
    varied = [
        axis
        for axis, field in _SWEPT.items()
        if len({getattr(result.fingerprint, field) for result in results}) > 1
    ]
    columns = [
        "model",
        "size>",
        "threads>",
        "depth>",
        "pp_tokens/s>",
        "tg_tokens/s>",
        "TTFT>",
        "ITL_p50/p99>",
        "load_cold/warm>",
        "resident>",
        "anonymous>",
    ]
    return Table(
        [
            *(name.replace("_", " ") for name in columns),
            *(f"{axis}>" for axis in varied),
            *(f"{language} words/s>" for language in languages),
            "flags",
        ],
        [
            (
                *_cells(result),
                *(str(getattr(result.fingerprint, _SWEPT[axis])) for axis in varied),
                *_words(result, languages),
                ", ".join(result.flags),
            )
            for result in results
        ],
    )


def _cells(result: BenchResult) -> tuple[str, ...]:
    latency, load, memory = result.latency, result.load, result.memory
    cold = "?" if load is None or load.cold_s is None else f"{load.cold_s:.2f}"
    anonymous = None if memory is None else memory.anonymous_peak_bytes
    return (
        result.model,
        format_mb(result.facts.file_bytes or result.facts.tensor_bytes),
        str(result.fingerprint.n_threads),
        str(result.n_depth),
        format_rate(result.prompt),
        format_rate(result.generation),
        "" if latency is None else f"{latency.first_token_s:.2f} s",
        ""
        if latency is None
        else f"{latency.inter_token_p50_s * 1e3:.1f}/{latency.inter_token_p99_s * 1e3:.1f} ms",
        "" if load is None else f"{cold}/{load.warm_s:.2f} s",
        "" if memory is None else format_mib(memory.resident_peak_bytes),
        "" if anonymous is None else format_mib(anonymous),
    )


def _words(result: BenchResult, languages: Sequence[str]) -> list[str]:
    speeds = {words.language: f"{words.words_per_s:.1f}" for words in result.words}
    return [speeds.get(language, "") for language in languages]


def _write_csv(results: Sequence[BenchResult]) -> None:
    from llmedge.bench.rows import flat_row

    buffer = io.StringIO()
    rows = [flat_row(result) for result in results]
    if rows:
        writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write(buffer.getvalue())
