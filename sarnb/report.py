"""The report of a results folder: a static site of its executed notebooks, their records and the package's docstrings.

Sphinx reads the notebooks as they were run, and executes nothing. What the site shows is a notebook's own output, or
comes from the records in ``manifest`` and the tables that they list. This module is also the small extension of Sphinx
that the site needs.
"""

from __future__ import annotations

import ast
import gzip
import importlib.util
import io
import json
import pkgutil
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

import sarnb
from sarnb.data.dataset import CARDS
from sarnb.data.files import check_out, replace_folder, saving, working_in
from sarnb.errors import InputError, first_line
from sarnb.results import VERDICT, read_cells, read_manifests, took, write_atomically
from sarnb.settings import cores, notebooks_folder

QUESTION = "How should a text-to-image diffusion model be fine-tuned so that it draws radar images?"
ANSWER = "evaluation_ranks"  # the figure, and the table of the same name, that notebook 10 answers the question by
VALUES = "evaluation_verdict"  # the table of the measures themselves
TARGETS = ("evaluation_targets", "evaluation_aims")  # the first of them that there is; the second of older editions
THUMBNAIL = 400  # longer side of a picture in the gallery [px], where it is shown at 240
LOSSY = 85  # WebP quality of the pictures in the pages; the exact ones are those in figures
SAVING = 0.8  # they are shown as they are where WebP would leave more than this part of them
ZIPPED = 200_000  # a table of more bytes is offered as .csv.gz, which pandas and R read as it is
SITE: dict[str, Any] = {  # Sphinx's configuration; see its documentation, and those of myst-nb and the theme
    "project": "sarnb",
    "extensions": ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sarnb.report"],
    "exclude_patterns": ["tables", "figures"],  # what the pages show of them is copied; their own pages are not made
    "html_theme": "pydata_sphinx_theme",
    "html_title": "sarnb",
    "html_math_renderer": "mathml",
    "html_css_files": ["report.css"],
    "html_static_path": ["_static"],
    "html_copy_source": False,
    "html_context": {"default_mode": "auto"},  # light or dark as the reader's system is
    "html_show_sourcelink": False,
    "html_show_search_summary": False,  # a page that is a file may not read others to quote them
    "html_theme_options": {
        "navbar_align": "left",
        "footer_start": [],
        "footer_end": [],
        "show_toc_level": 2,
        "navigation_with_keys": False,
        "secondary_sidebar_items": ["page-toc"],
    },
    "html_sidebars": {"index": []},
    "nb_execution_mode": "off",
    "nb_merge_streams": True,
    "myst_enable_extensions": ["dollarmath", "colon_fence"],
    "myst_heading_anchors": 4,
    # The last: a name that several classes have, as ``labels``, is no fault; a link without a target is another warning.
    "suppress_warnings": ["myst.header", "mystnb.unknown_mime_type", "ref.python"],
    "autodoc_member_order": "bysource",
    "autodoc_preserve_defaults": True,
    "autodoc_default_options": {"members": True, "no-value": True},
    "napoleon_google_docstring": False,
    "napoleon_use_ivar": True,
    "python_maximum_signature_line_length": 100,
    "toc_object_entries_show_parents": "hide",
}


def build_report(results: Path, out: Path) -> str:
    """Build the site from what lies in a results folder; an earlier one is replaced when the new one is whole.

    Parameters
    ----------
    results : the results folder of a profile, such as ``results/quick``.
    out : the site's folder; its first page is ``index.html``.

    Returns
    -------
    remarks : what Sphinx remarked, one line each; empty where there is nothing to remark.

    Raises
    ------
    InputError
        There is no executed notebook, a recorded file is missing or damaged, Sphinx is not installed, or ``out`` cannot be
        written to.
    """
    missing = [name for name in ("sphinx", "myst_nb", "pydata_sphinx_theme") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"the report needs {missing[0]}, which is not installed; pip install -e '.[report]'")
    executed = sorted((results / "notebooks").glob("*.ipynb"))
    notebooks = [path for path in executed if not path.name.endswith(".failed.ipynb")]
    if not notebooks:
        raise InputError(f"{results}: holds no executed notebooks; run them first, by ./run_all.sh with the same --profile and --data")
    check_out(out, "report")
    with working_in(out), saving(out):
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            _write_sources(results, notebooks, work / "source")
            remarks = _run_sphinx(work / "source", work / "site", work / "doctrees")
            replace_folder(work / "site", out, "report")
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return remarks


