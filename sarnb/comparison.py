"""What ``python -m sarnb evaluate`` does: compare two folders of radar images, print the table, write it with figures."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from sarnb.data.imagefolder import read_captions, read_folder
from sarnb.errors import InputError
from sarnb.manifest import write_atomically
from sarnb.metrics.folders import Comparison, Wish, compare, counted, floor_ratios, laws_of_both, markdown, setting_table, summary_table
from sarnb.metrics.report import amplitude_curves, cumulant_points, texture_curves
from sarnb.plots import set_theme
from sarnb.plots.folders import floor_dots, two_rows
from sarnb.plots.verdict import amplitude_histograms, cumulant_diagram, texture_lines
from sarnb.results import figure_files

TABLE, REPORT = "evaluation.csv", "evaluation.md"


def compare_folders(
    real: Path,
    fake: Path,
    out: Path,
    wish: Wish = Wish(),
    captions: Path | None = None,
    clip: str = "",
    train: Path | None = None,
) -> Comparison:
    """Compare two folders, print the verdict, and write evaluation.csv, evaluation.md, other tables and figures into ``out``.

    Args:
        real, fake: folders of images. captions: metadata.jsonl that describes images of either. clip: SAR-CLIP, a folder.
        train: training images of the generator, for the check of memorisation. wish: see `Wish`.

    Raises:
        InputError: bad folders, images, captions or judge, or an ``out`` that cannot be written.
    """
    _check_out(out, (real, fake, *([train] if train else [])))
    judge = None
    if clip:
        from sarnb.model.judge import load_judge

        judge = load_judge(clip)  # before hours of reading: a wrong path is told at once
    rows = read_captions(captions, (fake, real)) if captions else None
    sides = [read_folder(folder, rows, wish.workers) for folder in (real, fake)]
    known = read_folder(train, None, wish.workers) if train else None
    comparison = compare(*sides, wish, judge, known)
    setting = setting_table(comparison, wish, *sides, clip)
    _write(comparison, setting, out)
    print(text(comparison))
    print(f"\n{out / REPORT}: the same with protocol, laws, classes and figures; {out / TABLE}: all values")
    return comparison


def text(comparison: Comparison) -> str:
    """The verdict for a terminal: sizes, cautions, measures, and what could not be computed."""
    summary = summary_table(comparison)
    known, gone = summary[summary["reason"] == ""], summary[summary["reason"] != ""]
    parts = [
        f"{counted(comparison)}; value [95 % interval over images]; floor: one half of the real images against the other.",
        *(f"! {line}" for line in comparison.cautions),
        "",
        known[["measure", "value", "floor", "better", "unit"]].to_markdown(index=False, tablefmt="presto"),
    ]
    reasons: dict[str, list[str]] = {}
    for _, row in gone.iterrows():
        reasons.setdefault(row["reason"], []).append(row["measure"])
    parts += [f"not computed: {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    return "\n".join(parts)


def _check_out(out: Path, sources: tuple[Path, ...]) -> None:
    target = out.resolve()
    for source in sources:
        if target == source.resolve() or target.is_relative_to(source.resolve()):
            raise InputError(
                f"{out}: lies in the folder of images {source}; its figures would be taken for images the next time, write elsewhere"
            )
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; name a folder for the tables and figures")


def _write(comparison: Comparison, setting: pd.DataFrame, out: Path) -> None:
    figures = _figures(comparison)
    for name, (figure, _) in figures.items():
        for ending, content in figure_files(figure, name).items():
            write_atomically(out / "figures" / f"{name}.{ending}", content)
        plt.close(figure)
    tables = {"left_out.csv": comparison.missing, "laws.csv": laws_of_both(comparison), "protocol.csv": setting, TABLE: comparison.table}
    for name, table in tables.items():
        write_atomically(out / name, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    write_atomically(out / REPORT, markdown(comparison, setting, {name: words for name, (_, words) in figures.items()}))


def _figures(comparison: Comparison) -> dict[str, tuple]:
    set_theme()
    sets = {"real": [comparison.real], comparison.name: [comparison.fake]}
    figures = {
        "images": (two_rows(*comparison.examples, comparison.name), "Images drawn by the seed: real above, generated below."),
        "amplitude": (
            amplitude_histograms(amplitude_curves(sets)),
            "Grey levels of the generated images (line) over those of the real ones (area).",
        ),
        "log_cumulants": (
            cumulant_diagram(cumulant_points(sets)),
            "Log-cumulants of both sets among the laws of speckle; small marks are classes.",
        ),
        "texture": (texture_lines(texture_curves(sets)), "Co-occurrence properties by distance and direction, real images in black."),
    }
    ratios = floor_ratios(comparison)
    if len(ratios):
        figures["floor"] = (floor_dots(ratios), "Each measure as a multiple of what two halves of the real images reach.")
    return figures
