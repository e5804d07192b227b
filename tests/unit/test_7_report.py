"""The report: what lies behind a figure, formulas, the built site read from its files, and the site in a real browser."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from sarnb import report
from sarnb.cli import app
from sarnb.errors import InputError
from sarnb.results import read_cells
from sarnb.settings import notebooks_folder, repository

make_id = pytest.importorskip("docutils.nodes", reason="the report needs its packages: pip install -e '.[report]'").make_id
STUDY = repository() / "results" / "study"
MEGABYTE = 10**6


def _cells(*sources: str) -> list[dict]:
    return [{"cell_type": "code", "source": source} for source in sources]


def test_behind_a_figure_lie_the_nearest_tables_of_what_its_cell_reads():
    cells = _cells(
        "runs = train()\ncounts = count(runs)\nstudy.table(counts, 'counts', 'Counts')",
        "by_decoder = measures(runs)\nstudy.table(pd.concat(by_decoder.values()), 'measures', 'Measures')",
        "first = next(iter(by_decoder.values()))",
        "figure = bars(counts)\nstudy.figure(figure, 'bars', 'Bars')",
        "figure = dots(first)\nstudy.figure(figure, 'dots', 'Dots')",
        "for name in names:\n    study.figure(sheet(runs, name), f'sheet_{name}', 'Images')",
        "for table, name in ((counts, 'front'), (counts, 'other')):\n    study.figure(bars(table), name, 'Fronts')",
    )
    found = report.behind_figures(cells, ["bars", "dots", "sheet_a", "sheet_b", "front", "elsewhere"])
    assert found == {
        **{"bars": (3, ["counts"]), "dots": (4, ["measures"]), "sheet_a": (5, []), "sheet_b": (5, [])},
        "front": (6, ["counts"]),
    }


def test_pages_show_a_picture_that_is_small_and_true_and_offer_long_tables_zipped(tmp_path):
    results, source = tmp_path / "results", tmp_path / "source"
    for folder in (results / "figures", results / "tables", source / "figures", source / "tables", source / "thumbnails"):
        folder.mkdir(parents=True)
    grains = np.random.default_rng(0).rayleigh(60, (512, 512)).clip(0, 255).astype(np.uint8)
    Image.fromarray(grains).save(results / "figures/speckle.png")
    shown, thumbnail = report._pictures(results, "figures/speckle.png", source)
    assert shown == "figures/speckle.webp"
    assert (source / shown).stat().st_size < report.SAVING * (results / "figures/speckle.png").stat().st_size
    seen = np.asarray(Image.open(source / shown).convert("L"), float)
    assert seen.shape == grains.shape, "at its own size, so that speckle keeps its grain"
    assert np.corrcoef(seen.ravel(), grains.ravel())[0, 1] > 0.98
    assert abs(seen.std() / seen.mean() / (grains.std() / grains.mean()) - 1) < 0.05, "the contrast of speckle is kept"
    assert max(Image.open(source / thumbnail).size) == report.THUMBNAIL

    tables = {"long": pd.DataFrame({"a": np.arange(60_000)}), "short": pd.DataFrame({"a": [1]})}
    for name, table in tables.items():
        table.to_csv(results / "tables" / f"{name}.csv", index=False)
    offered = report._tables(results, source)
    assert offered == {"tables/long.csv": "tables/long.csv.gz", "tables/short.csv": "tables/short.csv"}
    for name, table in tables.items():
        pd.testing.assert_frame_equal(pd.read_csv(source / offered[f"tables/{name}.csv"]), table)


def test_every_formula_of_the_notebooks_can_be_drawn():
    from markdown_it import MarkdownIt
    from mdit_py_plugins.dollarmath import dollarmath_plugin

    reader, drawn = MarkdownIt().use(dollarmath_plugin), 0
    for path in sorted(notebooks_folder().glob("*.ipynb")):
        for cell in (cell for cell in read_cells(path) if cell["cell_type"] == "markdown"):
            tokens = [token for line in reader.parse(cell["source"]) for token in (line, *(line.children or []))]
            for token in (token for token in tokens if token.type.startswith("math")):
                drawn += report.mathml(token.content, "block" in token.type).startswith("<math")
    assert drawn > 100


def test_a_formula_is_mathml_of_the_same_meaning():
    (fraction,) = ElementTree.fromstring(report.mathml(r"\frac{a}{b}")).iter("{http://www.w3.org/1998/Math/MathML}mfrac")
    assert ["".join(part.itertext()) for part in fraction] == ["a", "b"]
    assert "…" in report.mathml(r"1, \dots, n") and "∘" in report.mathml("30°")
    assert "munder" not in report.mathml(r"\bar\alpha_t"), "the index stands next to the letter, not below it"


def test_words_behind_a_colon_are_no_type():
    head, fields = ["A title : stays.", ""], ["Parameters", "----------", "images : uint8 [H, W],", "    in rows.", ""]
    lines = [*head, *fields, "Returns", "-------", "x : y."]
    report.plain_fields(None, "function", "f", None, None, lines)
    assert lines == [*head, *fields[:2], "images", "    uint8 [H, W],", "    in rows.", "", "Returns", "-------", "x : y."]


@pytest.mark.parametrize("name", ["05.failed.ipynb", None])
def test_without_executed_notebooks_a_sentence_says_what_to_do(name, tmp_path, monkeypatch):
    monkeypatch.setenv("SARNB_RESULTS", str(tmp_path))
    if name:
        (tmp_path / "smoke/notebooks").mkdir(parents=True)
        (tmp_path / "smoke/notebooks" / name).write_text("{}")
    with pytest.raises(InputError, match="smoke: holds no executed notebooks; run them first, by ./run_all.sh with"):
        CliRunner().invoke(app, ["report", "--profile", "smoke"], catch_exceptions=False)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ([name] if name else [])


def test_a_report_that_fails_half_way_leaves_the_earlier_one_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks/00_a.ipynb").write_text(json.dumps({"cells": []}))

    def build(fails: bool):
        def run(source: Path, site: Path, doctrees: Path) -> str:
            site.mkdir()
            (site / "index.html").write_text("half" if fails else "whole")
            if fails:
                raise RuntimeError("stopped")
            return ""

        monkeypatch.setattr(report, "_run_sphinx", run)
        return report.build_report(tmp_path, tmp_path / "report")

    build(fails=False)
    with pytest.raises(RuntimeError):
        build(fails=True)
    assert (tmp_path / "report/index.html").read_text() == "whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notebooks", "report"]
    (tmp_path / "report/index.html").write_text("mine")
    with pytest.raises(InputError, match="index.html, not written here or changed since"):
        build(fails=False)


@pytest.mark.parametrize(("content", "words"), [(None, "has recorded it, and it is not there"), (b"x", "is no picture")])
def test_a_recorded_figure_that_is_lost_or_damaged_is_named(content, words, tmp_path):
    entry = {"path": "figures/a.png", "kind": "figure", "meaning": "A picture", "sha256": ""}
    manifest = {"producer": "00_a", "profile": "smoke", "stamp": "", "upstream": {}, "artefacts": [entry]}
    for folder in ("notebooks", "manifest", "figures"):
        (tmp_path / folder).mkdir()
    (tmp_path / "notebooks/00_a.ipynb").write_text(json.dumps({"cells": []}))
    (tmp_path / "manifest/00_a.json").write_text(json.dumps(manifest))
    if content:
        (tmp_path / "figures/a.png").write_bytes(content)
    with pytest.raises(InputError, match=f"figures/a.png: .*{words}.*run"):
        report.build_report(tmp_path, tmp_path / "report")
    assert not (tmp_path / "report").exists() and not list(tmp_path.glob(".report*"))


# ---- the whole site, of the committed study ----


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The study's report and its remarks."""
    folder = tmp_path_factory.mktemp("site") / "report"
    return folder, report.build_report(STUDY, folder)


