"""Speed of fine-tuning against diffusers' own example scripts: the same foundation, images, batch, format and steps.

    SARNB_DIFFUSERS_EXAMPLES=DIFFUSERS/examples/text_to_image pytest tests/benchmarks/test_train.py --benchmark-only

The folder holds ``train_text_to_image_lora_sdxl.py`` and ``train_text_to_image_sdxl.py`` of a diffusers checkout, and its
neighbour ``controlnet`` holds ``train_controlnet_sdxl.py``; they need torchvision. Rates are those of processor time on one core,
which other work on the machine does not change; the wall clock stands next to them. Targets: 1.5 times the LoRA script, 1.1 times the
full one, 1.2 times that of ControlNet, at no higher a held-out loss; at most 5 % of a step outside forward, backward and optimiser.
Nothing fails for being slow.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import nn

from sarnb import foundation_path
from sarnb.data.dataset import ImageSet, load_set
from sarnb.data.twin import SplitSpec, build_twin
from sarnb.model.export import load_control, load_trained
from sarnb.model.foundation import load_foundation
from sarnb.train.cache import cache_latents
from sarnb.train.control import denoiser_of
from sarnb.train.finetune import FinetuneConfig, held_out_loss
from sarnb.train.machine import autocast, plain_attention, resolve_precision

BATCH, STEPS, WARM, RATES = 16, int(os.environ.get("SARNB_BENCHMARK_STEPS", 24)), 3, {"lora": 1e-3, "full": 2e-4, "control": 1e-3}
SCRIPTS = {"lora": "train_text_to_image_lora_sdxl.py", "full": "train_text_to_image_sdxl.py"}
SCRIPTS["control"] = "../controlnet/train_controlnet_sdxl.py"
STRATEGIES = {"lora": "unet-lora-r4", "full": "unet-full", "control": "zero-shot"}
KIND = "optical"  # of the condition: what the script reads as it is
CLASSES = ("city", "forest", "coast", "river")


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Radar images that both sides train on, and others for the held-out loss."""
    out = tmp_path_factory.mktemp("benchmark") / "data"
    build_twin(out, {"train": SplitSpec(CLASSES, 96), "val": SplitSpec(CLASSES, 16)}, "airborne-x", 128, 0, 1)
    _pairs_only(out / "train", out / "pairs")
    _pairs_only(out / "train", out / "control", f"{KIND}_file_name")
    return out


def _pairs_only(data: Path, out: Path, *more: str) -> None:
    """The same images with their texts and ``more``: diffusers' full script cannot do with further columns (as of datasets 5)."""
    out.mkdir()
    with open(out / "metadata.jsonl", "w") as file:
        for line in (data / "metadata.jsonl").read_text().splitlines():
            row = {name: value for name, value in json.loads(line).items() if name in ("file_name", "text", *more)}
            for name in {"file_name", *more}:
                (out / row[name]).parent.mkdir(exist_ok=True)
                shutil.copy(data / row[name], out / row[name])
            file.write(json.dumps(row) + "\n")


def examples(kind: str) -> Path:
    """The diffusers script of that kind, or a reason to skip."""
    folder = os.environ.get("SARNB_DIFFUSERS_EXAMPLES")
    if not folder:
        pytest.skip("SARNB_DIFFUSERS_EXAMPLES is not set: name the folder examples/text_to_image of a diffusers checkout")
    if not (Path(folder) / SCRIPTS[kind]).is_file():
        pytest.skip(f"SARNB_DIFFUSERS_EXAMPLES={folder} holds no {SCRIPTS[kind]}")
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("diffusers' example scripts need torchvision, which is not installed")
    return Path(folder) / SCRIPTS[kind]


