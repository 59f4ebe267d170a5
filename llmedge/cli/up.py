"""`llmedge up`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from llmedge.cli.calibration import CalibrationFlags
from llmedge.cli.options import ModelArgument, RunFlags, grouped
from llmedge.cli.output import make_progress, note
from llmedge.cli.pull import LineFlags, PullFlags, fetch
from llmedge.cli.serve import EndpointFlags, serve_files
from llmedge.core.errors import UsageError
from llmedge.core.units import format_mb

if TYPE_CHECKING:
    from llmedge.core.settings import Settings
    from llmedge.pull.run import PullReport
    from llmedge.recipe.up import Snapshot
    from llmedge.store.reference import HubReference


@grouped
def up_command(
    model: ModelArgument,
    *,
    lang: Annotated[
        str | None,
        typer.Option(
            help="Languages of the product, hi,ta,en, which a variant made here is calibrated on.",
            show_default=False,
        ),
    ] = None,
    line: LineFlags,
    endpoint: EndpointFlags,
    run: RunFlags,
) -> None:
    """Serve a model, and first pull, convert and quantize whatever is not here yet.

    Of ORG/NAME:VARIANT, a GGUF file that the repository has, else the variant made of its weights.
    """
    from llmedge.core.settings import load_settings
    from llmedge.recipe.up import make_ready
    from llmedge.store.reference import parse_reference

    if endpoint.models_dir is not None:
        raise UsageError("up serves one model, not --models-dir", "llmedge serve --models-dir …")
    settings = load_settings()
    options = endpoint.serve_options(run, settings)  # refused now, not after the gigabytes
    source = _Hub(settings, PullFlags(limit_rate=line.limit_rate, at=line.at))
    texts = CalibrationFlags(lang=lang).calibration_options()
    reference = parse_reference(model)
    path = make_ready(reference, source, texts, settings, make_progress(), note)
    serve_files([path], endpoint, options, settings)


@dataclass(frozen=True)
class _Hub:
    """The Hub, as the flags and HF_HUB_OFFLINE want it."""

    settings: Settings
    flags: PullFlags

    def look(self, reference: HubReference) -> Snapshot:
        return _snapshot(fetch(reference, self.settings, replace(self.flags, dry_run=True)))

    def fetch(self, reference: HubReference) -> Snapshot:
        report = fetch(reference, self.settings, self.flags)
        size, came = format_mb(report.n_bytes), format_mb(report.network_bytes)
        note(f"{report.repo}@{report.commit[:12]}: {size}, {came} came over the line")
        note(f"license: {report.license or 'not stated'}")
        return _snapshot(report)


def _snapshot(report: PullReport) -> Snapshot:
    from llmedge.recipe.up import Snapshot

    return Snapshot(report.commit, report.folder, tuple(file.path for file in report.files))
