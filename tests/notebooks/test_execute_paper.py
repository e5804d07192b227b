"""The profile paper in small: a random SDXL of the published layout, and shards in SARLO-80's, through every notebook."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from shards import TEXTS, sample, write_shard
from tiny import run_profile, sdxl_folder

from sarnb.data.sarlo80 import build_sarlo80
from sarnb.graph import read_graph, verify
from sarnb.profile import FOLDER as PROFILES
from sarnb.results import read_manifest
from sarnb.settings import cores, default_jobs, repository

pytestmark = pytest.mark.slow

NAMES = list(read_graph(repository() / "notebooks"))
SIDE = 64  # px
SMALL = {  # besides the sizes of smoke: what follows from the side, and ranks that fit the small widths
    "name": "paper-small",
    "image_size": SIDE,
    "judge": "small",
    "optimizer": "adamw",
    "accumulate": 2,
    "lr_factors": [1.0],
    "vae_crop": 32,
    "vae_tile": 32,
    "vae_strategies": ["vae-lora-r4", "vae-lora-decoder-r4", "vae-decoder"],
    "text_strategies": ["te-lora", "unet-lora+te-lora+token"],
    "hybrid_strategies": ["hybrid"],
    "control_kinds": ["satellite"],
    "curve_steps": [1, 2],
    "scene_size": [SIDE, 160],
    "train_seeds": [0],
}


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    """Its results folder after one run on the converted shards."""
    folder = tmp_path_factory.mktemp("paper")
    kinds, number = list(TEXTS), 0
    for shard in range(3):
        samples = []
        for _ in range(4 * 2 * len(kinds)):
            samples.append(sample(number, kinds[number % len(kinds)], f"Place {number // (2 * len(kinds))}", SIDE))
            number += 1
        write_shard(folder / f"shard-{shard:05d}.tar", *samples)
    build_sarlo80(folder / "sarlo80", f"{folder}/shard-0000{{0..2}}.tar", unseen=["harbour"], size=SIDE)
    own, smoke = (yaml.safe_load((PROFILES / f"{name}.yaml").read_text(encoding="utf-8")) for name in ("paper", "smoke"))
    values = own | smoke | SMALL | {"foundation": str(sdxl_folder(folder / "sdxl", SIDE))}
    (folder / "paper-small.yaml").write_text(yaml.safe_dump(values))
    done = run_profile(folder, "--data", str(folder / "sarlo80"), profile=str(folder / "paper-small.yaml"))
    print(done.stdout, done.stderr, sep="\n")
    return folder / "paper-small-sarlo80"


@pytest.mark.parametrize("name", NAMES)
def test_the_profile_paper_executes_on_sdxl_and_sarlo80(paper, name):
    error = paper / ".state" / f"{name}.error"
    assert not error.exists(), error.read_text()
    assert (paper / "notebooks" / f"{name}.ipynb").is_file(), f"{name} did not run, because one before it failed"
    tables = [entry["path"] for entry in read_manifest(paper, name)["artefacts"] if entry["path"].endswith(".csv")]
    assert tables and not [path for path in tables if pd.read_csv(paper / path).empty]
    assert 3 <= len(read_manifest(paper, name)["found"]) <= 10 and read_manifest(paper, name)["figure_faults"] == []


def test_a_second_run_gives_the_same_tables(paper, tmp_path):
    """From the images to judging a trained UNet: 05 with all that it needs, once more into a folder of its own.

    In the first run it had company; the profile gives it as many threads again, which decide the last digits.
    """
    profile = tmp_path / "paper-small.yaml"
    share = max(1, cores() // default_jobs())
    profile.write_text(f"{(paper.parent / 'paper-small.yaml').read_text(encoding='utf-8')}threads: {share}\n")
    done = run_profile(tmp_path, "--only", "05", "--data", str(paper.parent / "sarlo80"), profile=str(profile))
    assert done.returncode == 0, done.stderr
    tables = paper / "tables"
    again = {path.name: path.read_bytes() for path in (tmp_path / paper.name / "tables").glob("*.csv")}
    assert {"data_card.csv", "unet_full_cost.csv", "unet_full_headline_measures.csv"} <= again.keys()
    assert [name for name in again if not name.endswith("_timing.csv") and (tables / name).read_bytes() != again[name]] == []
    needed = ("00_foundation", "01_data", "03_sar_clip", "04_vae", "05_unet_full")
    made = [entry["path"] for name in needed for entry in read_manifest(paper, name)["artefacts"]]
    assert {Path(path).name for path in made if path.endswith(".csv")} == again.keys()


def test_the_profile_paper_keeps_the_hidden_class_of_the_shards(paper):
    assert verify(paper) == []
    card = json.loads((paper / "data/card.json").read_text(encoding="utf-8"))
    assert card["kind"] == "sarlo80" and card["groups"]["unseen"] == ["harbour"]
    rates = pd.read_csv(paper / "tables/unet_full_headline_measures.csv")
    assert {"seen", "unseen"} <= set(rates["split"])
