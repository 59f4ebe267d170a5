"""Results as flat rows of plain values, for CSV and SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmedge.bench.record import BenchResult

    Value = str | int | float | None

TABLE = "llmedge_bench"


def flat_row(result: BenchResult) -> dict[str, Value]:
    """Return one result's figures by column; lists of samples are left to JSON."""
    latency, load, memory = result.latency, result.load, result.memory
    conditions, readings = result.fingerprint, result.readings
    row: dict[str, Value] = {
        "created": result.created,
        "measured_by": result.measured_by,
        "model": result.model,
        "file": result.facts.file,
        "file_bytes": result.facts.file_bytes,
        "n_params": result.facts.n_params,
        "bits_per_weight": result.facts.bits_per_weight,
        "n_depth": result.n_depth,
    }
    for name, rate in (("pp", result.prompt), ("tg", result.generation)):
        row[f"{name}_tokens"] = rate.n_tokens
        row[f"{name}_tokens_per_s"] = rate.mean
        row[f"{name}_sd"] = rate.standard_deviation
        row[f"{name}_best"] = rate.best
    row |= {
        "time_to_first_token_s": latency and latency.first_token_s,
        "inter_token_p50_s": latency and latency.inter_token_p50_s,
        "inter_token_p90_s": latency and latency.inter_token_p90_s,
        "inter_token_p99_s": latency and latency.inter_token_p99_s,
        "load_warm_s": load and load.warm_s,
        "load_cold_s": load and load.cold_s,
        "touched_file_bytes": memory and memory.touched_file_bytes,
        "anonymous_peak_bytes": memory and memory.anonymous_peak_bytes,
        "resident_peak_bytes": memory and memory.resident_peak_bytes,
        "proportional_peak_bytes": memory and memory.proportional_peak_bytes,
        "reserved_bytes": memory and memory.reserved_bytes,
        "repacked_bytes": memory and memory.repacked_bytes,
        "baseline_bytes": memory and memory.baseline_bytes,
        "pp_j_per_token": result.energy.prompt_j_per_token,
        "tg_j_per_token": result.energy.generation_j_per_token,
        "before_celsius": result.heat.before_celsius,
        "peak_celsius": result.heat.peak_celsius,
        "after_celsius": result.heat.after_celsius,
        "clock_before_hz": result.heat.clock_before_hz,
        "clock_least_hz": result.heat.clock_least_hz,
        "clock_after_hz": result.heat.clock_after_hz,
        "plateau_tokens_per_s": result.sustained and result.sustained.plateau_tokens_per_s,
        "flags": ",".join(result.flags),
        "cpu_efficiency": readings and readings.cpu_efficiency,
    }
    for name in conditions.__dataclass_fields__:
        value = getattr(conditions, name)
        row[name] = ",".join(value) if isinstance(value, tuple) else value  # pyright: ignore[reportUnknownArgumentType]
    return row


def to_sql(results: Sequence[BenchResult]) -> str:
    """Write statements that make a table, if it is not there, and fill it; for `sqlite3 FILE`."""
    if not results:
        return ""
    rows = [flat_row(result) for result in results]
    columns = ", ".join(f"{name} {_type(rows, name)}" for name in rows[0])
    lines = [f"CREATE TABLE IF NOT EXISTS {TABLE} ({columns});"]
    names = ", ".join(rows[0])
    for row in rows:
        values = ", ".join(map(_literal, row.values()))
        lines.append(f"INSERT INTO {TABLE} ({names}) VALUES ({values});")
    return "\n".join(lines) + "\n"


def _type(rows: Sequence[dict[str, Value]], name: str) -> str:
    # By the column's name and not its values: a table made today has to take tomorrow's rows.
    if name.endswith(("_per_s", "_s", "_sd", "_best", "_token", "_celsius", "_hz", "_weight")):
        return "REAL"
    value = rows[0][name]
    return "TEXT" if isinstance(value, str) and not name.endswith("_bytes") else "NUMERIC"


def _literal(value: Value) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(int(value)) if isinstance(value, bool) else repr(value)
