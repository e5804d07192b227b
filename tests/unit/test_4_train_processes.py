"""Several processes train as one does: data parallel and fully sharded, two processes over gloo; the shipped configurations."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import crash_workers
import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file

import sarnb.profile
from sarnb.errors import InputError
from sarnb.train.checkpoint import NAME, sharding

SHIPPED = Path(sarnb.profile.__file__).parent / "profiles" / "accelerate"


def environment(kind: str) -> dict[str, str]:
    """What ``accelerate launch`` tells its processes after the shipped configuration, on the CPU."""
    args = launch_command_parser().parse_args(["--config_file", str(SHIPPED / f"{kind}.yaml"), "script.py"])
    told = prepare_multi_gpu_env(_validate_launch_command(args)[0])
    return {key: value for key, value in told.items() if key.startswith(("ACCELERATE_", "FSDP_"))} | {"ACCELERATE_USE_CPU": "true"}


def by_two(life: Callable[..., None], kind: str, *values: object) -> list[int]:
    """Exit codes of two processes that live one life together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workers = [crash_workers.PROCESSES.Process(target=life, args=(rank, port, environment(kind), *values)) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return [worker.exitcode for worker in workers]


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_train_as_one(kind, tmp_path):
    """AdamW divides by the gradient's size, so its first steps amplify the rounding of sums in another order a little."""
    name, alone, two = "hybrid-r4", tmp_path / "one", tmp_path / "two"
    if kind == "fsdp":  # and resume from whole weights
        assert by_two(crash_workers.work, kind, name, two, 3) == [3, 3] and (two / NAME).exists()
    assert by_two(crash_workers.work, kind, name, two) == [0, 0]
    expected, found = crash_workers.all_weights(crash_workers.train_together(name, alone)), load_file(two / "weights.safetensors")
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=5e-4)
    histories = [pd.read_csv(out / "history.csv") for out in (alone, two)]
    for column in ("loss", "held_out", "learning_rate"):
        np.testing.assert_allclose(*(table[column].dropna() for table in histories), rtol=1e-4)
    # One checkpoint is as good as the other: whole tensors under the same names.
    shapes = [{key: value.shape for key, value in load_file(out / NAME).items()} for out in (alone, two)]
    assert shapes[0] == shapes[1]
    # Each cache, of training and held-out images, was made once: by one process, for which the other waited.
    assert len((two / "encoded").read_text().split()) == 2


def test_parts_make_the_whole_also_where_the_last_is_short_or_empty():
    assert by_two(crash_workers.share_out, "ddp") == [0, 0]


@pytest.mark.parametrize("kind, distributed", [("ddp", "MULTI_GPU"), ("fsdp", "FSDP")])
def test_accelerate_reads_the_shipped_configurations(kind, distributed):
    settings = load_config_from_file(str(SHIPPED / f"{kind}.yaml"))
    assert settings.distributed_type == distributed and settings.mixed_precision == "no"
    assert environment(kind).get("ACCELERATE_USE_FSDP", "false") == str(kind == "fsdp").lower()


def test_the_first_version_of_fsdp_is_refused(monkeypatch):
    assert sharding() is None
    for key, value in {**environment("fsdp"), "FSDP_VERSION": "1"}.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(InputError, match="fsdp_version: 2"):
        sharding()
