"""What SDXL costs on this graphics card: ``python tests/benchmarks/sdxl_gpu.py FOLDER`` (``--tiny`` on any machine).

Random weights of SDXL's shapes, random images of 1024 px, bf16: speed and memory do not depend on what the weights know. Each
row is a training of a few steps by ``sarnb.train.finetune`` (latents cached, text cached where the strategy allows), with
checkpoints left out: step time, images/s, model FLOP utilisation and peak memory next to what is predicted on the meta device. LoRA
comes first with ever larger batches, then every strategy at batch 1 with gradient checkpointing, sampling, and the autoencoder by
``sarnb.train.vae``, on crops and on whole images. FOLDER gets ``sdxl_gpu.csv`` and ``sdxl_gpu.md``, a row at a time; rows of earlier
days and other cards stay. ``--only STRATEGY`` measures that one alone.

To beat: 0.606 s a step at 13.0 GiB (LoKr, batch 1, 1024 px, bf16, one H100; SimpleTuner's documentation).
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import datetime
import functools
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline
from torch.utils.flop_counter import FlopCounterMode

from sarnb.cost import state_bytes
from sarnb.data.dataset import ImageSet
from sarnb.generate.sample import generate
from sarnb.model.foundation import (
    FoundationConfig,
    assemble,
    build_text_tower,
    build_unet,
    build_vae,
    components,
    encode_prompts,
    first_tower,
    sdxl_components,
    sdxl_pipeline,
    time_ids,
)
from sarnb.model.judge import foundation_tokenizer
from sarnb.model.strategy import STRATEGIES, find_strategy, prepare, trained_count
from sarnb.results import write_atomically
from sarnb.train.finetune import FinetuneConfig, PriorSet, finetune
from sarnb.train.machine import resolve_precision
from sarnb.train.vae import VaeConfig, finetune_vae

STEPS, WARM = 8, 3  # trained, and left out of the time
#: Dense bf16 [TFLOP/s] from NVIDIA's data sheets, for the first name that the device's contains.
PEAKS = {"H200": 989.4, "H100 PCIe": 756.0, "H100": 989.4, "A100": 312.0, "L40S": 362.0, "A10": 125.0}
CAPTION = "a radar image of a city"


@dataclass(frozen=True)
class Size:
    """What is measured: SDXL, or a miniature that shows that the script works."""

    side: int  # px
    batches: tuple[int, ...]  # tried for LoRA until the memory is full
    sampling_steps: int
    crops: tuple[tuple[int, int, bool], ...]  # of the autoencoder: side [px], batch, gradient checkpointing

    def pipeline(self, device: str) -> StableDiffusionXLPipeline:
        if self.side == 1024:
            return sdxl_pipeline(device)
        config = FoundationConfig(
            image_size=self.side, vae_channels=(8, 8, 16, 16), unet_channels=(64, 64), head_width=16, text_width=32, text_layers=2
        )
        tokenizer = foundation_tokenizer()
        first, second = build_text_tower(config, tokenizer), build_text_tower(config, tokenizer)
        pipe = assemble(build_vae(config), first_tower(first), second, tokenizer, build_unet(config))
        for network in components(pipe).values():
            network.to(device)
        return pipe

    def autoencoder(self) -> StableDiffusionXLPipeline:
        """A pipeline whose autoencoder has the real shapes; its training needs nothing else of it."""
        pipe = TINY.pipeline("cpu")
        if self.side == 1024:
            pipe.vae = AutoencoderKL.from_config(sdxl_components()["vae"].config).eval().requires_grad_(False)
        return pipe


SDXL = Size(1024, (1, 2, 4, 8, 16, 32, 64), 30, ((256, 16, False), (1024, 1, True)))
TINY = Size(64, (1, 2), 2, ((32, 2, False), (64, 1, True)))


def random_set(count: int, side: int) -> ImageSet:
    """``count`` grey images of noise."""
    images = np.random.default_rng(0).integers(0, 256, (count, side, side), dtype=np.uint8)
    return ImageSet(Path("."), images, ({"text": CAPTION},) * count)


@dataclass
class Step:
    """One step of one image on the meta device, where nothing is computed: ``flops`` of forward and backward, and what it holds in bytes.

    ``state``: weights, gradients, moments and average; ``activations``: what the backward pass needs, in 2 bytes each, and the copies
    in bf16 of the weights that train. With gradient checkpointing these are the inputs of all blocks and the inside of the largest.
    """

    flops: float
    state: int
    activations: int


class Held:
    """Counts the tensors that autograd keeps, each once: ``hooks`` of those outside of blocks, ``block`` in place of ``checkpoint``."""

    def __init__(self, parameters: Iterable[torch.Tensor]) -> None:
        self.known = {value.untyped_storage()._cdata: value for value in parameters}  # alive, so that no address comes twice
        self.outside = self.largest = 0

    def add(self, tensor: torch.Tensor, known: dict[int, torch.Tensor]) -> int:
        """Its bytes, at 2 a number; 0 where they are known."""
        key = tensor.untyped_storage()._cdata
        new = key not in known and tensor.is_floating_point()
        known.setdefault(key, tensor)
        return 2 * tensor.numel() * new

    @contextlib.contextmanager
    def hooks(self, known: dict[int, torch.Tensor]) -> Iterator[list[int]]:
        sizes: list[int] = []

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            sizes.append(self.add(tensor, known))
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            yield sizes

    def block(self, function: Callable[..., Any], *arguments: Any) -> Any:
        self.outside += sum(self.add(part, self.known) for part in arguments if torch.is_tensor(part))
        with self.hooks(dict(self.known)) as inside:  # computed again when it is needed, so others know nothing of it
            result = function(*arguments)
        self.largest = max(self.largest, sum(inside))
        return result


def count_step(size: Size, strategy: str, checkpointing: bool = False, optimizer: str = "adamw") -> Step:
    """What a step of one image takes, by the operators called and the tensors kept.

    What gradient checkpointing computes twice is counted once in the operations, and the frozen parts' weight gradients, which nobody
    computes, not at all.
    """
    plan, pipe = find_strategy(strategy), size.pipeline("meta")
    with torch.device("meta"):
        prepare(pipe, plan)
        parts = components(pipe).values()
        held = Held(value for part in parts for value in part.parameters())
        if checkpointing:
            pipe.unet.enable_gradient_checkpointing(held.block)
        hidden = torch.zeros(1, pipe.tokenizer.model_max_length, pipe.unet.config.cross_attention_dim)
        pooled = torch.zeros(1, pipe.text_encoder_2.config.projection_dim)
        edge = size.side // pipe.vae_scale_factor
        latents, timesteps = torch.zeros(1, pipe.unet.config.in_channels, edge, edge), torch.zeros(1, dtype=torch.long)
        pipe.unet.train()
        with FlopCounterMode(display=False) as counter, held.hooks(held.known) as outside:
            if "text" not in plan.caches:
                hidden, pooled = encode_prompts(pipe, [CAPTION])
            conditions = {"text_embeds": pooled, "time_ids": time_ids(pipe, 1)}
            pipe.unet(latents, timesteps, encoder_hidden_states=hidden, added_cond_kwargs=conditions).sample.sum().backward()
    activations = sum(outside) + held.outside + held.largest + 2 * sum(map(trained_count, parts))
    return Step(counter.get_total_flops(), state_bytes(pipe, plan, optimizer, average=True), activations)


def release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


#: What every training is measured with: each step in the history, and no checkpoint.
MEASURED = {"log_every": 1, "checkpoint_every": 10**6}


def training_row(what: str, train: Callable[[Path], Any], batch: int, **about) -> dict:
    """One training, measured. Raises ``torch.OutOfMemoryError`` where the card is too small."""
    with mock.patch("sarnb.train.loop.save_checkpoint"), tempfile.TemporaryDirectory() as out:
        result = train(Path(out))
    seconds = statistics.median(result.history["seconds"].iloc[WARM:])
    speed = {"step_s": seconds, "images_per_s": batch / seconds}
    return {"what": what, "batch": batch} | about | speed | {"peak_gib": result.cost["peak_memory_mb"] * 1e6 / 2**30}


def train_row(size: Size, strategy: str, batch: int, checkpointing: bool, optimizer: str, peak: float | None) -> dict:
    """One training of the noise predictor, with its operations and its share of the card's peak."""
    config = FinetuneConfig(batch_size=batch, gradient_checkpointing=checkpointing, optimizer=optimizer, steps=STEPS, **MEASURED)
    pipe = copy.deepcopy(loaded(size))
    data = random_set(4, size.side)
    prior = PriorSet(np.stack([data.images] * 3, axis=-1), data.captions)  # only what keeps the foundation's pictures looks at it
    train = functools.partial(finetune, pipe, find_strategy(strategy), data, config, prior=prior)
    row = training_row(strategy, train, batch, checkpointing=checkpointing, optimizer=optimizer)
    step = count_step(size, strategy, checkpointing, optimizer)
    flops = batch * step.flops
    row |= {"tflop_per_step": flops / 1e12, "mfu": flops / row["step_s"] / (peak * 1e12) if peak else float("nan")}
    memory = {"state_gib": step.state / 2**30, "predicted_gib": (step.state + batch * step.activations) / 2**30}
    return row | memory | {"peak_by_predicted": row["peak_gib"] / memory["predicted_gib"]}


