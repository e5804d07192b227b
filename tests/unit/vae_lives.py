"""A fine-tuning of the autoencoder in a process of its own, which kills itself."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import torch
from tiny import tiny_pipeline, tiny_set

from sarnb.model.strategy import Strategy
from sarnb.train import vae as vae_finetune
from sarnb.train.vae import VaeConfig, finetune_vae


def die_at(step: int, strategy: Strategy, config: VaeConfig, out: Path, threads: int) -> None:
    """Train and end by SIGKILL, which nothing can catch, as ``step`` begins.

    ``threads``: those of the run that it is compared with, for the order of sums depends on them.
    """
    torch.set_num_threads(threads)
    crops = vae_finetune.step_crops

    def fatal(images, config, now):
        if now == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return crops(images, config, now)

    vae_finetune.step_crops = fatal
    finetune_vae(tiny_pipeline(), strategy, tiny_set(8).images, config, out)
