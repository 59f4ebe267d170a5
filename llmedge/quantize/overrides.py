"""Quant types that a user gives to single tensors: `blk.*.ffn_down.weight=Q6_K`."""

from __future__ import annotations

import difflib
import fnmatch
from typing import TYPE_CHECKING

from llmedge.core.errors import UsageError
from llmedge.gguf.tensor_roles import quantizable_tensors
from llmedge.store.plan_file import require_types

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmedge.gguf.reader import Header

_FLAG = "--tensor-type"


def expand_types(texts: Sequence[str], header: Header) -> dict[str, str]:
    """Return the quant type of each tensor that is meant.

    Args:
        texts: `NAME=TYPE`; `*` and `?` in the name stand for any characters, a later text wins.
        header: The model's.

    Raises:
        UsageError: A text is not of that form, matches no tensor that may be quantized, or gives a
            type that does not exist or does not fit.
    """
    names = [tensor.name for tensor in quantizable_tensors(header)]
    types: dict[str, str] = {}
    for text in texts:
        pattern, equals, type_name = text.rpartition("=")
        if not equals:
            raise UsageError(f"{_FLAG} {text!r} is not NAME=TYPE", f"{_FLAG} output.weight=Q6_K")
        matching = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if not matching:
            close = difflib.get_close_matches(pattern, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "`llmedge show` lists the tensors"
            raise UsageError(f"{_FLAG} {text!r} matches no tensor that may be quantized", hint)
        types |= dict.fromkeys(matching, type_name.upper())
    require_types(types, header, _FLAG)
    return types
