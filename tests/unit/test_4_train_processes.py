"""Trainings as processes: killed and resumed to the bit; two that train, draw and are launched as one."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
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
from tiny import all_weights, tiny_pipeline, tiny_set
from typer.testing import CliRunner

import sarnb.profile
from sarnb.cli import app
from sarnb.data.files import write_set
from sarnb.errors import InputError
from sarnb.generate.strategies import read_progress, token_files
from sarnb.profile import load_profile, read_yaml
from sarnb.settings import repository
from sarnb.train.state import CHECKPOINT, sharding

SHIPPED = Path(sarnb.profile.__file__).parent / "profiles" / "accelerate"


def environment(kind: str) -> dict[str, str]:
    """What ``accelerate launch`` tells its processes after the shipped configuration, on the CPU."""
    args = launch_command_parser().parse_args(["--config_file", str(SHIPPED / f"{kind}.yaml"), "script.py"])
    reported = prepare_multi_gpu_env(_validate_launch_command(args)[0])
    return {key: value for key, value in reported.items() if key.startswith(("ACCELERATE_", "FSDP_"))} | {"ACCELERATE_USE_CPU": "true"}


@pytest.mark.parametrize("name, count", [("ddp", 8), ("fsdp", 8), ("ddp-64", 64), ("fsdp-64", 64)])
def test_the_command_above_a_shipped_configuration_starts_so_many_processes_that_share_out_its_batch(name, count):
    lines = (SHIPPED / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    (command,) = (line for line in lines if "accelerate launch" in line)
    words = shlex.split(command.partition("accelerate launch ")[2].rstrip("'").replace("$SLURM_NODEID", "3").replace("$HEAD", "node1"))
    assert words[:2] == ["--config_file", f"sarnb/profiles/accelerate/{name}.yaml"]
    args = launch_command_parser().parse_args(["--config_file", str(SHIPPED / f"{name}.yaml"), *words[2:]])
    reported = _validate_launch_command(args)[0]
    assert (reported.num_processes, reported.num_machines, reported.use_fsdp) == (count, count // 8, name.startswith("fsdp"))
    assert count == 8 or (int(reported.machine_rank), reported.main_process_ip) == (3, "node1")
    given = dict(word.split("=") for flag, word in zip(words, words[1:]) if flag == "--param")
    paper = load_profile("paper", **{key.lower(): read_yaml(value) for key, value in given.items()})
    assert paper.batch_size % (count * paper.accumulate) == 0
    assert name.startswith("ddp") or paper.optimizer == "adamw"  # 8-bit moments are not shared out


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def by_two(life: Callable[..., None], kind: str, *values: object) -> list[int]:
    """Exit codes of two processes that live one life together."""
    port = free_port()
    workers = [crash_workers.PROCESSES.Process(target=life, args=(rank, port, environment(kind), *values)) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
    return [worker.exitcode for worker in workers]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_train_as_one(kind, tmp_path):
    """AdamW divides by the gradient's size, so its first steps amplify the rounding of sums in another order a little."""
    name, alone, two = "hybrid-r4", tmp_path / "one", tmp_path / "two"
    if kind == "fsdp":  # and resume from whole weights
        assert by_two(crash_workers.work, kind, name, two, 3) == [3, 3] and (two / CHECKPOINT).exists()
    assert by_two(crash_workers.work, kind, name, two) == [0, 0]
    expected, found = all_weights(crash_workers.train_together(name, alone)), load_file(two / "weights.safetensors")
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-4)
    histories = [pd.read_csv(out / "history.csv") for out in (alone, two)]
    for column in ("loss", "held_out", "learning_rate"):
        np.testing.assert_allclose(*(table[column].dropna() for table in histories), rtol=1e-4)
    # One checkpoint is as good as the other: whole tensors under the same names.
    shapes = [{key: value.shape for key, value in load_file(out / CHECKPOINT).items()} for out in (alone, two)]
    assert shapes[0] == shapes[1]
    # Each cache, of training and held-out images, was made once: by one process, for which the other waited.
    assert len((two / "encoded").read_text().split()) == 2


@pytest.mark.slow
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


# Resume after ``kill -9``: wherever the process dies, the resumed run ends with the bits of the uninterrupted one.


def start(name: str, out: Path, dies_saving: int = 0):
    """A process that trains, and the end of the pipe on which it tells its steps."""
    hears, tells = crash_workers.PROCESSES.Pipe(duplex=False)
    process = crash_workers.PROCESSES.Process(target=crash_workers.live, args=(name, out, tells, dies_saving))
    process.start()
    tells.close()
    return process, hears


def reported(hears) -> list[tuple[int, float]]:
    """(step, time) of what a process tells until its end."""
    heard = []
    while True:
        try:
            heard.append((hears.recv(), time.perf_counter()))
        except EOFError:
            return heard


def finish(name: str, out: Path, dies_saving: int = 0) -> tuple[int, list[tuple[int, float]]]:
    """(exit code, reported steps) of a life that nobody ends from outside."""
    process, hears = start(name, out, dies_saving)
    heard = reported(hears)
    process.join()
    return process.exitcode, heard


