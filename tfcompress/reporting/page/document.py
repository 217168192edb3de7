"""The page: an overview of all models, a section for each, and how to make it again."""

from __future__ import annotations

import base64
import hashlib
import math
from importlib import resources
from typing import Any

from tfcompress.reporting.findings import Findings, Model, Skipped
from tfcompress.reporting.page import plots
from tfcompress.reporting.page.markup import Markup, element, join
from tfcompress.reporting.page.tables import Cell, number, table, words

_ERRORS = ("mae", "mse", "rmse")  # less is better


def page(found: Findings) -> str:
    """The whole page, with nothing outside it."""
    sections = [element("a", "Skip to the overview", href="#overview", class_="skip")]
    sections.append(
        element("header", element("h1", found.title), _summary(found), _contents(found))
    )
    main = [_overview(found)]
    main += [_model(found, number_, model) for number_, model in enumerate(found.models, 1)]
    main.append(_reproduce(found))
    sections.append(element("main", main))
    return document(found.title, sections)


def document(title: str, sections: Any) -> str:
    """A page of these sections, with style and script in it and nothing outside it."""
    style, script = _asset("style.css"), _asset("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # Nothing is loaded, and no script runs but this one, whatever a model calls its layers.
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(style)),
    )
    body = element("body", sections, element("script", Markup(script)))
    return f'<!doctype html>\n<html lang="en">{head}{body}</html>\n'


def _asset(name: str) -> str:
    text = resources.files(__package__).joinpath(name).read_text("utf-8")
    return text.replace("</", "<\\/") if name.endswith(".js") else text


def _summary(found: Findings) -> Markup:
    said = [f"{_count(len(found.models), 'model')}."]
    if found.examples and found.metrics:
        metric = found.metrics[0]
        scored = [m for m in found.models if metric in m.figures]
        best = (min if _less(metric) else max)(scored, key=lambda m: m.figures[metric])
        said.append(
            f"Best {metric} on {found.examples:,} examples: {best.figures[metric]:.4g}, "
            f"{best.name}."
        )
    smallest = min(found.models, key=lambda m: m.nbytes)
    said.append(f"Smallest: {_bytes(smallest.nbytes)}, {smallest.name}.")
    timed = [(m.median_ms, m) for m in found.models if m.median_ms is not None]
    if timed:
        fastest = min(timed, key=lambda pair: pair[0])
        said.append(f"Fastest: {fastest[0]:.3g} ms, {fastest[1].name}.")
    return element("p", " ".join(said))


def _contents(found: Findings) -> Markup:
    links = [("overview", "Overview")]
    links += [(f"model-{i}", m.name) for i, m in enumerate(found.models, 1)]
    links.append(("reproduce", "How to reproduce"))
    items = [element("li", element("a", text, href=f"#{key}")) for key, text in links]
    return element("nav", element("ol", items), aria_label="Contents")


def _overview(found: Findings) -> Markup:
    metrics = found.metrics
    heads = [("model", "text"), ("no.", "")]
    heads += [(name, "") for name in metrics]
    heads += [("size, kB", ""), ("gzip, kB", ""), ("latency, ms", ""), ("10th to 90th", "")]
    heads += [("init, ms", ""), ("memory, MiB", ""), ("parameters", ""), ("zeros", "")]
    rows = []
    for place, model in enumerate(found.models, 1):
        spread = "" if model.p10_ms is None else f"{model.p10_ms:.3g} to {model.p90_ms:.3g}"
        cells = [number(place, "{:.0f}")]
        cells += [number(model.figures.get(name)) for name in metrics]
        cells += [number(model.nbytes / 1000, "{:,.1f}"), number(model.gzip / 1000, "{:,.1f}")]
        cells += [number(model.median_ms, "{:.3g}"), Cell(spread, model.p10_ms)]
        cells += [number(model.init_ms, "{:.1f}"), number(model.peak_mb, "{:.1f}")]
        cells += [number(model.parameters, "{:,.0f}"), number(100 * model.sparsity, "{:.1f} %")]
        rows.append((element("a", model.name, href=f"#model-{place}"), cells))
    notes = [element("p", note) for note in found.notes]
    return element(
        "section",
        element("h2", "Overview", id="overview", tabindex=-1),
        element("div", _plots(found), class_="plots"),
        table("All models", heads, rows),
        notes,
        _skipped(found.skipped, "Models that could not be read"),
        aria_labelledby="overview",
    )


def _plots(found: Findings) -> list[Markup]:
    """What costs what: the first metric by size and by latency; without one, latency by size."""
    metric = next(iter(found.metrics), None)
    size = [m.nbytes / 1000 for m in found.models]
    time = [m.median_ms for m in found.models]
    shown: list[tuple[list[float | None], list[float | None], str, str, bool]] = []
    if metric is not None:
        gain: list[float | None] = [m.figures.get(metric) for m in found.models]
        shown.append(([*size], gain, "size, kB", metric, _less(metric)))
        shown.append((time, gain, "latency, ms", metric, _less(metric)))
    else:
        shown.append(([*size], time, "size, kB", "latency, ms", True))
    figures = []
    for index, (xs, ys, x_label, y_label, below) in enumerate(shown):
        points = [
            plots.Point(i, m.name, x, y)
            for i, (m, x, y) in enumerate(zip(found.models, xs, ys, strict=True), 1)
            if x is not None and y is not None
        ]
        if not points:
            continue
        better = "lower" if below else "higher"
        drawn = plots.scatter(points, x_label, y_label, f"plot-{index}", better_below=below)
        caption = (
            f"{y_label} by {x_label}: further left and {better} is better. Filled: no other model "
            "is better in both. Numbers are those of the table."
        )
        figures.append(element("figure", drawn, element("figcaption", caption), class_="plot"))
    return figures


