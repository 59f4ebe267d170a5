"""A plan on disk: the quant type of each tensor, to use again, to share and to edit."""

from __future__ import annotations

import codecs
import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import msgspec

from llmedge.core.errors import IntegrityError, NotFoundError, UnsupportedError, UsageError
from llmedge.gguf.quant_types import BY_NAME, WRITTEN
from llmedge.gguf.tensor_roles import quantizable_tensors
from llmedge.store.atomic import write_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from llmedge.gguf.reader import Header

SCHEMA = "llmedge.plan/1"
_MAX_BYTES = 16 << 20
# The kinds of processors that a plan is made for; `quantize.kernels` says what is fast there.
Kernels: TypeAlias = Literal["arm", "avx2", "hexagon", "generic"]
_Positive: TypeAlias = Annotated[float, msgspec.Meta(gt=0)]
_Weight: TypeAlias = Annotated[float, msgspec.Meta(ge=0)]
_Types: TypeAlias = Annotated[dict[str, str], msgspec.Meta(min_length=1)]
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class PlanFile:
    """A plan.

    Attributes:
        model: Name of the model that it was measured on.
        architecture: llama.cpp's name of it.
        base: The mix that decides on tensors which the plan does not name.
        types: Quant type by tensor name.
        target: What was asked for, as the variant is called.
        kernels: The processors that its types are fast on.
        weights: How much each kind of text counted.
        bits_per_weight: Over all tensors.
        predicted_kld: What the measured losses add up to, in nats.
        schema: Version of this structure.
    """

    model: str
    architecture: str
    base: str
    types: _Types
    target: str
    kernels: Kernels
    weights: dict[str, _Weight]
    bits_per_weight: _Positive
    predicted_kld: float
    schema: str = SCHEMA


def write_plan(path: Path, plan: PlanFile) -> None:
    """Write a plan, for people too.

    Raises:
        ResourceError: The disk is full or read-only.
    """
    write_bytes(path, msgspec.json.format(msgspec.json.encode(plan), indent=1) + b"\n")


def read_plan(path: Path, header: Header) -> PlanFile:
    """Read a plan and hold it against the model that it is to be used for.

    Raises:
        NotFoundError: There is no such file.
        IntegrityError: It is no plan.
        UnsupportedError: It was written by a later llmedge, or for another architecture.
        UsageError: It names a tensor or a type that does not exist or does not fit.
    """
    if not path.is_file():
        raise NotFoundError(f"the plan {path} is not a file", "make one with --save-plan")
    if path.stat().st_size > _MAX_BYTES:
        raise IntegrityError(f"{path} is no plan: it is too large")
    try:
        # Some editors begin a file with a mark.
        plan = msgspec.json.decode(path.read_bytes().removeprefix(codecs.BOM_UTF8), type=PlanFile)
    except OSError as error:
        raise NotFoundError(f"the plan {path} cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"{path} is no plan: {error}", "make one with --save-plan") from None
    if plan.schema != SCHEMA:
        raise UnsupportedError(f"{path} has schema {plan.schema}", "update llmedge")
    if not _LABEL.fullmatch(plan.target):  # it becomes part of a file's name
        raise IntegrityError(f"{path} is no plan: its target {plan.target[:80]!r} is no name")
    if plan.architecture != header.architecture:
        raise UnsupportedError(
            f"{path} is for a model of architecture {plan.architecture[:80]!r}, and "
            f"{header.path.name} is {header.architecture!r}",
            "make one for this model with --save-plan",
        )
    require_types(plan.types, header, str(path))
    return plan


def require_types(types: dict[str, str], header: Header, where: str) -> None:
    """Make sure that types can be given to a model's tensors.

    Args:
        types: Quant type by tensor name.
        header: The model's.
        where: What says so, for the error.

    Raises:
        UsageError: A tensor or a type does not exist, the quantizer cannot write the type, or rows
            do not fit its blocks.
    """
    tensors = {tensor.name: tensor for tensor in quantizable_tensors(header)}
    for name, type_name in types.items():
        if name not in tensors:
            close = difflib.get_close_matches(name, tensors, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "`llmedge show` lists the tensors"
            raise UsageError(
                f"{where} names {name!r}, which is no tensor of the model that may be quantized",
                hint,
            )
        if type_name not in WRITTEN:
            known = "type" if type_name in BY_NAME else "unknown type"
            raise UsageError(
                f"{where} gives {name} the {known} {type_name[:80]!r}, which cannot be written",
                f"possible: {', '.join(WRITTEN)}",
            )
        block = WRITTEN[type_name].block_weights
        if tensors[name].shape[0] % block:
            raise UsageError(
                f"{where} gives {name} the type {type_name}, whose blocks of {block} its rows of "
                f"{tensors[name].shape[0]} do not fit",
                "choose a type with smaller blocks, such as Q4_0 or Q8_0",
            )