def _write_sources(results: Path, notebooks: Sequence[Path], source: Path) -> None:
    """The pages that Sphinx reads, as Markdown, reStructuredText and notebooks."""
    manifests = read_manifests(results)
    (source / "notebooks").mkdir(parents=True)
    for name in ("figures", "tables", "thumbnails"):
        (source / name).mkdir()
    chapters = [_chapter(results, path, manifests.get(path.stem, {})) for path in notebooks]
    figures = [figure for chapter in chapters for figure in chapter["figures"]]
    with ThreadPoolExecutor(cores()) as pool:
        for figure, names in zip(figures, pool.map(lambda figure: _pictures(results, figure["path"], source), figures)):
            figure["shown"], figure["thumbnail"] = names
    shown = {figure["path"]: figure["shown"] for figure in figures}
    for path, chapter in zip(notebooks, chapters):
        text = _with_targets(path, chapter["figures"])
        write_atomically(source / "notebooks" / path.name, re.sub(r"figures/[\w.-]+\.png", lambda name: shown.get(name[0], name[0]), text))
    pages = Environment(loader=FileSystemLoader(CARDS), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    pages.filters["literal"] = _literal
    pages.filters["offered"] = _tables(results, source).__getitem__
    course = notebooks_folder() / "COURSE.md"
    if course.is_file():
        write_atomically(source / "notebooks" / course.name, _without_links(course, [path.name for path in notebooks]))
    answer = _answer(results, manifests.get(VERDICT, {}))
    answer["shown"] = answer["figure"] and shown[answer["figure"]["path"]]
    facts = {"question": QUESTION, "chapters": chapters, "answer": answer, "course": course.is_file()}
    for page in ("index", "notebooks/index"):
        write_atomically(source / f"{page}.md", pages.get_template(f"report-{page.replace('/', '-')}.md").render(facts))
    write_atomically(source / "_static" / "report.css", (CARDS / "report.css").read_text(encoding="utf-8"))
    _write_api(source / "api")


def _write_api(folder: Path) -> None:
    """A page for every module of the package, and one that lists them."""
    modules = [info.name for info in pkgutil.walk_packages(sarnb.__path__, "sarnb.")]
    modules = [name for name in modules if not name.endswith("__main__")]
    for name in modules:
        write_atomically(folder / f"{name}.rst", f"{name}\n{'=' * len(name)}\n\n.. automodule:: {name}\n")
    head = "Reference\n=========\n\nWhat the modules of the package offer, from their docstrings.\n\n"
    lines = "".join(f"   {name}\n" for name in modules)
    write_atomically(folder / "index.rst", f"{head}.. toctree::\n   :maxdepth: 1\n\n{lines}")


def _run_sphinx(source: Path, site: Path, doctrees: Path) -> str:
    """Build the pages in a process of their own, because Sphinx loads the package's modules anew; returns what it remarked."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(_build_pages, source, site, doctrees).result()


def _build_pages(source: Path, site: Path, doctrees: Path) -> str:
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    remarks = io.StringIO()
    with patch_docutils(), docutils_namespace():
        app = Sphinx(source, None, site, doctrees, "html", SITE, status=None, warning=remarks, freshenv=True, parallel=cores())
        app.build(force_all=True)
    shutil.rmtree(site / "_sources", ignore_errors=True)  # empty
    # For building again, for links from other sites, a template that the theme leaves behind, and for debugging its scripts.
    for name in (".buildinfo", "objects.inv", "_static/webpack-macros.html"):
        (site / name).unlink(missing_ok=True)
    for path in (site / "_static").rglob("*.map"):
        path.unlink()
    return re.sub(r"\x1b\[[\d;]*m", "", remarks.getvalue()).replace(f"{source}/", "").strip()


# ---- what the pages say ----


def _chapter(results: Path, path: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A notebook as the pages list it: title, how long it ran, what it found, its figures and its tables."""
    from docutils.nodes import make_id  # as Sphinx makes them of names

    cells, words = read_cells(path), {entry["path"]: entry["meaning"] for entry in manifest.get("artefacts", [])}
    for name in words:
        if name.startswith(("figures/", "tables/")) and not (results / name).is_file():
            raise InputError(f"{results / name}: {path.stem} has recorded it, and it is not there; run that notebook again")
    tables = {name: meaning for name, meaning in words.items() if name.endswith(".csv")}
    pictures = [name for name in words if name.startswith("figures/")]
    files = {Path(name).stem: name for name in sorted(pictures, reverse=True)}  # where both are there: PNG, not SVG
    places = behind_figures(cells, list(files))
    figures = []
    for name in dict.fromkeys(Path(picture).stem for picture in pictures):
        place, behind = places.get(name, (None, []))
        figure = {"name": name, "path": files[name], "meaning": words[files[name]], "cell": place}
        figure["anchor"] = "" if place is None else f"#{make_id(f'figure-{name}')}"
        figure["tables"] = [f"tables/{table}.csv" for table in behind if f"tables/{table}.csv" in tables]
        figures.append(figure)
    prose = "\n".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown")
    title = re.search(r"^# (.+)$", prose, re.MULTILINE)
    return {
        "name": path.stem,
        "title": title[1] if title else path.stem,
        "took": took(manifest) if manifest else "",
        "found": manifest.get("found", []),
        "figures": figures,
        "tables": tables,
    }


def _answer(results: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What the first page says: the verdict's sentences, its figure and table, the targets, and what they rest on."""
    recorded = {Path(entry["path"]).name: entry for entry in manifest.get("artefacts", [])}

    def table(name: str) -> pd.DataFrame:
        return pd.read_csv(results / "tables" / f"{name}.csv") if f"{name}.csv" in recorded else pd.DataFrame()

    ranks, values, shown = table(ANSWER), table(VALUES), pd.DataFrame()
    if len(ranks) and len(values):
        split = ranks["split"].iloc[0]  # all groups of classes together, where there are several
        ranks, values = ranks[ranks["split"] == split], values[values["split"] == split].drop(columns="split")
        words = [f"{row['average rank']:.1f} [{row['lo']:.1f}, {row['hi']:.1f}]" for _, row in ranks.iterrows()]
        order = list(dict.fromkeys([*ranks["strategy"], *values["strategy"]]))  # anchors last
        shown = values.set_index("strategy").loc[order]
        shown.insert(0, "average rank", pd.Series(words, ranks["strategy"]))
        shown = shown.reset_index()
    return {
        "notebook": VERDICT,
        "manifest": manifest,
        "parameters": manifest.get("parameters", {}),
        "found": manifest.get("found", []),
        "figure": recorded.get(f"{ANSWER}.svg") or recorded.get(f"{ANSWER}.png"),
        "table": _markdown(shown),
        "meaning": recorded[f"{VALUES}.csv"]["meaning"] if len(shown) else "",
        "tables": [f"tables/{ANSWER}.csv", f"tables/{VALUES}.csv"],
        "targets": next(filter(None, (_markdown(table(name)) for name in TARGETS)), ""),
        "took": took(manifest) if manifest else "",
    }


def _markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, names of columns without underscores; empty for an empty one."""
    if table.empty:
        return ""

    def shown(value: Any) -> str:
        if isinstance(value, str):
            return _literal(value)
        return "" if pd.isna(value) else f"{value:g}" if float(value).is_integer() else f"{value:.3g}"

    numbers = [pd.api.types.is_numeric_dtype(column) for _, column in table.items()]
    texts = table.astype(object).map(shown).rename(columns=lambda name: str(name).replace("_", " "))
    align = ["right" if number else "left" for number in numbers]
    return texts.to_markdown(index=False, disable_numparse=True, colalign=align)


def _literal(text: str) -> str:
    """A text as MyST shows it letter by letter: a name such as <SAR> is no markup."""
    return re.sub(r"([\\`*_{}\[\]<>$#|~])", r"\\\1", text)


def behind_figures(cells: Sequence[Mapping[str, Any]], figures: Sequence[str]) -> dict[str, tuple[int, list[str]]]:
    """For each figure the number of the cell that records it, and the recorded tables that belong to it.

    These are the tables that the same cell records, or whose data frame it reads; where there is none, those of a data
    frame from which something was made that it reads. A figure of images may have none.

    Parameters
    ----------
    cells : of a notebook, see ``sarnb.results.read_cells``.
    figures : names of the recorded figures.
    """
    made_of: dict[str, set[str]] = {}  # variable -> the variables in the expression that was its last value
    tables: dict[str, list[str]] = {}  # variable -> the tables that it was recorded as
    found: dict[str, tuple[int, list[str]]] = {}
    for number, cell in enumerate(cells):
        try:
            tree = ast.parse(cell["source"]) if cell["cell_type"] == "code" else ast.Module([], [])
        except SyntaxError:  # IPython's own commands, which no notebook of the study has
            continue
        nodes = list(ast.walk(tree))
        recorded: list[str] = []
        behind: list[str] = []
        for assignment in (node for node in nodes if isinstance(node, ast.Assign)):
            for name in (name for target in assignment.targets for name in _names(target)):
                made_of[name] = _names(assignment.value)
                tables.pop(name, None)  # it is something else now
        for node in nodes:
            match node:
                case ast.Call(func=ast.Attribute(attr="table"), args=[value, ast.Constant(value=str(table)), *_]):
                    behind.append(table)
                    if root := _root(value):
                        tables.setdefault(root, []).append(table)
                case ast.Call(func=ast.Attribute(attr="figure"), args=[_, ast.Constant() | ast.JoinedStr() as text, *_]):
                    parts = text.values if isinstance(text, ast.JoinedStr) else [text]
                    fixed = [re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".+" for part in parts]
                    recorded += [name for name in figures if re.fullmatch("".join(fixed), name)]
                case ast.Call(func=ast.Attribute(attr="figure"), args=[_, ast.Name(), *_]):  # a name out of a list in the cell
                    words = {node.value for node in nodes if isinstance(node, ast.Constant)}
                    recorded += [name for name in figures if name in words]
        read = _names(tree)
        behind += [table for name in tables if name in read for table in tables[name]]
        if not behind:
            read = set().union(*(made_of.get(name, set()) for name in read))
            behind = [table for name in tables if name in read for table in tables[name]]
        found |= {name: (number, list(dict.fromkeys(behind))) for name in recorded}
    return found


def _names(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def _root(value: ast.AST) -> str:
    """The variable that a recorded table is, or is a view of: of ``a.drop(...)`` and ``pd.concat(a.values())`` it is a."""
    match value:
        case ast.Name(id=name):
            return name
        case ast.Call(func=ast.Attribute(value=ast.Name(id="pd")), args=[first, *_]):
            return _root(first)
        case ast.Call(func=ast.Attribute(value=inner)) | ast.Attribute(value=inner) | ast.Subscript(value=inner):
            return _root(inner)
    return ""


def _with_targets(path: Path, figures: Sequence[Mapping[str, Any]]) -> str:
    """A notebook's text with a place to link to before each cell that records a figure, and the picture's meaning in words."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for figure in figures:
        if figure["cell"] is not None:
            notebook["cells"][figure["cell"]]["metadata"].setdefault("mystnb", {})["image"] = {"alt": figure["meaning"]}
    for number in sorted({figure["cell"] for figure in figures} - {None}, reverse=True):
        names = [figure["name"] for figure in figures if figure["cell"] == number]
        targets = {"source": "\n".join(f"(figure-{name})=" for name in names), "id": f"figures-{number}"}
        notebook["cells"].insert(number, {"cell_type": "markdown", "metadata": {}, **targets})
    return json.dumps(notebook, ensure_ascii=False)


def _without_links(page: Path, known: Sequence[str]) -> str:
    """A page's text, where links to notebooks that have not been run are their words alone."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"\[([^\]]+)\]\((\w+\.ipynb)\)", lambda link: link[0 if link[2] in known else 1], text)


def _pictures(results: Path, name: str, source: Path) -> tuple[str, str]:
    """A figure as the pages show it, and a small copy for the gallery; a drawing is both. The paths are from the pages' root."""
    path, shown = results / name, source / name
    if path.suffix == ".svg":
        shutil.copyfile(path, shown)
        return name, name
    try:
        picture = Image.open(path).convert("RGB")
    except OSError as error:
        raise InputError(f"{path}: is no picture ({first_line(error)}); run the notebook that draws it again") from None
    picture.save(shown.with_suffix(".webp"), quality=LOSSY)
    if shown.with_suffix(".webp").stat().st_size > SAVING * path.stat().st_size:
        shown.with_suffix(".webp").unlink()
        shutil.copyfile(path, shown)
    else:
        shown = shown.with_suffix(".webp")
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    picture.save(source / "thumbnails" / f"{path.stem}.webp", quality=80)
    return f"figures/{shown.name}", f"thumbnails/{path.stem}.webp"


def _tables(results: Path, source: Path) -> dict[str, str]:
    """Copy the tables, long ones zipped; gives for each the path from the pages' root that it is offered by."""
    offered = {}
    for path in sorted((results / "tables").glob("*.csv")):
        content, name = path.read_bytes(), f"tables/{path.name}"
        offered[name] = name + (".gz" if len(content) > ZIPPED else "")
        (source / offered[name]).write_bytes(gzip.compress(content, mtime=0) if len(content) > ZIPPED else content)
    return offered


# ---- formulas, as an extension of Sphinx: MathML, which browsers draw by themselves, needs no script and no fonts ----


def mathml(formula: str, block: bool = False) -> str:
    """A formula of LaTeX as MathML.

    Raises
    ------
    docutils.utils.math.MathError
        A command that docutils does not know.
    """
    from docutils.utils.math.latex2mathml import tex2mathml

    accent = r"\\(?:bar|hat|tilde|dot|vec|widehat|overline)\s*(?:\\[a-zA-Z]+|[a-zA-Z]|\{[^{}]*\})"
    for command, known in (
        (r"\\dots(?![a-z])", r"\\ldots"),
        ("°", r"^\\circ{}"),
        (r"\\[bB]igg?[lrm]?(?![a-z])", ""),
        (r"\\[td]?frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\A\s*(?=[_^])", "{}"),
        (rf"({accent})(?=[_^])", r"\1{}"),  # else docutils sets an index below the accented letter
    ):
        formula = re.sub(command, known, formula)
    return tex2mathml(formula, as_block=block)


def plain_fields(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Put the words behind ``name :`` on a line of their own: numpydoc takes them for a type; here they are the meaning.

    A "|" stands for a modulus or a condition here; to Sphinx it would be markup.
    """
    text: list[str] = []
    section = ""
    for line, following in zip(lines, [*lines[1:], ""]):
        if following and set(following) == {"-"}:
            section = line
        line = "``".join(part if number % 2 else part.replace("|", r"\|") for number, part in enumerate(line.split("``")))
        field = re.fullmatch(r"(\S.*?) : (\S.*)", line)
        text += [field[1], f"    {field[2]}"] if field and section in ("Parameters", "Attributes", "Raises") else [line]
    lines[:] = text


def setup(app: Any) -> dict[str, bool]:
    """What Sphinx calls: adds the renderer ``mathml`` of formulas, and reads docstrings as they are meant."""
    from docutils.nodes import SkipNode
    from docutils.utils.math import MathError
    from sphinx.util.logging import getLogger

    def visit(block: bool) -> Any:
        def write(translator: Any, node: Any) -> None:
            formula = node.astext()
            try:
                drawn = mathml(formula, block)
            except (MathError, IndexError) as error:
                getLogger(__name__).warning("formula %r: %s", formula, first_line(error), location=node)
                drawn = f"<code>{translator.encode(formula)}</code>"
            translator.body.append(f'<div class="math" tabindex="0">{drawn}</div>' if block else drawn)
            raise SkipNode

        return write

    app.connect("autodoc-process-docstring", plain_fields, priority=400)  # before napoleon, which stands at 500
    app.add_html_math_renderer("mathml", (visit(False), None), (visit(True), None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