def measured(record: Path, *command: str) -> dict:
    """The record of ``stopwatch.py`` with that command."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(record.parent / "home")}
    stopwatch = Path(__file__).with_name("stopwatch.py")
    done = subprocess.run([sys.executable, str(stopwatch), str(record), *command], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(record.read_text())


def theirs(kind: str, script: Path, data: Path, out: Path) -> dict:
    """diffusers' script: 4 captions an image are this project's; it takes the one in the column ``text``."""
    options = {
        "pretrained_model_name_or_path": foundation_path(),
        "train_data_dir": data,
        "caption_column": "text",
        "resolution": 128,
        "train_batch_size": BATCH,
        "max_train_steps": STEPS,
        "learning_rate": RATES[kind],
        "lr_warmup_steps": 0,
        "mixed_precision": {"fp32": "no"}.get(resolve_precision(), resolve_precision()),
        "adam_beta2": 0.99,
        "seed": 0,
        "checkpointing_steps": 1000000,
        "output_dir": out / "theirs",
    } | {
        "lora": {"rank": 4, "snr_gamma": 5},
        "full": {"snr_gamma": 5},
        "control": {"image_column": "image", "conditioning_image_column": KIND, "mixed_precision": "no"},  # bf16 stops it
    }[kind]
    return measured(out / "theirs.json", str(script), *(str(word) for name, value in options.items() for word in (f"--{name}", value)))


def package(kind: str, data: Path, out: Path) -> dict:
    rate = "learning_rate" if kind == "control" else f"lr_unet_{kind}"
    config = {"steps": STEPS, "batch_size": BATCH, rate: RATES[kind], "caption_dropout": 0.0, "checkpoint_every": 10**6}
    wish = {"strategy": STRATEGIES[kind], "control": KIND * (kind == "control"), "data": str(data), "out": str(out / "package")}
    alike = {"min_snr_gamma": 0.0, "precision": "fp32"} if kind == "control" else {}  # its script weights all noise alike
    wish["config"] = config | alike
    return measured(out / "package.json", "sarnb", json.dumps(wish))


def images_per_second(record: dict, clock: int) -> float:
    """Over all steps but the first ``WARM``; clock 0 is the wall's, 1 the processor's."""
    return BATCH * (len(record["steps"]) - 1 - WARM) / (record["steps"][-1][clock] - record["steps"][WARM][clock])


def overhead(record: dict) -> float:
    """Share of the processor time of a step outside forward, backward and optimiser."""
    inside = sum(record["parts"][-1].values()) - sum(record["parts"][WARM].values())
    return 1 - inside / (record["steps"][-1][1] - record["steps"][WARM][1])


def loss_of(val: ImageSet, pipe, net: nn.Module | None = None) -> float:
    """Held-out loss, with the captions that both sides trained on among others."""
    steered = None if net is None else denoiser_of(pipe, net, KIND, val)
    config = FinetuneConfig(steps=1, precision="fp32")
    return held_out_loss(pipe, cache_latents(pipe, val.images, None), val.captions, config, steered)


def our_model(kind: str, folder: Path) -> tuple:
    """What was trained: the pipeline, and a control network where that is what trains."""
    return (load_foundation(), load_control(folder)[1]) if kind == "control" else (load_trained("embedded", folder),)


def their_model(kind: str, folder: Path) -> tuple:
    pipe = load_foundation()
    if kind == "control":
        return pipe, ControlNetModel.from_pretrained(folder)
    if kind == "lora":
        pipe.load_lora_weights(folder)
    else:
        pipe.unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    return (pipe,)


@pytest.mark.parametrize("kind", SCRIPTS)
def test_training_against_the_scripts_of_diffusers(benchmark, kind, data, tmp_path):
    script = examples(kind)
    benchmark.extra_info["baseline"] = f"diffusers, {SCRIPTS[kind]}"
    peer = theirs(kind, script, data / ("control" if kind == "control" else "pairs"), tmp_path)
    own = benchmark.pedantic(lambda: package(kind, data / "train", tmp_path), rounds=1)
    val = load_set(data / "val")
    benchmark.extra_info |= {
        "ratio": images_per_second(own, 1) / images_per_second(peer, 1),
        "images_per_second": {"package": images_per_second(own, 1), "theirs": images_per_second(peer, 1)},
        "images_per_second_wall": {"package": images_per_second(own, 0), "theirs": images_per_second(peer, 0)},
        "seconds_in_all": {"package": own["end"][1] - own["start"][1], "theirs": peer["end"][1] - peer["start"][1]},
        "peak_memory_mb": {"package": own["peak_mb"], "theirs": peer["peak_mb"]},
        "overhead": overhead(own),
        "parts": own["parts"][-1],
        "held_out_loss": {
            "before": loss_of(val, load_foundation()),
            "package": loss_of(val, *our_model(kind, tmp_path / "package")),
            "theirs": loss_of(val, *their_model(kind, tmp_path / "theirs")),
        },
        "images_seen": BATCH * STEPS,
        "precision": "fp32" if kind == "control" else resolve_precision(),
    }
    assert len(own["steps"]) == len(peer["steps"]) == STEPS
    assert np.isfinite(list(benchmark.extra_info["held_out_loss"].values())).all()


@pytest.mark.parametrize("kind", STRATEGIES)
def test_overhead_of_the_loop(benchmark, kind, data, tmp_path):
    """Our loop by itself, without any script of others at hand."""
    benchmark.extra_info["baseline"] = "forward, backward and optimiser of the same steps"
    own = benchmark.pedantic(lambda: package(kind, data / "train", tmp_path), rounds=1)
    benchmark.extra_info |= {
        "ratio": 1 / (1 - overhead(own)),
        "overhead": overhead(own),
        "parts": own["parts"][-1],
        "images_per_second": images_per_second(own, 1),
        "peak_memory_mb": own["peak_mb"],
    }


def test_gradients_through_plain_attention(benchmark, seconds):
    benchmark.extra_info["baseline"] = "the same forward and backward pass of the UNet with torch's fused attention"
    unet = load_foundation().unet.train().requires_grad_(True)
    size, draw = 16, torch.Generator().manual_seed(0)
    latents = torch.randn((size, unet.config.in_channels, 16, 16), generator=draw)
    hidden = torch.randn((size, 64, unet.config.cross_attention_dim), generator=draw)
    pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
    wanted = {"text_embeds": torch.randn((size, pooled), generator=draw), "time_ids": torch.ones(size, 6)}

    def step(attention: contextlib.AbstractContextManager) -> None:
        unet.zero_grad()
        with attention:
            with autocast():
                noise = unet(latents, torch.full((size,), 500), hidden, added_cond_kwargs=wanted).sample
            noise.float().square().mean().backward()

    base = seconds(lambda: step(contextlib.nullcontext()))
    benchmark.pedantic(lambda: step(plain_attention(unet, tokens=256)), rounds=3, warmup_rounds=1)
    benchmark.extra_info["ratio"] = base / benchmark.stats.stats.min
    benchmark.extra_info["images_per_second"] = size / benchmark.stats.stats.min
