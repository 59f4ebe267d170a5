"""A run as one page: tables and drawings, readable on a phone, with nothing from elsewhere.

Names come from files and recipes and are not trusted: the page is built as a tree, never as text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as Xml

from llmedge.core.units import format_mb, format_mib, format_seconds
from llmedge.recipe.plot import keys, kld_text, rate_text
from llmedge.recipe.report_svg import Bar, add_bars, add_scatter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from xml.etree.ElementTree import Element

    from llmedge.store.run_records import RunRecord, VariantRecord

_STYLE = """
:root { color-scheme: light dark; --fg: #1b1b1f; --dim: #5c5f66; --bg: #fff; --card: #f4f5f7;
  --line: #d9dbe0; --mark: #0b57d0; --other: #8a8f98; --good: #136c2e; --bad: #b3261e }
@media (prefers-color-scheme: dark) { :root { --fg: #e4e4e8; --dim: #a3a7b0; --bg: #16171a;
  --card: #212328; --line: #3a3d44; --mark: #8ab4f8; --other: #7d828c; --good: #7bd88f;
  --bad: #ff8a80 } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--fg); background: var(--bg);
  margin: 0 auto; padding: 16px; max-width: 1080px; overflow-wrap: anywhere }
h1 { font-size: 1.5rem; margin: .2em 0 } h2 { font-size: 1.15rem; margin: 1.6em 0 .4em }
p { margin: .4em 0 } .dim { color: var(--dim); font-size: .9rem }
.good { color: var(--good) } .bad { color: var(--bad) }
.status { font-weight: 600; padding: .1em .6em; border: 1px solid; border-radius: 1em }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .4em .7em; text-align: left; white-space: nowrap;
  border-bottom: 1px solid var(--line) }
tr:last-child td { border-bottom: 0 } th { font-size: .85rem; color: var(--dim) }
td.wrap { white-space: normal; min-width: 12em } td.n, th.n { text-align: right }
.grid { display: grid; gap: 16px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)) }
.grid + .scroll { margin-top: 12px }
figure { margin: 0; background: var(--card); border-radius: 8px; padding: 12px }
figcaption { font-size: .9rem; color: var(--dim); margin-bottom: 6px }
svg { display: block; width: 100%; height: auto } svg text { fill: var(--fg); font-size: 12px }
svg text.dim { fill: var(--dim); font-size: 12px }
svg .grid { stroke: var(--line) } svg .track { fill: var(--line) }
svg .mark { fill: var(--mark) } svg .other { fill: var(--other) } svg .bad { fill: var(--bad) }
svg .ring { fill: none; stroke: var(--fg); stroke-width: 2 }
svg .end { text-anchor: end } svg .mid { text-anchor: middle }
"""


def render_report(run: RunRecord) -> str:
    """Return a run's page.

    Args:
        run: Its record; nothing else is read.
    """
    page = Xml.Element("html", lang="en")
    head = Xml.SubElement(page, "head")
    Xml.SubElement(head, "meta", charset="utf-8")
    Xml.SubElement(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    # Should a name ever get through: nothing may run or be fetched.
    policy = {"http-equiv": "Content-Security-Policy"}
    Xml.SubElement(head, "meta", policy, content="default-src 'none'; style-src 'unsafe-inline'")
    Xml.SubElement(head, "title").text = f"{run.title}: variants"
    Xml.SubElement(head, "style").text = _STYLE
    body = Xml.SubElement(page, "body")
    _add_head(body, run)
    letters = dict(zip((item.variant for item in run.variants), keys(), strict=False))
    if run.variants:
        _add_variants(body, run, letters)
        _add_drawings(body, run, letters)
        _add_languages(body, run)
        _add_devices(body, run)
    _add_stages(body, run)
    return "<!doctype html>\n" + Xml.tostring(page, encoding="unicode", method="html") + "\n"


def _add_head(body: Element, run: RunRecord) -> None:
    Xml.SubElement(body, "h1").text = run.title
    line = Xml.SubElement(body, "p")
    kind = {"passed": "good", "failed": "bad"}.get(run.status, "dim")
    status = Xml.SubElement(line, "span", {"class": f"status {kind}"})
    status.text = {"failed": "judged and failed"}.get(run.status, run.status)
    source = f"{run.repo}@{run.commit[:12]} · license {run.license} · recipe {run.recipe} "
    _say(body, source + run.recipe_sha256[:12], "dim")
    memory = format_mib(int(run.machine.get("memory_bytes", 0)))
    tools = ", ".join(f"{name} {version}" for name, version in run.tools.items())
    _say(body, f"Measured on {run.machine.get('processor', '?')}, {memory}; {tools}.", "dim")
    _say(body, f"From {run.started} to {run.finished}.", "dim")
    gates = "; ".join(run.gates) or "none: nothing is claimed, only shown"
    _say(body, f"Gates: {gates}.")
    for item in run.variants:
        for reason in item.missed:
            _say(body, f"{item.variant}: {reason}", "bad")


def _add_variants(body: Element, run: RunRecord, letters: dict[str, str]) -> None:
    Xml.SubElement(body, "h2").text = "Variants"
    rows: list[tuple[str, ...]] = []
    for item in run.variants:
        speed = item.speed
        worst = max(item.quality, key=lambda quality: quality.mean_kld, default=None)
        served = " (served)" if item.variant == run.served else ""
        note = f"{', '.join(speed.flags)}" if speed else ""
        rows.append(
            (
                letters[item.variant],
                item.variant + served,
                format_mb(item.file_bytes),
                f"{item.bits_per_weight:.2f}",
                f"{kld_text(worst.mean_kld)} ({worst.text})" if worst else "not measured",
                f"{min(q.top1_agreement for q in item.quality):.1%}" if item.quality else "",
                f"{speed.tg_per_s:.1f} ± {speed.tg_sd:.1f}" if speed else "not measured",
                f"{speed.pp_per_s:.1f}" if speed else "",
                format_mib(speed.resident_bytes) if speed else "",
                note or ("in the store" if item.is_registered else ""),
            )
        )
    columns = "|variant|size>|bits/weight>|worst KLD>|least top-1>|tg tokens/s>|pp tokens/s>"
    _add_table(body, f"{columns}|memory>|note", rows)


def _add_drawings(body: Element, run: RunRecord, letters: dict[str, str]) -> None:
    measured = [item for item in run.variants if item.quality and item.speed]
    if not measured:
        return
    Xml.SubElement(body, "h2").text = "Quality, size and speed"
    grid = Xml.SubElement(body, "div", {"class": "grid"})
    losses = [max(q.mean_kld for q in item.quality) for item in measured]
    marks = [(letters[item.variant], item.variant == run.served) for item in measured]
    sizes = [item.file_bytes for item in measured]
    figure = _figure(grid, "Worst KL divergence against size; down and left is better")
    add_scatter(figure, sizes, losses, marks)
    figure = _figure(grid, "Tokens generated per second")
    rates = [item.speed.tg_per_s if item.speed else 0.0 for item in measured]
    add_bars(
        figure,
        [
            Bar(item.variant, rate, rate_text(rate), is_strong=item.variant == run.served)
            for item, rate in zip(measured, rates, strict=True)
        ],
    )


def _add_languages(body: Element, run: RunRecord) -> None:
    texts = list(dict.fromkeys(q.text for item in run.variants for q in item.quality))
    if not texts:
        return
    Xml.SubElement(body, "h2").text = "By language"
    worst = max(q.mean_kld for item in run.variants for q in item.quality)
    grid = Xml.SubElement(body, "div", {"class": "grid"})
    for item in run.variants:
        if item.quality:
            figure = _figure(grid, f"{item.variant}: mean KL divergence, nats")
            # One scale for all variants: else the best looks as bad as the worst.
            bars = [
                Bar(q.text, q.mean_kld, kld_text(q.mean_kld), whole=worst) for q in item.quality
            ]
            add_bars(figure, bars)
    rows = [
        (
            item.variant,
            quality.text,
            f"{kld_text(quality.mean_kld)} ± {kld_text(quality.mean_kld_error)}",
            f"{quality.top1_agreement:.1%}",
            f"{quality.perplexity:.2f}",
            f"{quality.perplexity_ratio:.3f}",
            _words(item, quality.text),
            str(quality.n_tokens),
        )
        for item in run.variants
        for quality in item.quality
    ]
    columns = "variant|text|KLD>|top-1>|perplexity>|ratio to 16 bits>|words/s>|positions>"
    _add_table(body, columns, rows)


def _words(item: VariantRecord, text: str) -> str:
    words = item.speed.words_per_s.get(text) if item.speed else None
    return f"{words:.1f}" if words is not None else ""


def _add_devices(body: Element, run: RunRecord) -> None:
    if not any(item.devices for item in run.variants):
        return
    Xml.SubElement(body, "h2").text = "By device"
    _say(body, "Computed, not measured there: memory from the file, speed by a model.", "dim")
    grid = Xml.SubElement(body, "div", {"class": "grid"})
    for item in run.variants:
        if item.devices:
            figure = _figure(grid, f"{item.variant}: memory that it needs, of what there is")
            bars = [
                Bar(
                    device.device,
                    device.resident_bytes,
                    f"{format_mib(device.resident_bytes)} of {format_mib(device.room_bytes)}",
                    whole=device.room_bytes,
                    is_bad=not device.passes,
                )
                for device in item.devices
            ]
            add_bars(figure, bars)
    rows = [
        (
            item.variant,
            device.device,
            device.verdict,
            _interval(device.tg_per_s),
            device.evidence,
            device.reason,
        )
        for item in run.variants
        for device in item.devices
    ]
    _add_table(body, "variant|device|verdict|tokens/s (80 %)|evidence|reason~", rows)


def _interval(speed: tuple[float, float, float] | None) -> str:
    return "?" if speed is None else f"{speed[0]:.1f} ({speed[1]:.1f}-{speed[2]:.1f})"


def _add_stages(body: Element, run: RunRecord) -> None:
    Xml.SubElement(body, "h2").text = "Stages"
    rows = [
        (item.stage, item.what, format_seconds(item.seconds), "kept" if item.is_kept else "done")
        for item in run.stages
    ]
    _add_table(body, "stage|what~|took>|", rows)


def _say(body: Element, text: str, kind: str = "") -> None:
    Xml.SubElement(body, "p", {"class": kind} if kind else {}).text = text


def _figure(grid: Element, caption: str) -> Element:
    figure = Xml.SubElement(grid, "figure")
    Xml.SubElement(figure, "figcaption").text = caption
    return figure


def _add_table(body: Element, columns: str, rows: Sequence[Sequence[str]]) -> None:
    """Add a table; a heading that ends with `>` has numbers below it, one with `~` sentences."""
    names = columns.split("|")
    kinds = [{">": "n", "~": "wrap"}.get(name[-1:], "") for name in names]
    frame = Xml.SubElement(body, "div", {"class": "scroll", "tabindex": "0"})
    table = Xml.SubElement(frame, "table")
    head = Xml.SubElement(Xml.SubElement(table, "thead"), "tr")
    for name, kind in zip(names, kinds, strict=True):
        Xml.SubElement(head, "th", _class(kind)).text = name.rstrip(">~")
    below = Xml.SubElement(table, "tbody")
    for row in rows:
        line = Xml.SubElement(below, "tr")
        for cell, kind in zip(row, kinds, strict=True):
            Xml.SubElement(line, "td", _class(kind)).text = cell


def _class(kind: str) -> dict[str, str]:
    return {"class": kind} if kind else {}
