"""`llmedge show`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from llmedge.cli.options import MAX_CTX, ModelArgument, ShowFlags, grouped, model_path
from llmedge.cli.output import Table, note, printable, show_results, write
from llmedge.core.errors import UnsupportedError
from llmedge.core.units import format_mb, format_mib

if TYPE_CHECKING:
    from pathlib import Path

    from llmedge.gguf.memory import ModelMemory
    from llmedge.gguf.reader import Header, Value

_SHOWN_CHARS = 100


@dataclass(frozen=True, slots=True)
class TypeUse:
    """How much of a file is stored in one quant type."""

    quant_type: str
    n_tensors: int
    n_weights: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a GGUF file's header says."""

    path: Path
    architecture: str
    version: int
    file_bytes: int
    n_weights: int
    bits_per_weight: float
    types: tuple[TypeUse, ...]
    memory: ModelMemory | None
    metadata: dict[str, object]


@grouped
def show_command(
    model: ModelArgument,
    ctx: Annotated[
        int, typer.Option(min=1, max=MAX_CTX, help="Context to compute the memory for.")
    ] = 4096,
    type_k: Annotated[str, typer.Option(help="Type of the keys in the kv cache.")] = "f16",
    type_v: Annotated[str, typer.Option(help="Type of the values in the kv cache.")] = "f16",
    *,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    show: ShowFlags,
) -> None:
    """Show a GGUF file: metadata, quant types, memory.

    Bits per weight are real ones, over all tensors; memory is that at a context of --ctx tokens.
    """
    from llmedge.gguf.memory import KvCacheOptions, estimate_memory
    from llmedge.gguf.reader import read_header

    header = read_header(model_path(model))
    try:
        memory = estimate_memory(header, KvCacheOptions(ctx, type_k, type_v))
    except UnsupportedError as error:
        note(f"memory: {error.message}")
        memory = None
    facts = _facts(header, memory)
    table = _tensor_table(header) if tensors else _type_table(facts)
    if show.chosen == "table":
        write(_summary(facts))
    show_results("show", [facts], table, show.chosen)


def _facts(header: Header, memory: ModelMemory | None) -> FileFacts:
    groups: dict[str, list[tuple[int, int]]] = {}
    for tensor in header.tensors:
        sizes = groups.setdefault(tensor.quant_type.name, [])
        sizes.append((tensor.n_weights, tensor.n_bytes))
    types = [
        TypeUse(name, len(sizes), sum(n for n, _ in sizes), sum(size for _, size in sizes))
        for name, sizes in groups.items()
    ]
    return FileFacts(
        path=header.path,
        architecture=header.architecture,
        version=header.version,
        file_bytes=header.file_bytes,
        n_weights=header.n_weights,
        bits_per_weight=round(header.bits_per_weight, 4),
        types=tuple(sorted(types, key=lambda use: -use.n_bytes)),
        memory=memory,
        metadata={key: _plain(value) for key, value in header.metadata.items()},
    )


def _plain(value: Value) -> object:
    if isinstance(value, str | int | float):
        return value
    if value.items and value.length <= 64:
        return list(value.items)
    return f"[{value.length} × {value.type_name}]"


def _summary(facts: FileFacts) -> str:
    lines = [
        f"file             {facts.path}",
        f"size             {format_mb(facts.file_bytes)}",
        f"weights          {facts.n_weights:,}",
        f"bits per weight  {facts.bits_per_weight:.2f}",
    ]
    if facts.memory is not None:
        memory = facts.memory
        lines.append(
            f"memory           {format_mib(memory.total_bytes)} at {memory.n_ctx} tokens: "
            f"weights {format_mib(memory.weights_bytes)}, "
            f"kv cache {format_mib(memory.kv_cache_bytes)} (compute buffer not counted)"
        )
    lines.append("")
    for key, value in facts.metadata.items():
        text = str(value).replace("\n", "⏎")
        shown = text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"
        lines.append(f"{printable(key)} = {printable(shown)}")
    return "\n".join(lines) + "\n\n"


def _type_table(facts: FileFacts) -> Table:
    return Table(
        ("quant type", "tensors>", "weights>", "size>", "share>"),
        [
            (
                use.quant_type,
                str(use.n_tensors),
                f"{use.n_weights:,}",
                format_mib(use.n_bytes),
                f"{use.n_bytes / max(1, sum(other.n_bytes for other in facts.types)):.1%}",
            )
            for use in facts.types
        ],
    )


def _tensor_table(header: Header) -> Table:
    return Table(
        ("tensor", "shape", "quant type", "size>"),
        [
            (
                tensor.name,
                " × ".join(str(n) for n in tensor.shape),
                tensor.quant_type.name,
                format_mib(tensor.n_bytes),
            )
            for tensor in header.tensors
        ],
    )
