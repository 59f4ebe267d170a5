"""What `llmedge quantize` says of what it made, beside its table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.cli.output import note
from llmedge.core.units import format_mb

if TYPE_CHECKING:
    from llmedge.quantize.job import VariantReport
    from llmedge.quantize.search import SearchReport

_MAX_TYPES_SHOWN = 4
_BITS = 4
_LARGE = 1.2  # a mix of so many times its type's bits has lost its point


def note_variant(report: VariantReport) -> None:
    """Say what a variant did not get: types, importance, its mix's size."""
    from llmedge.gguf.mixes import find_mix

    for group in report.fallbacks:
        note(
            f"{report.variant}: {_tensors(group.n_tensors)} {group.got} instead of "
            f"{group.wanted}, whose blocks their rows do not fit (such as {group.example})"
        )
    base = find_mix(report.mix).base.bits_per_weight
    is_4_bit_mix = report.variant == report.mix and int(base) == _BITS
    if report.fallbacks and is_4_bit_mix and report.bits_per_weight > _LARGE * base:
        note(
            f"{report.variant}: {report.bits_per_weight:.2f} bits per weight for a mix of "
            f"{base:g}; smaller: -t IQ4_NL, or --target-bpw 4.5"
        )
    coverage = report.coverage
    if coverage is not None and coverage.uncovered:
        note(
            f"{report.variant}: {_tensors(len(coverage.uncovered))} not covered by the importance "
            f"matrix (such as {coverage.uncovered[0]})"
        )
    for unreached in coverage.unreached if coverage is not None else ():
        note(f"{report.variant}: no token reached {unreached}")


def _tensors(n: int) -> str:
    return "1 tensor is" if n == 1 else f"{n} tensors are"


def note_search(report: SearchReport) -> None:
    """Say how a target was met, and what the plan was held against."""
    if report.is_largest and report.is_plan is not False:
        note(
            f"{report.target}: the largest plan is {format_mb(report.variant.file_bytes)} "
            f"({shown_types(report.variant)}); no type that may be chosen takes more"
        )
    if report.plan is None:
        note("~: estimated; what the file loses is measured when it is made")
        return
    if report.is_stock:
        note(f"{report.target}: the plan's types are {report.stock_mix}'s: nothing to compare")
        return
    if report.stock is None or report.difference is None:
        note(f"{report.target}: no mix of llama.cpp's own is as small with these types")
        return
    mean, low, high = report.difference
    stock = report.stock.mean_kld
    change = f"{report.plan.mean_kld / stock - 1:+.0%}; " if stock else ""
    verdict = "the plan is taken" if report.is_plan else f"{report.stock_mix} is taken instead"
    sizes = [format_mb(report.variant.file_bytes), format_mb(report.other_bytes or 0)]
    of_plan, of_stock = sizes if report.is_plan else reversed(sizes)
    note(
        f"{report.target}: KL divergence {report.plan.mean_kld:.4f} on held-out text "
        f"({of_plan}), {report.stock_mix} {stock:.4f} ({of_stock}; {change}difference a chunk "
        f"{mean:+.4f}, 95 % from {low:+.4f} to {high:+.4f}): {verdict}"
    )


def shown_types(report: VariantReport) -> str:
    """Return a variant's most frequent types, with how many tensors have them."""
    shown = [f"{n} {name}" for name, n in report.types.items() if name != "F32"]
    more = len(shown) - _MAX_TYPES_SHOWN
    return ", ".join(shown[:_MAX_TYPES_SHOWN]) + (f" and {more} more" if more > 0 else "")
