"""`llmedge doctor`."""

from __future__ import annotations

import typer

from llmedge.cli.options import ShowFlags, grouped
from llmedge.cli.output import Table, show_results

_MARKS = {"ok": "✓", "note": "•", "problem": "✗"}


@grouped
def doctor_command(*, show: ShowFlags) -> None:
    """Look at this machine; say how to mend what is wrong.

    Exits with 4 where there is a problem.
    """
    from llmedge.core.settings import load_settings
    from llmedge.recipe.doctor import examine

    findings = examine(load_settings())
    rows = [
        (_MARKS[finding.status], finding.topic, line)
        for finding in findings
        for line in (finding.value, *([f"→ {finding.fix}"] if finding.fix else []))
    ]
    show_results("doctor", findings, Table(("", "", "found"), rows), show.chosen)
    if any(finding.status == "problem" for finding in findings):
        raise typer.Exit(4)
