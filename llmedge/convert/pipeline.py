"""One conversion: planned to the byte before anything is written, then streamed."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.convert.hyperparameters import common_metadata
from llmedge.convert.mapping import map_tensors
from llmedge.convert.registry import check_guards, find_architecture
from llmedge.convert.rows import source_rows
from llmedge.convert.stream import OutputTensor, StreamOptions, write_tensors
from llmedge.gguf.quant_types import F32
from llmedge.gguf.writer import Metadata, encode_header, encode_metadata, lay_out
from llmedge.store.resumable import ResumableFile

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from llmedge.convert.architecture import Architecture
    from llmedge.convert.config import Config
    from llmedge.core.progress import Progress
    from llmedge.store.checkpoint import CheckpointSource


@dataclass(frozen=True, slots=True)
class Plan:
    architecture: Architecture
    header: bytes
    tensors: tuple[OutputTensor, ...]
    ignored: tuple[str, ...]


def plan_conversion(
    source: CheckpointSource, config: Config, tokenizer: Metadata, *, guarded: bool = True
) -> Plan:
    architecture = find_architecture(config)
    config = config.with_defaults(architecture.defaults)
    if guarded:
        check_guards(architecture, config)
    plain = {name: source_rows(source, name) for name in source.tensors}
    mapped = map_tensors(architecture, config, plain)
    metadata = model_metadata(architecture, config) + tokenizer
    infos = lay_out((name, tuple(reversed(rows.shape)), F32) for name, rows in mapped.rows.items())
    tensors = tuple(
        OutputTensor(info, rows) for info, rows in zip(infos, mapped.rows.values(), strict=True)
    )
    return Plan(architecture, encode_header(metadata, infos), tensors, mapped.ignored)


def model_metadata(architecture: Architecture, config: Config) -> Metadata:
    values = common_metadata(config) | dict(architecture.metadata(config))
    general = {"general.architecture": architecture.name, "general.file_type": 0}
    return encode_metadata(
        general | {f"{architecture.name}.{key}": v for key, v in values.items() if v is not None}
    )


def write_plan(plan: Plan, target: Path, options: StreamOptions, progress: Progress) -> str:
    identity = hashlib.sha256(plan.header).hexdigest()
    with (
        ResumableFile(target, identity) as file,
        progress.task("convert", total=len(plan.header), unit="bytes") as task,
    ):
        write_tensors(file, plan.header, plan.tensors, options, task)
        digest = file.finish()
    os.replace(file.path, target)
    return digest
