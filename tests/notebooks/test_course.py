"""The course: exercises whose solutions run, words that are explained and linked, lesson plans that add up, the students' edition."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from sarnb.cli import app
from sarnb.graph import read_graph
from sarnb.settings import repository

FOLDER = repository() / "notebooks"
NAMES = sorted(read_graph(FOLDER))
COURSE = (FOLDER / "COURSE.md").read_text(encoding="utf-8")
GLOSSARY = re.findall(r"^#### (.+)$", COURSE, re.MULTILINE)
# Where no word is linked: code, formulas, headings, rows of tables, tags, links, and the references.
APART = r"^## References.*|```.*?```|\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|^#.*?$|^\|.*?$|<[^>]+>|!?\[[^\]]*\]\([^)]*\)"


def _cells(name: str) -> list[str]:
    """The texts of a notebook's Markdown cells."""
    cells = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]


def _exercises(name: str) -> list[tuple[str, str, str]]:
    """Kind, question and solution of each exercise of a notebook."""
    text = next(text for text in _cells(name) if "## Exercises" in text).split("## Exercises")[1].split("## References")[0]
    found = re.findall(r"^(\d+)\. \*\*(\w+)\.\*\* (.*?)<details><summary>Solution</summary>(.*?)</details>", text, re.MULTILINE | re.DOTALL)
    assert [int(number) for number, *_ in found] == list(range(1, text.count("<details>") + 1)), "numbered from 1, each with its kind"
    return [(kind, question, solution) for _, kind, question, solution in found]


def slug(term: str) -> str:
    """The anchor that Markdown renderers give to a heading."""
    return re.sub(r"[^\w -]", "", term.lower()).replace(" ", "-")


def first_use(cells: list[str], term: str) -> tuple[int, int, int] | None:
    """Cell, begin and end of the first place outside of ``APART`` where a word of the glossary, or its plural, stands."""
    pattern = re.compile(rf"(?<![\w-]){re.escape(term)}s?(?![\w-])".replace(r"\ ", r"\s+"), re.IGNORECASE)
    for place, text in enumerate(cells):
        hidden = re.sub(APART, lambda found: "\0" * len(found[0]), text, flags=re.MULTILINE | re.DOTALL)
        if found := pattern.search(hidden):
            return place, *found.span()
    return None


@pytest.mark.parametrize("name", NAMES)
def test_exercises_are_of_three_kinds_and_code_has_code(name):
    exercises = _exercises(name)
    assert {kind for kind, *_ in exercises} == {"Think", "Code", "Criticise"}
    assert not [question for kind, question, solution in exercises if kind == "Code" and "```python" not in solution]
    assert not [question for _, question, solution in exercises if re.search(r"[^\n]```", solution)], "a fence inside of a line"


@pytest.mark.parametrize("name", NAMES)
def test_solutions_run_by_themselves_and_end_in_what_they_assert(name):
    for _, question, solution in _exercises(name):
        for source in re.findall(r"```python\n(.*?)```", solution, re.DOTALL):
            assert "assert " in source, question
            exec(compile(source, f"{name}: {question[:60]}", "exec"), {"__name__": "solution"})


@pytest.mark.parametrize("name", NAMES)
def test_words_of_the_glossary_are_linked_where_they_stand_first(name):
    cells = _cells(name)
    targets = {term: f"](COURSE.md#{slug(term)})" for term in GLOSSARY}
    links = re.findall(r"\]\(COURSE\.md[^)]*\)", "".join(cells))
    assert set(links) <= set(targets.values()) and len(links) == len(set(links)), "a link without its entry, or two to one"
    for term, target in targets.items():
        use = first_use(cells, term)
        linked = next((place for place, text in enumerate(cells) if target in text), None)
        if linked is None:
            assert use is None, f"{term} stands in a notebook without a link"
        elif use is not None:
            assert (linked, cells[linked].index(target)) < use[:2], f"{term} is linked behind its first use"


def test_every_word_of_the_glossary_is_used():
    everything = "".join(text for name in NAMES for text in _cells(name))
    assert not [term for term in GLOSSARY if f"](COURSE.md#{slug(term)})" not in everything]
    assert len({slug(term) for term in GLOSSARY}) == len(GLOSSARY)


def _table(heading: str) -> list[list[str]]:
    """Cells of the first table below a heading, without its head."""
    part = COURSE.split(f"# {heading}\n")[1]
    rows = re.search(r"(?:^\|.*\n)+", part, re.MULTILINE)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_path_and_the_week_hold_every_notebook():
    assert re.findall(r"\]\((\d\d_\w+)\.ipynb\)", COURSE) == NAMES
    assert all(int(row[2]) % 5 == 0 for row in _table("Learning path"))
    week = _table("One week: the study, read and rerun")
    assert [number for row in week for number in row[1].split(", ")] == [name[:2] for name in NAMES]
    minutes = {name[:2]: int(row[2]) for name, row in zip(NAMES, _table("Learning path"))}
    assert all(sum(minutes[number] for number in row[1].split(", ")) <= 180 for row in week), "three hours of lessons a day"
    days = [(re.findall(r"(\d\d)\.\d", row[2]), row[1].split(", ")) for row in week]
    assert all(set(exercises) == set(notebooks) for exercises, notebooks in days), "exercises are of the day's notebooks, some of each"