class Page(HTMLParser):
    """Addresses, anchors and pictures of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links, self.loaded, self.anchors, self.unnamed = [], [], set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.anchors |= {values[key] for key in ("id", "name") if values.get(key)}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag in ("img", "script", "source") and "src" in values or tag == "link" and values.get("rel") == "stylesheet":
            self.loaded.append(values.get("src") or values.get("href"))
        if tag == "img" and not values.get("alt"):
            self.unnamed.append(values.get("src"))


@pytest.mark.slow
def test_the_site_is_whole_small_local_and_every_link_leads_somewhere(site):
    folder, remarks = site
    assert remarks == ""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 30 * MEGABYTE
    pages = {path.resolve(): Page(path) for path in files if path.suffix == ".html"}
    broken = defaultdict(list)
    for path, page in pages.items():
        for address in page.loaded:
            if urlsplit(address).scheme or address.startswith("/") or not (path.parent / unquote(urlsplit(address).path)).is_file():
                broken[path.name].append(address)
        for address in page.links:
            parts = urlsplit(address)
            if parts.scheme in ("http", "https"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file() or (parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors):
                broken[path.name].append(address)
        broken[path.name] += [f"no words: {address}" for address in page.unnamed]
    assert not {name: found for name, found in broken.items() if found}
    texts = [path for path in files if path.suffix in (".html", ".js", ".css", ".txt", ".json")]
    assert not [path.name for path in texts if str(repository()) in path.read_text(encoding="utf-8", errors="replace")]


@pytest.mark.slow
def test_the_first_page_answers_with_the_numbers_of_the_records(site):
    folder, _ = site
    text = (folder / "index.html").read_text(encoding="utf-8")
    manifests = {path.stem: json.loads(path.read_text()) for path in (STUDY / "manifest").glob("*.json")}
    figures = {Path(entry["path"]).stem for found in manifests.values() for entry in found["artefacts"] if entry["kind"] == "figure"}
    for name in figures:
        assert f"#{make_id(f'figure-{name}')}" in text, name
    ranks = (STUDY / "tables/evaluation_ranks.csv").read_text().splitlines()
    first = dict(zip(ranks[0].split(","), ranks[1].split(",")))
    assert f"{float(first['average rank']):.1f} [{float(first['lo']):.1f}, {float(first['hi']):.1f}]" in text
    assert "evaluation_ranks.csv" in text


# ---- in a browser ----


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, driven by Playwright."""
    program = shutil.which("chromium")
    if not program or importlib.util.find_spec("playwright") is None or importlib.util.find_spec("axe_playwright_python") is None:
        pytest.skip("no browser to try the report in: apt-get install chromium, and pip install -e '.[browser]'")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def open_page(browser, site):
    """Opens a page of the site in a window; what goes wrong in it is found at the end of the test."""
    wrong, contexts = [], []

    def opened(name: str, width: int = 1400, scheme: str = "light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url}"))
        page.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else wrong.append(request.url))
        path, _, query = name.partition("?")
        page.goto((site[0] / path).as_uri() + f"?{query}")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


