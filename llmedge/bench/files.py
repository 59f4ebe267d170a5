"""Results in files: what `llmedge bench` printed or recorded, and what llama-bench did."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

from llmedge.bench.llama_bench import import_rows
from llmedge.bench.record import SCHEMA, BenchResult
from llmedge.core.errors import IntegrityError, NotFoundError
from llmedge.store.records import append_record, record_as

if TYPE_CHECKING:
    from pathlib import Path

    from llmedge.core.settings import Settings


def read_results(path: Path) -> list[BenchResult]:
    """Read results: `bench --json`, JSON lines such as the store's records, llama-bench's JSON.

    Raises:
        NotFoundError: There is no such file.
        IntegrityError: It holds nothing of the kind.
    """
    text = _read(path)
    documents = [document for document in _documents(text) if document.get("schema") == SCHEMA]
    found = (record_as(document, BenchResult) for document in documents)
    ours = [result for result in found if result is not None]
    return ours or import_rows(text, str(path))[0]


def import_llama_bench(path: Path, settings: Settings) -> tuple[list[BenchResult], int]:
    """Record what llama-bench found.

    Returns:
        The results, and how many rows were left out.

    Raises:
        NotFoundError: There is no such file.
        IntegrityError: It is something else.
    """
    results, n_left_out = import_rows(_read(path), str(path))
    for result in results:
        append_record(settings, "bench", result)
    return results, n_left_out


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFoundError(
            f"there is no file {path}", "make one with `llmedge bench MODEL --json > FILE`"
        ) from None
    except UnicodeDecodeError:
        raise IntegrityError(f"{path} is not text", "give what `bench --json` printed") from None


def _documents(text: str) -> list[dict[str, object]]:
    """Return the documents in a text: of one with `results`, those; else one a line."""
    whole = _parse(text)
    if whole is None:
        # A line may be cut off by a power loss, as records may be.
        return [document for document in map(_parse, text.splitlines()) if document is not None]
    found = whole.get("results")
    return cast("list[dict[str, object]]", found) if isinstance(found, list) else [whole]


def _parse(text: str) -> dict[str, object] | None:
    try:
        document: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, object]", document) if isinstance(document, dict) else None
