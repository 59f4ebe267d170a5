"""From a checkpoint's tensors to the model's: names, stacked experts, edits; nothing left over."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.convert.rows import Rows, stack
from llmedge.core.errors import IntegrityError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmedge.convert.architecture import Architecture, Place
    from llmedge.convert.config import Config

_OUTPUT = "output.weight"
_EMBEDDING = "token_embd.weight"


@dataclass(frozen=True, slots=True)
class MappedTensors:
    """The tensors of the model to be written.

    Attributes:
        rows: By GGUF name, in the order of the file: embeddings, blocks, output.
        ignored: Tensors of the checkpoint that are left out knowingly.
    """

    rows: Mapping[str, Rows]
    ignored: tuple[str, ...]


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
    placed, ignored = _place(architecture, config, tensors)
    result: dict[str, Rows] = {}
    for place, rows in placed:
        edit = architecture.edit(place.target)
        edited = rows if edit is None else edit(rows, config)
        named = {place.name: edited} if isinstance(edited, Rows) else edited
        for name, part in named.items():
            _add(result, name if isinstance(edited, Rows) else place.named(name), part)
    for name, rows in architecture.extra(config).items():
        _add(result, name, rows)
    if _OUTPUT in result and _is_tied(config):
        del result[_OUTPUT]  # transformers takes the embedding whatever is in the file
        ignored = (*ignored, "lm_head.weight")
    return MappedTensors(dict(sorted(result.items(), key=lambda item: _order(item[0]))), ignored)


def _place(
    architecture: Architecture, config: Config, tensors: Mapping[str, Rows]
) -> tuple[list[tuple[Place, Rows]], tuple[str, ...]]:
    placed: list[tuple[Place, Rows]] = []
    experts: dict[tuple[int | None, str], dict[int, tuple[Place, Rows]]] = {}
    ignored: list[str] = []
    homeless: list[str] = []
    for name, rows in tensors.items():
        if architecture.ignores(name):
            ignored.append(name)
            continue
        place = architecture.place(name)
        if place is None:
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


def _is_tied(config: Config) -> bool:
    return config.flag("tie_word_embeddings", default=False)


def _order(name: str) -> tuple[int, int, str]:
    block = re.match(r"blk\.(\d+)\.", name)
    if block:
        return (1, int(block[1]), name)
    return (2 if name.startswith("output") else 0, 0, name)