def kill_at(name: str, out: Path, step: int, delay: float) -> list[int]:
    """The steps of a life that is killed ``delay`` seconds after it began ``step``."""
    process, hears = start(name, out)
    steps = []
    while not steps or steps[-1] < step:
        steps.append(hears.recv())
    time.sleep(delay)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    return steps


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hybrid-r4"])  # a whole UNet, LoRA on the text encoders, and a learned word
def test_killed_at_five_random_moments_and_once_in_a_checkpoint(name, tmp_path):
    code, heard = finish(name, tmp_path / "whole")
    assert code == 0 and [step for step, _ in heard] == list(range(crash_workers.CONFIG.steps))
    seconds = float(np.median(np.diff([moment for _, moment in heard])))
    rng = np.random.default_rng(sum(name.encode()))
    # Never in the last step, which a slow machine could finish before the kill arrives.
    for step in sorted(rng.choice(crash_workers.CONFIG.steps - 1, 5, replace=False)):
        steps = kill_at(name, tmp_path / "cut", int(step), float(rng.uniform(0, seconds)))
        assert steps[0] % crash_workers.CONFIG.checkpoint_every == 0  # it went on from a checkpoint, not from where it died
    code, heard = finish(name, tmp_path / "cut", dies_saving=crash_workers.CONFIG.steps)
    assert code == -signal.SIGKILL and (tmp_path / "cut" / (CHECKPOINT + ".tmp")).exists()
    code, heard = finish(name, tmp_path / "cut")
    assert code == 0 and heard[0][0] == crash_workers.CONFIG.steps - crash_workers.CONFIG.checkpoint_every
    whole, cut = ((tmp_path / part / crash_workers.DIGEST).read_text() for part in ("whole", "cut"))
    assert cut == whole
    histories = [pd.read_csv(tmp_path / part / "history.csv") for part in ("whole", "cut")]
    pd.testing.assert_frame_equal(*(table[["step", "loss", "learning_rate", "held_out"]] for table in histories), check_exact=True)


# Samples on the way of a training by two processes, whole weights in each or shared out: what one process draws.


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    crash_workers.train_watched(out)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fsdp"])  # "ddp": the launched command below draws too
def test_two_processes_draw_what_one_draws(kind, alone, tmp_path):
    assert by_two(crash_workers.work_watched, kind, tmp_path) == [0, 0]
    one, two = read_progress(alone), read_progress(tmp_path)
    assert list(two.images) == list(one.images) == [0, 1, 2]
    for step in (0, 1, 2):  # sums in another order differ in their rounding
        assert np.abs(one.images[step].astype(int) - two.images[step]).mean() < 0.5
        torch.testing.assert_close(*(load_file(token_files(out)[step]) for out in (tmp_path, alone)), rtol=0, atol=5e-4)


# The command that the documentation gives for several processes, as a user types it: two of them train what one trains.


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
    start = ["finetune", "--strategy", "unet-lora+te-lora+token-r4", "--profile", "smoke", "--steps", str(STEPS), *rates]
    return [*start, "--foundation", str(tmp_path / "foundation"), "--data", str(tmp_path / "data")]


def launch(words: list[str], folder: Path) -> subprocess.CompletedProcess:
    """``accelerate launch`` with the shipped configuration, set to know that its two processes have no graphics cards."""
    (folder / "sitecustomize.py").write_text(SITE)
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "RECORDS": str(folder / "records"),
        "PYTHONPATH": os.pathsep.join([str(folder), str(repository())]),
    }
    options = ["--config_file", str(SHIPPED / "ddp.yaml"), "--num_processes", "2", "--main_process_port", str(free_port()), "-m", "sarnb"]
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", *options, *words]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=600)


def files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    paths = {name: path for name, path in files(folder).items() if path.suffix == ".safetensors"}
    return {f"{name}:{key}": value for name, path in paths.items() for key, value in load_file(path).items()}


@pytest.mark.slow
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
    assert len(found) > 50
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    ups = torch.cat([value.flatten() for name, value in found.items() if name.endswith(".up.weight")])
    assert ups.abs().max() > RATE  # they start at zero: ten tolerances away from what is no training
    histories = [pd.read_csv(out / "history.csv") for out in (one, two)]
    assert len(histories[1]) == len(histories[0])
    for column in ("loss", "held_out", "learning_rate"):
        np.testing.assert_allclose(*(table[column].dropna() for table in histories), rtol=1e-5)


@pytest.mark.slow
def test_two_equal_trainings_at_once_are_one(words, tmp_path):
    out = tmp_path / "model"
    command = [sys.executable, "-m", "sarnb", *words, "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository())}
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=600) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    (last,) = {output.splitlines()[-1] for output, _ in said}
    assert "last loss" in last and sum("step 3/3" in output for output, _ in said) == 1
    assert pd.read_csv(out / "history.csv")["step"].max() == STEPS and not list(out.glob(".training-*"))
    assert not list(tmp_path.glob(".*.lock"))