@functools.cache
def loaded(size: Size) -> StableDiffusionXLPipeline:
    """A pipeline in main memory, as a foundation is loaded; the training moves what it needs."""
    return size.pipeline("cpu")


def autoencoder_row(size: Size, strategy: str, crop: int, batch: int, checkpointing: bool) -> dict:
    """One training of the autoencoder with all terms that need no extra, the discriminator from the first step."""
    config = VaeConfig(
        batch_size=batch,
        crop=crop,
        losses=f"{VaeConfig.losses}+adversarial",
        adversarial_start=0.0,
        gradient_checkpointing=checkpointing,
        collapse_patience=STEPS + 1,
        steps=STEPS,
        **MEASURED,
    )
    train = functools.partial(finetune_vae, size.autoencoder(), find_strategy(strategy), random_set(4, size.side).images, config)
    return training_row(strategy, train, batch, side_px=crop, checkpointing=checkpointing, optimizer=config.optimizer)


def sampling_row(size: Size) -> dict:
    """Seconds of one image with guidance, autoencoder included; the second of two calls."""
    pipe = size.pipeline("cuda" if torch.cuda.is_available() else "cpu")
    for _ in range(2):
        start = time.perf_counter()
        generate(pipe, [CAPTION], [0], size.sampling_steps, 5.0)
        seconds = time.perf_counter() - start
    return {
        "what": f"sampling, {size.sampling_steps} steps, guidance",
        "batch": 1,
        "step_s": seconds / size.sampling_steps,
        "images_per_s": 1 / seconds,
    }