PAGES = ["index.html", "notebooks/index.html", "notebooks/05_unet_full.html", "api/sarnb.plots.html"]
LOOKS = [(1400, "light"), (390, "dark")]


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), LOOKS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_every_picture_fits_its_window_and_can_be_read(open_page, name, width, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(name, width, scheme)
    page.evaluate("Promise.all([...document.images].map(image => { image.loading = 'eager'; return image.decode(); }))")
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width, "only tables, code and formulas scroll sideways"
    rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}  # contrast AA is one of them
    rules["preload"] = False  # of style sheets, which a page that is a file may not read
    rules["rules"] = {"definition-list": {"enabled": False}}  # Sphinx's own lists of functions are none to axe
    found = Axe().run(page, options=rules).response["violations"]
    assert {rule["id"]: [node["html"][:200] for node in rule["nodes"]][:3] for rule in found} == {}


@pytest.mark.slow
def test_the_keyboard_alone_reaches_every_link_and_button(open_page):
    page = open_page("notebooks/index.html")
    count = page.evaluate(
        """() => {
            const all = [...document.querySelectorAll("a[href], button, input, select, summary")];
            const seen = all.filter(one => one.checkVisibility({visibilityProperty: true}) && one.tabIndex >= 0 && !one.disabled);
            seen.forEach((one, number) => { one.dataset.stop = number; });
            return seen.length;
        }"""
    )
    reached = set()
    for _ in range(2 * count + 50):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.dataset.stop"))
    assert count > 20 and {str(number) for number in range(count)} <= reached


@pytest.mark.slow
def test_search_theme_and_next_page_work_without_a_network(open_page):
    page = open_page("search.html?q=speckle")
    page.wait_for_selector("#search-results li a")
    page.click("#search-results li a")
    assert "speckle" in page.inner_text("main").lower()
    page = open_page("notebooks/05_unet_full.html")
    page.click("a.right-next")
    assert page.url.split("#")[0].endswith("notebooks/06_unet_lora.html")
    for theme in ("dark", "light"):
        page.locator("button.theme-switch-button:visible").first.click()
        page.locator(f"button.theme-change-button[data-mode={theme}]:visible").first.click()
        assert page.evaluate("document.documentElement.dataset.theme") == theme
