"""`llmedge demo`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmedge.cli.bench_table import contention_note, format_rate
from llmedge.cli.output import Table, make_progress, note, show_results, write
from llmedge.core.units import format_mb, format_mib

if TYPE_CHECKING:
    from llmedge.recipe.demo import Answer, Row


def demo_command() -> None:
    """Run the whole journey on a small embedded model.

    It takes about a minute; nothing is downloaded.
    """
    from llmedge.core.settings import load_settings
    from llmedge.recipe.demo import run_demo

    run_demo(load_settings(), make_progress(), _View())


class _View:
    """Shows the demo on the terminal."""

    def step(self, text: str) -> None:
        """Say what is being done."""
        note(text)

    def table(self, rows: Sequence[Row]) -> None:
        """Show the variants."""
        columns = "variant size> bits/weight> KLD> top-1> pp_tokens/s> tg_tokens/s> peak>  "
        table = Table(
            [*(name.replace("_", " ") for name in columns.split()), ""],
            [_cells(row) for row in rows],
        )
        show_results("demo", rows, table, "table")
        for row in rows:
            if not row.bench.is_trusted:
                note(contention_note(row.bench))

    def answer(self, answer: Answer) -> None:
        """Show an answer: model text is written plainly, outside of any layout."""
        write(
            f"\n[{answer.language}] {answer.question}\n{answer.text.strip()}\n"
            f"({answer.n_tokens} tokens, first after {answer.time_to_first_token_s:.2f} s, "
            f"then {answer.tg_tokens_per_s:.1f} tokens/s)\n"
        )


def _cells(row: Row) -> tuple[str, ...]:
    flags = ("chosen" if row.is_chosen else "", *row.bench.flags)
    divergence = row.evaluation.divergence
    return (
        row.variant.mix,
        format_mb(row.evaluation.file_bytes),
        f"{row.variant.bits_per_weight:.2f}",
        f"{divergence.mean_kld:.4f}",
        f"{divergence.top1_agreement:.1%}",
        format_rate(row.bench.prompt),
        format_rate(row.bench.generation),
        format_mib(row.bench.resident_bytes),
        ", ".join(flag for flag in flags if flag),
    )
