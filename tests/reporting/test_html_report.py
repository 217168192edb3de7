"""The page in headless Chromium: names that attack, no network, contrast, keyboard, a phone."""

import json
import re
from itertools import pairwise

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

import tfcompress as tfc
from tfcompress.cli.main import main
from tfcompress.reporting.collect import collect
from tfcompress.reporting.findings import Histogram
from tfcompress.reporting.page.plots import Point, _figure, _ticks, bars, pareto, scatter
from tfcompress.runtime.noise import signal_to_noise, trace_noise
from tfcompress.runtime.packing import opened, packed

CHROMIUM = "/usr/bin/chromium"  # of the distribution; .ci/run installs it
ATTACKS = [
    "<script>attacked()</script>",
    "<img src=x onerror=attacked()>",
    '"><svg onload=attacked()>',
    "' onmouseover='attacked()",
    "&ltb&gt {{7*7}}",  # no semicolon: it parts the names of fused operators
]


@pytest.fixture(scope="module")
def hostile(float_file, tmp_path_factory):
    """`float_file` with attacks for the names of its layers and of the file."""
    model = opened(float_file.read_bytes())
    graph = model.subgraphs[0]
    assert len(graph.operators) == len(ATTACKS)
    for operator, attack in zip(graph.operators, ATTACKS, strict=True):
        named = f"net/{attack.replace('/', '|')}"
        graph.tensors[operator.outputs[0]].name = f"{named}/Relu6"
        graph.tensors[operator.inputs[1]].name = f"{named}/Conv2D"  # a kernel, or the axes of MEAN
    path = tmp_path_factory.mktemp("hostile") / "<b onclick=attacked()>&amp;.tflite"
    path.write_bytes(packed(model))
    return path


@pytest.fixture(scope="module")
def data(images):
    return images[0][:120], images[1][:120].astype("int64")


@pytest.fixture(scope="module")
def report(hostile, float_file, int8_file, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    broken = folder / "broken.tflite"
    broken.write_bytes(float_file.read_bytes()[:-400])
    return tfc.html_report(
        [float_file, int8_file, hostile, broken],
        data,
        path=folder / "r.html",
        title="</title><script>attacked()</script>",
        metrics=["accuracy", "top_3"],
        runs=2,
    )


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=options)