def rows(size: Size, optimizer: str, peak: float | None, only: str = ""):
    """The table's rows, each as soon as it is measured: LoRA at every batch that fits, kept at 1 and at the fastest, and the others."""
    fits = []
    for batch in () if only else size.batches:
        try:
            fits.append(train_row(size, "unet-lora", batch, False, "adamw", peak))
        except torch.OutOfMemoryError:
            break
        finally:
            release()
    if fits:
        best = max(fits, key=lambda row: row["images_per_s"])
        yield from fits[:1] if best is fits[0] else [fits[0], best]
    for strategy in [only] if only else [name for name in STRATEGIES if name != "zero-shot"]:
        try:
            yield train_row(size, strategy, 1, True, optimizer, peak)
        except torch.OutOfMemoryError:
            yield {"what": f"{strategy} (out of memory)", "batch": 1, "checkpointing": True, "optimizer": optimizer}
        finally:
            release()
    if only:
        return
    yield sampling_row(size)
    release()
    for strategy in ("vae-decoder", "vae-lora-r16", "vae-full"):
        for crop, batch, checkpointing in size.crops:
            try:
                yield autoencoder_row(size, strategy, crop, batch, checkpointing)
            except torch.OutOfMemoryError:
                yield {"what": f"{strategy} (out of memory)", "side_px": crop, "batch": batch, "checkpointing": checkpointing}
            finally:
                release()


def main(arguments: list[str] | None = None) -> pd.DataFrame:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the table goes")
    parser.add_argument("--tiny", action="store_true", help="a miniature on any machine: shows that the script works")
    parser.add_argument("--optimizer", default="adamw", choices=("adamw", "adamw8bit"), help="of all but the rows of LoRA by batch")
    parser.add_argument("--only", default="", help="one strategy, such as hybrid, and nothing else")
    parser.add_argument("--peak-tflops", type=float, help="dense bf16 TFLOP/s of a card that this script does not know")
    wish = parser.parse_args(arguments)
    if not (wish.tiny or torch.cuda.is_available()):
        parser.error("SDXL is measured on a CUDA card, and there is none; give --tiny to see the script work")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    peak = wish.peak_tflops or next((value for name, value in PEAKS.items() if name in device), None)
    size = TINY if wish.tiny else SDXL
    about = {
        "date": datetime.date.today().isoformat(),
        "device": device,
        "torch": torch.__version__,
        "model": "miniature" if wish.tiny else "SDXL",
        "side_px": size.side,
        "precision": resolve_precision(),
    }
    table, path = pd.DataFrame(), wish.folder / "sdxl_gpu.csv"
    wish.folder.mkdir(parents=True, exist_ok=True)
    earlier = pd.read_csv(path) if path.exists() else pd.DataFrame()
    for row in rows(size, wish.optimizer, peak, wish.only):
        print(row, flush=True)
        table = pd.concat([table, pd.DataFrame([about | row])], ignore_index=True)
        whole = pd.concat([earlier, table], ignore_index=True)  # written after each row: a later one may fail
        write_atomically(path, whole.to_csv(index=False, float_format="%.5g", lineterminator="\n"))
        write_atomically(path.with_suffix(".md"), whole.to_markdown(index=False, floatfmt=".4g") + "\n")
    return table


if __name__ == "__main__":
    main()
