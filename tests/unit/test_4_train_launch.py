"""The command that the documentation gives for several processes, as a user types it: two of them train what one trains."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_pipeline, tiny_set
from typer.testing import CliRunner

import sarnb.profile
from sarnb.cli import app
from sarnb.data.files import write_set
from sarnb.settings import repository

DDP = Path(sarnb.profile.__file__).parent / "profiles" / "accelerate" / "ddp.yaml"
#: In each process that is launched: no bf16, whose rounding would hide differences; who puts a record in place is noted.
SITE = """
import os, sys
if "RANK" in os.environ:
    import torch
    torch.cpu.get_capabilities = dict
    def noted(event, args):
        if event == "os.rename" and str(args[1]).endswith("record.json"):
            with open(os.environ["RECORDS"], "a") as file:
                file.write(os.environ["RANK"] + "/" + os.environ["WORLD_SIZE"] + "\\n")
    sys.addaudithook(noted)
"""
RATE, STEPS = 1e-4, 3


@pytest.fixture
def words(tmp_path) -> list[str]:
    """The arguments but ``--out``: small foundation, small data set, the same rate for everything."""
    tiny_pipeline().save_pretrained(tmp_path / "foundation")
    for split, count in (("train", 12), ("val", 4)):
        images = tiny_set(count, seed=count)
        write_set(tmp_path / "data" / split, images.images, images.rows)
    rates = [word for name in ("LR_UNET_LORA", "LR_TEXT_LORA", "LR_TOKEN") for word in ("--param", f"{name}={RATE}")]
    return [
        "finetune",
        "--strategy",
        "unet-lora+te-lora+token-r4",
        "--profile",
        "smoke",
        "--steps",
        str(STEPS),
        *rates,
        "--foundation",
        str(tmp_path / "foundation"),
        "--data",
        str(tmp_path / "data"),
    ]


def launch(words: list[str], folder: Path) -> subprocess.CompletedProcess:
    """``accelerate launch`` with the shipped configuration, told that its two processes have no graphics cards."""
    (folder / "sitecustomize.py").write_text(SITE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "RECORDS": str(folder / "records"),
        "PYTHONPATH": os.pathsep.join([str(folder), str(repository())]),
    }
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.accelerate_cli",
        "launch",
        "--config_file",
        str(DDP),
        "--main_process_port",
        str(port),
        "-m",
        "sarnb",
        *words,
    ]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=600)


def files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    paths = {name: path for name, path in files(folder).items() if path.suffix == ".safetensors"}
    return {f"{name}:{key}": value for name, path in paths.items() for key, value in load_file(path).items()}


def test_accelerate_launch_trains_by_two_processes_what_one_trains(words, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    one, two = tmp_path / "one" / "model", tmp_path / "two" / "model"
    CliRunner().invoke(app, [*words, "--out", str(one)], catch_exceptions=False)
    done = launch([*words, "--out", str(two)], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("last loss") == 1
    assert (tmp_path / "records").read_text().split() == ["0/2"]  # two processes, one of which wrote the model, once
    assert files(two).keys() == files(one).keys() >= {"pytorch_lora_weights.safetensors", "learned_embeds.safetensors"}
    records = [json.loads((out / "record.json").read_text()) for out in (one, two)]
    assert all(records[0][name] == records[1][name] for name in ("strategy", "foundation", "data", "config"))
    expected, found = weights(one), weights(two)
    assert found.keys() == expected.keys() and len(found) > 50
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    ups = torch.cat([value.flatten() for name, value in found.items() if name.endswith(".up.weight")])
    assert ups.abs().max() > RATE  # they start at zero: ten tolerances away from what is no training
    histories = [pd.read_csv(out / "history.csv") for out in (one, two)]
    assert len(histories[1]) == len(histories[0])
    for column in ("loss", "held_out", "learning_rate"):
        np.testing.assert_allclose(*(table[column].dropna() for table in histories), rtol=1e-5)