@pytest.mark.parametrize(("heading", "minutes"), [("90 minutes: a radar image, and a model that learns to draw it", 90),
                                                  ("One day: from speckle to a verdict", 360)])  # fmt: skip
def test_lessons_add_up(heading, minutes):
    assert sum(int(row[0]) for row in _table(heading)) == minutes


def test_exercises_and_sections_that_the_course_names_are_there():
    count = {name[:2]: len(_exercises(name)) for name in NAMES}
    named = re.findall(r"\b(\d\d)\.(\d)\b", COURSE)
    assert len(named) > 30 and not [pair for pair in named if not 1 <= int(pair[1]) <= count[pair[0]]]
    text = {name[:2]: "\n".join(_cells(name)) for name in NAMES}
    sections = re.findall(r"\| (\d\d)(?: and (\d\d))?, (\*.+?\*) \|", COURSE)
    assert len(sections) > 8
    for *numbers, headings in sections:
        for heading in re.findall(r"\*(.+?)\*", headings):
            assert all(re.search(rf"^#+ {re.escape(heading)}$", text[number], re.MULTILINE) for number in filter(None, numbers)), heading


@pytest.mark.parametrize("name", NAMES)
def test_no_section_is_put_between_a_heading_and_its_code(name):
    cells = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) if cell["cell_type"] == "markdown" else "" for cell in cells]
    heads = [re.findall(r"^#+ .+$", text, re.MULTILINE) for text in texts]
    parted = [head[-1] for head, after in zip(heads, texts[1:]) if head and re.match("#+ ", after)]
    assert not [head for head in parted if not re.match("# |## (Theory|Values|Summary)", head)]  # these stand without code


def test_the_students_edition_is_the_same_without_solutions(tmp_path):
    out = tmp_path / "student"
    for _ in range(2):  # its own files it may write again
        done = CliRunner().invoke(app, ["student", "--out", str(out)])
        assert done.exit_code == 0, done.output
    assert {path.name for path in out.glob("[!.]*")} == {path.name for path in FOLDER.iterdir() if path.is_file()}
    for name in NAMES:
        full, stripped = (json.loads((folder / f"{name}.ipynb").read_text(encoding="utf-8")) for folder in (FOLDER, out))
        assert [cell for cell in stripped["cells"] if cell["cell_type"] == "code"] == [
            cell for cell in full["cells"] if cell["cell_type"] == "code"
        ]
        text = "".join("".join(cell["source"]) for cell in stripped["cells"])
        assert "<details>" not in text and not [answer for *_, answer in _exercises(name) if answer.strip()[:40] in text]
        assert not [question for _, question, _ in _exercises(name) if question.strip() not in text]
    results, name = tmp_path / "results", NAMES[1]
    ran = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in ran["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(code, start=1):
        cell |= {"outputs": [{"output_type": "stream", "name": "stdout", "text": f"output {number}"}], "execution_count": number}
    code[-1]["source"] = "other code"
    ran["cells"].append(code[0] | {"id": "given", "metadata": {"tags": ["injected-parameters"]}})
    code[0]["outputs"].append({"output_type": "display_data", "metadata": {}, "data": {"text/markdown": "![a figure](../figures/a.png)"}})
    (results / "figures").mkdir(parents=True)
    (results / "figures" / "a.png").write_bytes(b"a picture")
    (results / "notebooks").mkdir()
    (results / "notebooks" / f"{name}.ipynb").write_text(json.dumps(ran), encoding="utf-8")
    done = CliRunner().invoke(app, ["student", "--out", str(out), "--results", str(results)])
    assert done.exit_code == 0 and f"{name} (1 cells)" in done.output, done.output
    filled = json.loads((out / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    assert "<details>" not in str(filled) and filled[[cell["id"] for cell in filled].index(code[0]["id"]) + 1]["id"] == "given-0"
    assert "](figures/a.png)" in str(filled) and (out / "figures" / "a.png").read_bytes() == b"a picture"
    shown = [cell for cell in filled if cell["cell_type"] == "code"]
    assert [bool(cell["outputs"]) for cell in shown] == [True] * (len(code) - 1) + [False]  # the last has other code
    (out / f"{NAMES[0]}.ipynb").write_text("a student's own work")
    done = CliRunner().invoke(app, ["student", "--out", str(out)])
    assert done.exit_code != 0 and (out / f"{NAMES[0]}.ipynb").read_text() == "a student's own work"
