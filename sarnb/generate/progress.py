"""What a model draws while it trains: a few prompts, always from the same noise, every so many steps; kept as PNG.

Also the way of the learned word, whose rows are kept as well, each as the textual-inversion file of its step.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from sarnb.data.dataset import Column
from sarnb.data.files import read_json, saving, write_json, write_png
from sarnb.generate.sample import generate
from sarnb.model.token import save_token
from sarnb.train.loop import Watcher
from sarnb.train.machine import processes, uncounted_memory
from sarnb.train.training import GRIDS, TOKEN_PATH

PROMPTS = "prompts.json"
IMAGES = 4  # prompts of a grid; this project's choice, as many as cost a quick run a few seconds
TOKEN_POINTS = 20  # points of the word's way, its start not counted


@dataclass(frozen=True)
class Progress:
    """The grids of one training: ``images`` step → uint8 [n, H, W, 3]; ``rows``: what each column shows."""

    images: dict[int, np.ndarray]
    rows: tuple[dict, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """The classes, as figures take them; groups stand together."""
        return tuple(Column(row["group"], row["label"]) for row in self.rows)

    def named(self) -> dict[str, np.ndarray]:
        """The grids, images uint8 [N, H, W, 3] each, by what a figure calls them, in the order of their steps."""
        return {f"step {step}": images for step, images in self.images.items()}


def progress_rows(rows: Sequence[dict]) -> list[dict]:
    """At most ``IMAGES`` of the evaluation's rows: an image of some classes, half of them unseen where there are any.

    Compositions are left out. Of each group the classes are taken evenly from its first to its last. Every second row shows the
    other side, where the evaluation asks for both.
    """
    first = {row["label"] or row["seed"]: row for row in reversed(rows)}
    turned = {row["label"]: row for row in reversed(rows) if row["label"] and row.get("look") != first[row["label"]].get("look")}
    ones = sorted(first.values(), key=rows.index)
    unseen = _evenly([row for row in ones if row["group"] == "unseen"], IMAGES // 2)
    chosen = _evenly([row for row in ones if row["group"] == "seen"], IMAGES - len(unseen)) + unseen
    return [turned.get(row["label"], row) if place % 2 else row for place, row in enumerate(chosen)]


def watch_samples(
    pipe: StableDiffusionXLPipeline,
    rows: Sequence[dict],
    folder: Path,
    every: int,
    steps: int,
    guidance_scale: float,
    size: int,
    precision: str = "auto",
) -> Watcher:
    """Draws ``rows`` (text, seed, label, group) into ``folder/step<k>.png``, one image next to the other, each step once.

    ``steps`` denoising steps, images of ``size`` px. Grids of other prompts or another sampler in ``folder`` are removed.
    """
    wanted = {"rows": list(rows), "steps": steps, "guidance_scale": guidance_scale, "size": size}
    if processes().is_main_process:
        with saving(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if read_json(folder / PROMPTS) != wanted:
                for path in folder.glob("step*.png"):
                    path.unlink()
                write_json(folder / PROMPTS, wanted)
    processes().wait_for_everyone()

    def draw(step: int) -> None:
        path = folder / f"step{step:06d}.png"
        if path.exists():
            return
        texts, seeds = [row["text"] for row in rows], [row["seed"] for row in rows]
        # One image at a time where they are large: drawing should not need more memory than training.
        batch = max(1, len(rows) * 128**2 // size**2)
        with uncounted_memory():  # the cost is that of training
            images = generate(pipe, texts, seeds, steps, guidance_scale, batch, size, precision, label=f"step {step}")
        if processes().is_main_process:
            with _whole(path) as temporary:
                write_png(temporary, np.concatenate(list(images), axis=1))

    return Watcher(every, draw)


def read_progress(model: Path) -> Progress | None:
    """The grids that the training of ``model`` left; None where none were drawn (``sample_every`` 0)."""
    stored = read_json(Path(model) / GRIDS / PROMPTS)
    paths = sorted((Path(model) / GRIDS).glob("step*.png"))
    if not stored or not paths:
        return None
    strips = {int(path.stem.removeprefix("step")): np.asarray(Image.open(path).convert("RGB")) for path in paths}
    count = len(stored["rows"])
    images = {step: np.stack(np.split(strip, count, axis=1)) for step, strip in sorted(strips.items())}
    return Progress(images, tuple(stored["rows"]))


def watch_token(pipe: StableDiffusionXLPipeline, folder: Path, every: int) -> Watcher:
    """Saves the learned word's rows as ``folder/learned_embeds-<step>.safetensors``, as they are with the moving average."""

    def keep(step: int) -> None:
        path, writes = folder / f"learned_embeds-{step:06d}.safetensors", processes().is_main_process
        if path.exists():
            return
        with _whole(path, writes) as temporary:
            save_token(pipe, temporary, writes=writes)

    return Watcher(every, keep)


def token_files(model: Path) -> dict[int, Path]:
    """Step → file of the word's rows, in the order of the steps, that the training of ``model`` left."""
    paths = sorted((Path(model) / TOKEN_PATH).glob("learned_embeds-*.safetensors"))
    return {int(path.stem.rpartition("-")[2]): path for path in paths}


@contextmanager
def _whole(path: Path, writes: bool = True) -> Iterator[Path]:
    """A temporary file to be written, which becomes ``path`` at the end; readers see all of it or none."""
    with saving(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        yield (temporary := path.with_name(f".{path.name}.partial"))
        if writes:
            os.replace(temporary, path)


def _evenly(rows: Sequence[dict], count: int) -> list[dict]:
    """``count`` of the rows, the first and the last among them."""
    count = min(count, len(rows))
    return [rows[index] for index in np.linspace(0, len(rows) - 1, count).round().astype(int)] if count else []
