"""Values of a checkpoint's quantization_config, checked before they are believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from llmedge.convert.packed_parts import ORIGINAL
from llmedge.core.errors import IntegrityError, UnsupportedError


def value_of(config: Mapping[str, object], *keys: str) -> object:
    """Return the first of several spellings of a key that has a value, or None."""
    return next((config[key] for key in keys if config.get(key) is not None), None)


def integer(config: Mapping[str, object], *keys: str) -> int:
    """Return a whole number.

    Raises:
        IntegrityError: It is missing or is none.
    """
    value = value_of(config, *keys)
    if not isinstance(value, int) or isinstance(value, bool):
        raise IntegrityError(f"quantization_config.{keys[0]} is {value!r}, not a whole number")
    return value


def text(config: Mapping[str, object], *keys: str, default: str) -> str:
    """Return a string in lower case.

    Raises:
        IntegrityError: It is something else.
    """
    value = value_of(config, *keys)
    if value is None:
        return default
    if not isinstance(value, str):
        raise IntegrityError(f"quantization_config.{keys[0]} is {value!r}, not a string")
    return value.lower()


def mapping(config: Mapping[str, object], key: str) -> Mapping[str, object]:
    """Return a nested object, an empty one where there is none.

    Raises:
        IntegrityError: It is something else.
    """
    value = config.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise IntegrityError(f"quantization_config.{key} is {value!r}, not an object")
    return cast("Mapping[str, object]", value)


def group_size(config: Mapping[str, object], *keys: str) -> int | None:
    """Return how many inputs share a scale; None when all of them do.

    Raises:
        IntegrityError: It is neither -1 nor one or more.
    """
    size = integer(config, *keys)
    if size == -1:
        return None
    if size < 1:
        raise IntegrityError(f"quantization_config.{keys[0]} is {size}: no size of a group")
    return size


def block(config: Mapping[str, object], key: str) -> tuple[int, int] | None:
    """Return the rows and columns that share a scale, or None where the config names none.

    Raises:
        IntegrityError: It is no pair of positive whole numbers.
    """
    value = config.get(key)
    if value is None:
        return None
    sizes = cast("list[object]", value) if isinstance(value, list | tuple) else []
    numbers = [size for size in sizes if isinstance(size, int) and size > 0]
    if len(sizes) != 2 or len(numbers) != 2:
        raise IntegrityError(f"quantization_config.{key} is {value!r}, not two sizes")
    return numbers[0], numbers[1]


def refuse_unless(what: str, value: object, known: tuple[object, ...]) -> None:
    """Hold a setting to what can be read.

    Raises:
        UnsupportedError: It is something else; what is known is named.
    """
    if value not in known:
        supported = ", ".join(str(item) for item in known)
        raise UnsupportedError(f"{what} is {value!r}; supported: {supported}", ORIGINAL)


def refuse_overrides(config: Mapping[str, object]) -> None:
    """Refuse layers that have settings of their own (GPTQModel's `dynamic`).

    Raises:
        UnsupportedError: A rule does more than to leave layers out, which begins with `-:`.
    """
    for rule, settings in mapping(config, "dynamic").items():
        if settings and not rule.startswith("-:"):
            raise UnsupportedError(
                f"quantization_config.dynamic quantizes {rule!r} by settings of its own", ORIGINAL
            )
