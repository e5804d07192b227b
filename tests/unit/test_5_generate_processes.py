"""Samples on the way of a training by two processes, whole weights in each or shared out: what one process draws."""

from __future__ import annotations

import socket
from pathlib import Path

import crash_workers
import numpy as np
import pytest
import torch
import watcher_workers
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file

import sarnb.profile
from sarnb.generate.progress import read_progress, token_files

SHIPPED = Path(sarnb.profile.__file__).parent / "profiles" / "accelerate"


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    watcher_workers.train_watched(out)
    return out


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_draw_what_one_draws(kind, alone, tmp_path):
    args = launch_command_parser().parse_args(["--config_file", str(SHIPPED / f"{kind}.yaml"), "script.py"])
    told = prepare_multi_gpu_env(_validate_launch_command(args)[0])
    environment = {key: value for key, value in told.items() if key.startswith(("ACCELERATE_", "FSDP_"))} | {"ACCELERATE_USE_CPU": "true"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workers = [crash_workers.PROCESSES.Process(target=watcher_workers.work, args=(rank, port, environment, tmp_path)) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
    assert [worker.exitcode for worker in workers] == [0, 0]
    one, two = read_progress(alone), read_progress(tmp_path)
    assert list(two.images) == list(one.images) == [0, 1, 2]
    for step in (0, 1, 2):  # sums in another order differ in their rounding
        assert np.abs(one.images[step].astype(int) - two.images[step]).mean() < 0.5
        rows, others = load_file(token_files(alone)[step]), load_file(token_files(tmp_path)[step])
        for key in ("clip_l", "clip_g"):
            torch.testing.assert_close(others[key], rows[key], rtol=0, atol=5e-4)
