"""From a checkpoint's tensors to the model's: names, stacked experts, edits; nothing left over."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llmedge.convert.rows import Rows, stack
from llmedge.core.errors import IntegrityError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmedge.convert.architecture import Architecture, Place
    from llmedge.convert.config import Config

_OUTPUT = "output.weight"
_EMBEDDING = "token_embd.weight"
_COMPARED_ROWS = 512


@dataclass(frozen=True, slots=True)
class MappedTensors:
    """The tensors of the model to be written.

    Attributes:
        rows: By GGUF name, in the order of the file: embeddings, blocks, output.
        ignored: Tensors of the checkpoint that are left out knowingly.
        numbers: Lists that tensors of one number became, one entry a block.
    """

    rows: Mapping[str, Rows]
    ignored: tuple[str, ...]
    numbers: Mapping[str, list[float]]


def map_tensors(
    architecture: Architecture, config: Config, tensors: Mapping[str, Rows]
) -> MappedTensors:
    """Give every tensor of a checkpoint its place in the model.

    Args:
        architecture: The checkpoint's.
        config: Its configuration.
        tensors: Its tensors by their own names.

    Raises:
        UnsupportedError: A tensor has no place.
        IntegrityError: Two have the same, or an expert is missing.
    """
    numbers = _numbers(architecture, tensors)
    used = {name: rows for name, rows in tensors.items() if architecture.number_of(name) is None}
    placed, ignored = _place(architecture, config, used)
    result: dict[str, Rows] = {}
    for place, rows in placed:
        edit = architecture.edit(place)
        edited = rows if edit is None else edit(rows, config)
        named = {place.name: edited} if isinstance(edited, Rows) else edited
        for name, part in named.items():
            _add(result, name if isinstance(edited, Rows) else place.named(name), part)
    for name, rows in architecture.extra(config).items():
        result.setdefault(name, rows)
    return MappedTensors(
        dict(sorted(result.items(), key=lambda item: _order(item[0]))), ignored, numbers
    )


def _numbers(architecture: Architecture, tensors: Mapping[str, Rows]) -> dict[str, list[float]]:
    found: dict[str, dict[int, float]] = {}
    for name, rows in tensors.items():
        number = architecture.number_of(name)
        if number is not None:
            found.setdefault(number[0], {})[number[1]] = float(rows.read(0, 1)[0, 0])
    return {key: [values[layer] for layer in sorted(values)] for key, values in found.items()}


def _place(
    architecture: Architecture, config: Config, tensors: Mapping[str, Rows]
) -> tuple[list[tuple[Place, Rows]], tuple[str, ...]]:
    placed: list[tuple[Place, Rows]] = []
    experts: dict[tuple[int | None, str], dict[int, tuple[Place, Rows]]] = {}
    ignored: list[str] = []
    homeless: list[str] = []
    is_tied = config.flag("tie_word_embeddings", default=False)
    embedding = next((r for n, r in tensors.items() if _is_embedding(architecture, n)), None)

    def repeats(rows: Rows) -> bool:
        # Where both are there and differ, transformers takes each for itself.
        return embedding is None or _are_equal(rows, embedding)

    for name, rows in tensors.items():
        if architecture.ignores(name) or architecture.is_draft(name, config):
            ignored.append(name)
            continue
        place = architecture.place(name)
        if is_tied and place is not None and place.name == _OUTPUT and repeats(rows):
            ignored.append(name)
        elif place is None or architecture.is_beyond(name, config.n_layers):
            homeless.append(name)
        elif place.expert is None:
            placed.append((place, rows))
        else:
            group = experts.setdefault((place.layer, place.target + place.suffix), {})
            group[place.expert] = (place, rows)
    if homeless:
        raise UnsupportedError(
            f"{config.architecture} with tensor {homeless[0]} ({len(homeless)} such) cannot be "
            "converted: llama.cpp has no place for it",
            "is the checkpoint an adapter, or changed from the original?",
        )
    placed += [_stacked(group) for group in experts.values()]
    return placed, tuple(ignored)


def _is_embedding(architecture: Architecture, name: str) -> bool:
    place = architecture.place(name)
    return place is not None and place.name == _EMBEDDING


def _are_equal(rows: Rows, other: Rows) -> bool:
    if rows.shape != other.shape:
        return False
    ranges = range(0, rows.n_rows, _COMPARED_ROWS)
    return all(
        np.array_equal(rows.read(start, stop), other.read(start, stop))
        for start, stop in ((at, min(at + _COMPARED_ROWS, rows.n_rows)) for at in ranges)
    )


def _stacked(group: Mapping[int, tuple[Place, Rows]]) -> tuple[Place, Rows]:
    numbers = sorted(group)
    place = group[numbers[0]][0]
    if numbers != list(range(len(numbers))):
        raise IntegrityError(
            f"{place.name} has experts {numbers[0]} to {numbers[-1]}, but only {len(numbers)}"
        )
    return place, stack([group[number][1] for number in numbers])


def _add(result: dict[str, Rows], name: str, rows: Rows) -> None:
    if name in result:
        raise IntegrityError(f"two tensors of the checkpoint become {name}")
    result[name] = rows


def _order(name: str) -> tuple[int, int, str]:
    block = re.match(r"blk\.(\d+)\.", name)
    if block:
        return (1, int(block[1]), name)
    return (2 if name.startswith("output") else 0, 0, name)
