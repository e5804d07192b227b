"""A training that is watched, alone or as one of two processes."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import torch
from tiny import tiny_pipeline, tiny_set

from sarnb.generate.progress import watch_samples, watch_token
from sarnb.model.strategy import find_strategy
from sarnb.train.finetune import FinetuneConfig, finetune
from sarnb.train.training import GRIDS, TOKEN_PATH

CONFIG = FinetuneConfig(steps=2, batch_size=4, precision="fp32", ema_decay=0.9, checkpoint_every=2)
ROWS = [
    {"text": f"a <SAR> image of a {label}", "seed": seed, "label": label, "group": "seen"} for seed, label in enumerate(("city", "forest"))
]


def train_watched(out: Path) -> None:
    """Two steps of the hybrid, with a grid and the word's rows at each."""
    pipe = tiny_pipeline()
    watchers = [watch_samples(pipe, ROWS, out / GRIDS, 1, 2, 2.0, 16, "fp32"), watch_token(pipe, out / TOKEN_PATH, 1)]
    finetune(pipe, find_strategy("hybrid-r4"), tiny_set(), CONFIG, out, watchers=watchers)


def work(rank: int, port: int, environment: dict[str, str], out: Path) -> None:
    """One of two processes that train together over gloo."""
    gc.freeze()
    torch.set_num_threads(1)
    os.environ.update(environment)
    os.environ.update(WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    train_watched(out)
    torch.distributed.destroy_process_group()
