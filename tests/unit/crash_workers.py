"""What tests start as processes of their own: trainings that can be killed, writers of the same file, workers of one training."""

from __future__ import annotations

import faulthandler
import gc
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny import all_weights, tiny_pipeline, tiny_set
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import sarnb.train.cache as cache
import sarnb.train.finetune as module
import sarnb.train.state as checkpoint
import sarnb.train.vae as vae_module
from sarnb.generate.strategies import watch_samples, watch_token
from sarnb.model.foundation import components, fingerprint
from sarnb.model.strategy import Strategy, find_strategy
from sarnb.train.cache import tensor_store
from sarnb.train.finetune import FinetuneConfig, finetune
from sarnb.train.machine import processes
from sarnb.train.state import whole
from sarnb.train.training import GRIDS, TOKEN_PATH
from sarnb.train.vae import VaeConfig

CONFIG = FinetuneConfig(
    steps=12,
    batch_size=4,
    precision="fp32",
    ema_decay=0.9,
    warmup_steps=4,
    schedule="cosine",
    held_out_images=2,
    held_out_timesteps=2,
    validate_every=4,
    checkpoint_every=3,
    log_every=2,
)
DIGEST = "weights.txt"
# A server that imports once and forks every process: a start costs milliseconds, and the death is a process' own.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["sarnb.train.finetune", "sarnb.generate.strategies", "peft.tuners.lora"])


def live(name: str, out: Path, news: Connection, dies_saving: int = 0) -> None:
    """Train ``name`` below ``out`` until done or killed, telling each step's number as it begins.

    With ``dies_saving`` the process is killed when half of that checkpoint's bytes are on the disk. At the end the digests
    of all networks are in ``out/weights.txt``.
    """
    gc.freeze()  # what the server imported is no rubbish to look for; half of a life's time otherwise
    torch.set_num_threads(1)
    draw, save = module.step_draw, checkpoint.save_file

    def reported(count, shape, timesteps, config, step):
        news.send(step)
        return draw(count, shape, timesteps, config, step)

    def cut(tensors, path, metadata):
        save(tensors, path, metadata=metadata)
        if int(metadata["step"]) == dies_saving:
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    module.step_draw, checkpoint.save_file = reported, cut
    pipe = tiny_pipeline()
    torch.manual_seed(int.from_bytes(os.urandom(4)))  # nothing may hang on the global generator
    finetune(pipe, find_strategy(name), tiny_set(), CONFIG, out, val=tiny_set(2, seed=1), cache=out / "cache")
    (out / DIGEST).write_text("\n".join(f"{part} {fingerprint(net)}" for part, net in components(pipe).items()))


def write_table(folder: Path, log: Path, dies_at: int = -1) -> None:
    """Ask for a table of ten rows, slowly; each piece that is made leaves a line in ``log``; killed at piece ``dies_at``."""

    def make() -> Iterator[dict[str, torch.Tensor]]:
        for number in range(5):
            with open(log, "a") as file:
                file.write(f"{os.getpid()} {number}\n")
            if number == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.05)
            yield {"x": torch.full((2, 3), float(number)), "y": torch.full((2, 1, 2), -float(number), dtype=torch.bfloat16)}

    table = tensor_store(folder, "table", {"number": "1"}, make, 10)
    assert table["y"].dtype == torch.bfloat16 and table["y"][:, 0, 1].tolist() == [0, 0, -1, -1, -2, -2, -3, -3, -4, -4]
    assert table["x"][:, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def join(rank: int, port: int, environment: dict[str, str]) -> None:
    """Become one of two processes that work together."""
    faulthandler.enable()  # a crash inside torch tells where
    gc.freeze()
    torch.set_num_threads(1)
    os.environ.update(environment)
    os.environ.update(WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


def share_out(rank: int, port: int, environment: dict[str, str]) -> None:
    """One of two processes that share out tensors as FSDP does and gather them again: of an even and an odd number of rows, one row."""
    join(rank, port, environment)
    torch.distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    for shape in ((4,), (7, 3), (1, 2, 2), (2, 0)):
        for dtype in (torch.float32, torch.bfloat16, torch.int64):
            tensor = torch.arange(math.prod(shape)).reshape(shape).to(dtype)
            for _ in range(3):
                found = whole(distribute_tensor(tensor, mesh, [Shard(0)]))
                assert found.dtype == dtype and torch.equal(found, tensor)
    assert torch.equal(whole(distribute_tensor(tensor, mesh, [Replicate()])), tensor) and whole(tensor) is tensor
    torch.distributed.destroy_process_group()


def work(rank: int, port: int, environment: dict[str, str], name: str, out: Path, dies_at: int = -1) -> None:
    """One of two processes that train ``name`` together below ``out`` over gloo; both end as they begin step ``dies_at``.

    Process 0 leaves all weights in ``out/weights.safetensors``; who encodes images leaves a line in ``out/encoded``.
    """
    join(rank, port, environment)
    draw, encode = module.step_draw, cache.encode_posterior

    def ending(count, shape, timesteps, config, step):
        if step == dies_at:
            os._exit(3)
        return draw(count, shape, timesteps, config, step)

    def noted(*args, **kwargs):
        with open(out / "encoded", "a") as file:
            file.write(f"{rank}\n")
        time.sleep(0.1)
        return encode(*args, **kwargs)

    module.step_draw, cache.encode_posterior = ending, noted
    out.mkdir(parents=True, exist_ok=True)
    pipe = train_together(name, out)
    assert processes().num_processes == 2
    if rank == 0:
        save_file(all_weights(pipe), out / "weights.safetensors")
    torch.distributed.destroy_process_group()


def train_together(name: str, out: Path):
    """The training of ``work``, which one process can do alone as well; the pipeline."""
    config = replace(CONFIG, steps=4, checkpoint_every=2, log_every=1, validate_every=2)
    finetune(pipe := tiny_pipeline(), find_strategy(name), tiny_set(), config, out, val=tiny_set(2, seed=1), cache=out / "cache")
    return pipe


def die_at(step: int, strategy: Strategy, config: VaeConfig, out: Path, threads: int) -> None:
    """Fine-tune an autoencoder and end by SIGKILL, which nothing can catch, as ``step`` begins.

    ``threads``: those of the run that it is compared with, for the order of sums depends on them.
    """
    torch.set_num_threads(threads)
    crops = vae_module.step_crops

    def fatal(images, config, now):
        if now == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return crops(images, config, now)

    vae_module.step_crops = fatal
    vae_module.finetune_vae(tiny_pipeline(), strategy, tiny_set(8).images, config, out)


ROWS = [
    {"text": f"a <SAR> image of a {label}", "seed": seed, "label": label, "group": "seen"} for seed, label in enumerate(("city", "forest"))
]


def train_watched(out: Path) -> None:
    """Two steps of the hybrid, with a grid and the word's rows at each."""
    config = FinetuneConfig(steps=2, batch_size=4, precision="fp32", ema_decay=0.9, checkpoint_every=2)
    pipe = tiny_pipeline()
    watchers = [watch_samples(pipe, ROWS, out / GRIDS, 1, 2, 2.0, 16, "fp32"), watch_token(pipe, out / TOKEN_PATH, 1)]
    finetune(pipe, find_strategy("hybrid-r4"), tiny_set(), config, out, watchers=watchers)


def work_watched(rank: int, port: int, environment: dict[str, str], out: Path) -> None:
    """One of two processes that train together over gloo and are watched."""
    join(rank, port, environment)
    train_watched(out)
    torch.distributed.destroy_process_group()