def _less(metric: str) -> bool:
    return metric.endswith(_ERRORS)


def _model(found: Findings, place: int, model: Model) -> Markup:
    key = f"model-{place}"
    facts = [(name, f"{value:.4g}") for name, value in model.figures.items()]
    facts.append(("size", f"{_bytes(model.nbytes)} ({_bytes(model.gzip)} gzipped)"))
    if model.median_ms is not None:
        facts.append(("latency", f"{model.median_ms:.3g} ms"))
    facts.append(("parameters", f"{model.parameters:,}"))
    facts.append(("zeros", f"{model.sparsity:.1%}"))
    facts.append(("needs the runtime of", f"TensorFlow {model.minimum_runtime}"))
    shown = [element("div", element("dt", name), element("dd", value)) for name, value in facts]
    return element(
        "section",
        element("h2", f"{place}. {model.name}", id=key, tabindex=-1),
        element("dl", shown),
        [element("p", note) for note in model.notes],
        element("h3", "Layers"),
        _layers(model),
        _histograms(key, model),
        element("h3", "What was skipped, and why"),
        _skipped(model.skipped, f"Skipped in {model.name}")
        or element("p", "Nothing: XNNPACK runs every operator, and everything was measured."),
        aria_labelledby=key,
    )


def _layers(model: Model) -> Markup:
    longest = max((layer.time_ms or 0 for layer in model.layers), default=0) or 1.0
    noisy = any(layer.sqnr_db is not None for layer in model.layers)
    timed = any(layer.time_ms is not None for layer in model.layers)
    ranged = any(layer.output_low is not None for layer in model.layers)
    heads = [("layer", "text"), ("no.", ""), ("operator", "text"), ("output", ""), ("type", "text")]
    heads += [("time, µs", "")] if timed else []
    heads += [("SQNR, dB", "")] if noisy else []
    heads += [("parameters", ""), ("bytes", ""), ("zeros", ""), ("weights", "")]
    heads += [("output range", "")] if ranged else []
    heads += [("XNNPACK", "text")]
    rows = []
    for layer in model.layers:
        cells = [number(layer.index, "{:.0f}"), words(layer.operator)]
        cells += [Cell("×".join(map(str, layer.output)) or "scalar"), words(layer.dtype)]
        if timed:
            cells.append(_time(layer.time_ms, layer.time_error_ms, longest))
        if noisy:
            cells.append(number(layer.sqnr_db, "{:.1f}"))
        cells += [number(layer.parameters or None, "{:,.0f}"), number(layer.nbytes or None, "{:,}")]
        sparsity = None if layer.sparsity is None else 100 * layer.sparsity
        cells.append(number(sparsity, "{:.1f} %"))
        cells.append(_range(layer.weight_low, layer.weight_high))
        if ranged:
            cells.append(_range(layer.output_low, layer.output_high))
        cells.append(words("yes" if layer.placed else element("span", "no", class_="no")))
        rows.append((layer.layer, cells))
    return table(f"Layers of {model.name}, in the order of execution", heads, rows)


def _time(value: float | None, error: float | None, longest: float) -> Cell:
    if value is None:
        return Cell("")
    about = "" if error is None or math.isnan(error) else f" ± {1000 * error:,.1f}"
    return Cell(f"{1000 * value:,.1f}{about}", value, value / longest)


def _range(low: float | None, high: float | None) -> Cell:
    return Cell("") if low is None or high is None else Cell(f"{low:.3g} to {high:.3g}", high - low)


def _histograms(key: str, model: Model) -> Markup | None:
    figures = []
    for layer in model.layers:
        if layer.histogram is None:
            continue
        name = f"{layer.layer} (no. {layer.index})"
        zeros = f", {layer.histogram.zeros:,} zeros left out" if layer.histogram.zeros else ""
        drawn = plots.bars(layer.histogram, name, f"{key}-{layer.index}")
        caption = element("figcaption", f"{name}{zeros}")
        figures.append(element("figure", drawn, caption, data_name=name))
    if not figures:
        return None
    return element(
        "details",
        element("summary", f"Histograms of the weights of {_count(len(figures), 'layer')}"),
        element("div", figures, class_="histograms"),
        open=True,
    )


def _skipped(entries: list[Skipped], caption: str) -> Markup | None:
    if not entries:
        return None
    heads = [("what", "text"), ("why", "text"), ("what would help", "text")]
    rows = [(e.what, [words(e.why, "prose"), words(e.remedy, "prose")]) for e in entries]
    return table(caption, heads, rows, sorted_=False)


def _reproduce(found: Findings) -> Markup:
    files = [
        (model.name, [words(model.source or "in memory"), words(element("code", model.sha256))])
        for model in found.models
    ]
    about = [*found.settings.items(), *found.versions.items()]
    return element(
        "section",
        element("h2", "How to reproduce", id="reproduce", tabindex=-1),
        [element("pre", element("code", c)) for c in found.commands],
        table(
            "Files",
            [("model", "text"), ("made of", "text"), ("SHA-256 of the .tflite", "text")],
            files,
            sorted_=False,
        ),
        element(
            "dl",
            [element("div", element("dt", name), element("dd", value)) for name, value in about],
        ),
        element("p", join(["Made by tfcompress. Nothing on this page is loaded from elsewhere."]),
                class_="soft"),
        aria_labelledby="reproduce",
    )  # fmt: skip


def _bytes(size: int) -> str:
    return f"{size / 1000:,.1f} kB"


def _count(many: int, what: str) -> str:
    return f"{many:,} {what}{'' if many == 1 else 's'}"