@pytest.fixture(scope="module")
def page(browser, report):
    """One page for all tests; what it asked for and complained of is in `.asked` and `.said`."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.asked, page.said = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("dialog", lambda dialog: page.said.append(dialog.message))
    page.add_init_script("window.attacks = 0; window.attacked = () => { window.attacks += 1 }")
    page.goto(report.as_uri())
    return page


def test_attacking_names_are_text(page, report):
    text = page.inner_text("body")
    for attack in ATTACKS[1:]:
        assert attack in text
    assert "<script>attacked()<|script>" in text and "<b onclick=attacked()>&amp;" in text
    assert page.title() == "</title><script>attacked()</script>"
    assert page.locator("script").count() == 1 and page.locator("img, b").count() == 0
    page.mouse.move(300, 500)
    assert page.evaluate("window.attacks") == 0
    assert "<script>attacked" not in report.read_text()


def test_nothing_is_loaded_and_nothing_complained_of(page, report):
    assert page.asked == [report.as_uri()]
    assert page.said == []
    body = report.read_text().split("</style>")[1].replace("&lt;img src=x", "")
    assert not re.search(r"""(?:src|href)=["']?[^"'#]|url\(|@import""", body)
    assert report.stat().st_size < 400_000


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
def test_axe_finds_nothing_to_mend(page, scheme, width):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    bright = sum(map(int, re.findall(r"\d+", background)[:3])) / 3
    assert bright > 240 if scheme == "light" else bright < 40
    overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert overflow <= 0, "the page scrolls sideways"


def test_keyboard(page):
    page.set_viewport_size({"width": 1200, "height": 900})
    page.evaluate("scrollTo(0, 0); document.activeElement.blur()")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash + document.activeElement.id") == "#overviewoverview"
    page.evaluate("document.querySelector('.skip').focus()")
    wanted = page.evaluate(
        """[...document.querySelectorAll('a, button, select, summary, [tabindex="0"]')]
           .filter((e) => e.checkVisibility()).map((e) => e.tagName + e.textContent)"""
    )
    met = [wanted[0]]
    for _ in wanted[1:]:
        page.keyboard.press("Tab")
        met.append(
            page.evaluate("document.activeElement.tagName + document.activeElement.textContent")
        )
    assert met == wanted, "the order of Tab is that of the page"
    widths = page.evaluate(
        "(() => { document.querySelector('nav a').focus(); "
        "return getComputedStyle(document.activeElement).outlineWidth })()"
    )
    assert widths == "3px", "focus can be seen"


def test_tables_sort_by_keyboard(page):
    table = page.locator("table").first
    sizes = "table => [...table.tBodies[0].rows].map(row => +row.cells[4].dataset.value)"
    before = table.evaluate(sizes)
    button = table.get_by_role("button", name="size, kB")
    button.focus()
    page.keyboard.press("Enter")
    assert table.evaluate(sizes) == sorted(before)
    assert (
        table.get_by_role("columnheader", name="size, kB").get_attribute("aria-sort") == "ascending"
    )
    page.keyboard.press("Enter")
    assert table.evaluate(sizes) == sorted(before, reverse=True)
    page.keyboard.press("Enter")
    assert table.evaluate(sizes) == before
    assert table.locator("[aria-sort]").count() == 0


def test_histograms_are_switched(page):
    group = page.locator(".histograms").first
    assert group.locator("figure:visible").count() == 1
    choice = page.locator("select").first
    choice.select_option(index=1)
    (name,) = group.locator("figure:visible").evaluate_all("all => all.map(e => e.dataset.name)")
    assert name == choice.evaluate("e => e.selectedOptions[0].textContent")
    choice.select_option("all")
    assert group.locator("figure:visible").count() == group.locator("figure").count() == 4


def test_tables_and_plots_can_be_heard(page):
    for table in page.locator("table").all():
        assert table.locator("caption").inner_text()
        heads = table.locator("thead th")
        assert all(h.get_attribute("scope") == "col" for h in heads.all())
        counts = table.evaluate("t => [...t.tBodies[0].rows].map(r => r.cells.length)")
        assert set(counts) == {heads.count()}
        assert table.locator("tbody tr > th[scope=row]").count() == len(counts)
    for plot in page.locator("svg").all():
        assert plot.get_attribute("role") == "img"
        for name in ("aria-labelledby", "aria-describedby"):
            said = page.locator(f"[id='{plot.get_attribute(name)}']")
            assert said.count() == 1 and len(said.text_content()) > 10
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(e => +e.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


def test_it_is_whole_without_scripts(browser, report):
    context = browser.new_context(java_script_enabled=False, viewport={"width": 360, "height": 800})
    plain = context.new_page()
    plain.goto(report.as_uri())
    assert plain.locator("select, button").count() == 0
    assert plain.locator("figure:visible").count() == 2 + 3 * 4
    assert plain.locator("tbody tr:visible").count() > 20
    context.close()


@pytest.fixture(scope="module")
def findings(small_model, float_file, int8_file, data):
    pruned = tfc.TFLiteModel(float_file)
    return collect(
        [small_model, int8_file, pruned],
        data,
        title="t",
        metrics=["accuracy"],
        workers=1,
        limit=None,
        runs=2,
        threads=1,
        backend="xnnpack",
        layer_times=True,
        evaluation={},
        progress=lambda share: None,
    )


def test_findings_are_those_of_the_verbs(findings, small_model, float_file, int8_file, data):
    keras_row, int8_row, float_row = findings.models
    assert keras_row.name == "small (converted to fp32)" and findings.examples == 120
    scores = tfc.TFLiteModel(int8_file).predict(data[0])
    assert int8_row.figures == {"accuracy": np.mean(scores.argmax(-1) == data[1])}
    assert int8_row.nbytes == int8_file.stat().st_size
    assert all(row.p10_ms <= row.median_ms <= row.p90_ms for row in findings.models)
    kernels = {layer.name: layer.kernel.numpy() for layer in small_model.layers
               if hasattr(layer, "kernel")}  # fmt: skip
    dense = next(layer for layer in float_row.layers if layer.operator == "FULLY_CONNECTED")
    assert dense.weight_low == pytest.approx(kernels["scores"].min(), rel=1e-6)
    assert dense.weight_high == pytest.approx(kernels["scores"].max(), rel=1e-6)
    assert dense.parameters == 16 * 10, "its biases are 0, and the converter leaves them out"
    assert dense.layer == "scores"
    assert sum(dense.histogram.counts) + dense.histogram.zeros == 160
    assert [layer.sqnr_db for layer in float_row.layers] == [None] * len(float_row.layers)
    assert all(layer.time_ms is not None for row in findings.models for layer in row.layers)
    json.dumps(findings.to_dict(), allow_nan=False)


def test_quantization_error_is_that_of_the_outputs(findings, float_file, int8_file, data):
    x = data[0][np.linspace(0, 119, 16).round().astype(int)]
    expected = tfc.TFLiteModel(float_file).predict(x, backend="reference")
    actual = tfc.TFLiteModel(int8_file).predict(x, backend="reference")
    layers = findings.models[1].layers
    last = next(layer for layer in layers if layer.operator == "FULLY_CONNECTED")
    assert last.sqnr_db == pytest.approx(signal_to_noise(actual, expected), abs=1e-6)
    assert all(5 < layer.sqnr_db < 80 for layer in layers if "CONV" in layer.operator)
    steps = [
        (layer.output_high - layer.output_low) / 255
        for layer in layers
        if layer.output_low is not None
    ]
    assert len(steps) >= 5 and min(steps) > 0


def test_names_that_differ_are_matched_by_place(small_model, float_file, data):
    """The converter numbers the names of a float16 file otherwise."""
    fp16 = tfc.convert(small_model, "fp16")
    rows = trace_noise(fp16.content, float_file.read_bytes(), [data[0][:4, None]])
    kernels = [row.operator for row in rows if row.operator in ("CONV_2D", "DEPTHWISE_CONV_2D")]
    assert kernels == ["CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D"]
    assert all(50 < row.snr_db < 90 for row in rows), "float16 has 11 bits: about 70 dB"
    assert [fp16.operators[row.index].name for row in rows] == [row.operator for row in rows]


def test_what_is_missing_is_told(int8_file, tmp_path, data):
    path = tfc.html_report(int8_file, data[0], path=tmp_path / "r.html", runs=1, layer_times=False)
    text = path.read_text()
    assert "the data has no labels" in text and "no float32 model to compare with" in text
    assert "time of each layer" in text and "not asked for" in text


def test_data_without_examples_is_not_said_to_be_measured(float_file, tmp_path, data):
    for number, empty in enumerate([(data[0][:0], data[1][:0]), []]):
        path = tfc.html_report(float_file, empty, path=tmp_path / f"{number}.html", runs=1)
        text = path.read_text()
        assert "everything was measured" not in text and "at least one example" in text


def test_errors(int8_file, tmp_path, data, report):
    with pytest.raises(tfc.ConfigError, match="exists"):
        tfc.html_report(int8_file, path=report)
    with pytest.raises(tfc.ConfigError, match="at least one"):
        tfc.html_report([], path=tmp_path / "r.html")
    with pytest.raises(tfc.DataError, match="several times"):
        tfc.html_report(int8_file, iter([data]), path=tmp_path / "r.html")
    with pytest.raises(tfc.ConfigError, match="acuracy"):
        tfc.html_report(int8_file, data, path=tmp_path / "r.html", metrics="acuracy")
    with pytest.raises(tfc.ConfigError, match="runs"):
        tfc.html_report(int8_file, path=tmp_path / "r.html", runs=0)
    broken = tmp_path / "b.tflite"
    broken.write_bytes(b"no model" * 99)
    with pytest.raises(tfc.CorruptFileError):
        tfc.html_report(broken, path=tmp_path / "r.html")
    with pytest.raises(tfc.ConfigError, match="No model could be read"):
        tfc.html_report([broken, broken], path=tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_command(int8_file, data, tmp_path, capsys, monkeypatch):
    np.savez(tmp_path / "d.npz", x=data[0], y=data[1])
    arguments = ["report", str(int8_file), "--data", str(tmp_path / "d.npz"), "--runs", "1"]
    arguments += ["--no-layer-times", "--out", str(tmp_path / "r.html")]
    monkeypatch.setattr("sys.argv", ["tfcompress", *arguments])
    assert main([*arguments, "--json"]) == 0
    found, said = capsys.readouterr()
    assert json.loads(found)["path"] == str(tmp_path / "r.html")
    skipped = {entry["what"]: entry for entry in json.loads(found)["skipped"]}
    assert not skipped["time of each layer"]["asked"], "so it exits with 0"
    name = int8_file.stem
    assert f"skipped: {name}: time of each layer: not asked for" in said.splitlines()
    text = (tmp_path / "r.html").read_text()
    assert f"tfcompress report {int8_file}" in text and "accuracy by size, kB" in text
    assert main(arguments) == 2, "an existing file is not replaced unasked"


def test_command_says_what_failed(int8_file, data, tmp_path, capsys, monkeypatch):
    labelled, broken = tmp_path / "d.npz", tmp_path / "broken.tflite"
    np.savez(labelled, x=data[0], y=data[1])
    broken.write_bytes(int8_file.read_bytes()[:-400])
    common = ["--data", str(labelled), "--runs", "1", "--no-layer-times", "--overwrite"]
    common += ["--out", str(tmp_path / "r.html"), "--json"]

    def report(*models):
        code = main(["report", *map(str, models), *common])
        out, said = capsys.readouterr()
        asked = [entry for entry in json.loads(out)["skipped"] if entry["asked"]]
        return code, [(entry["model"], entry["what"]) for entry in asked], said

    code, asked, said = report(broken, int8_file)
    assert (code, asked) == (1, [("", str(broken))])
    assert f"skipped: {broken}: " in said
    np.savez(labelled, x=data[0], y=data[1] + 20)
    code, asked, said = report(int8_file)
    assert (code, asked) == (1, [(int8_file.stem, "accuracy")])
    assert f"skipped: {int8_file.stem}: accuracy: Labels must be from 0 to 9" in said
    np.savez(labelled, x=data[0])
    assert report(int8_file)[:2] == (0, []), "inputs alone ask for no accuracy"

    def fails(*_, **__):
        raise tfc.DeviceError("no clock")

    monkeypatch.setattr("tfcompress.reporting.collect.benchmark", fails)
    assert report(int8_file)[:2] == (1, [(int8_file.stem, "latency")])
    for backend in ("gpu", "npu"):
        assert main(["report", str(int8_file), *common, "--backend", backend]) == 2
        assert f"Received: '{backend}'" in capsys.readouterr().err


def test_pareto_front_is_that_of_comparing_all():
    generator = np.random.default_rng(0)
    for below in (False, True):
        points = [Point(i, str(i), *generator.integers(0, 9, 2).tolist()) for i in range(25)]

        def beats(a, b, below=below):
            gain = a.y <= b.y if below else a.y >= b.y
            return a.x <= b.x and gain and (a.x, a.y) != (b.x, b.y)

        expected = {(p.x, p.y) for p in points if not any(beats(q, p) for q in points)}
        assert {(p.x, p.y) for p in pareto(points, better_below=below)} == expected


def test_plots_of_odd_values():
    one = scatter([Point(1, "a", 0.0, 0.5)], "size", "accuracy", "k")
    same = scatter([Point(i, "a", 2.0, 0.5) for i in range(30)], "size", "accuracy", "k")
    assert "nan" not in one + same and "inf" not in one + same
    assert "0 weights other than 0" in bars(Histogram(-0.5, 0.5, (0,) * 40, 9), "n", "k")


def test_axes_have_round_numbers_that_are_said_as_they_are():
    for low, high in [(0.815, 0.816), (0, 1), (0.12, 0.98), (3, 163.3), (1e-3, 2e-3), (5, 5)]:
        ticks = _ticks([low, high])
        assert ticks[0] <= low and high <= ticks[-1] and 3 <= len(ticks) <= 8
        assert [float(_figure(tick)) for tick in ticks] == ticks
