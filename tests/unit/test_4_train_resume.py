"""Resume after ``kill -9``: wherever the process dies, the resumed run ends with the bits of the uninterrupted one."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import crash_workers
import numpy as np
import pandas as pd
import pytest
from tiny import tiny_pipeline, tiny_set

import sarnb.train.checkpoint as checkpoint
from sarnb.errors import InputError
from sarnb.model.foundation import components, fingerprint
from sarnb.model.strategy import find_strategy
from sarnb.train.checkpoint import NAME
from sarnb.train.finetune import finetune


def start(name: str, out: Path, dies_saving: int = 0):
    """A process that trains, and the end of the pipe on which it tells its steps."""
    hears, tells = crash_workers.PROCESSES.Pipe(duplex=False)
    process = crash_workers.PROCESSES.Process(target=crash_workers.live, args=(name, out, tells, dies_saving))
    process.start()
    tells.close()
    return process, hears


def told(hears) -> list[tuple[int, float]]:
    """(step, time) of what a process tells until its end."""
    heard = []
    while True:
        try:
            heard.append((hears.recv(), time.perf_counter()))
        except EOFError:
            return heard


def finish(name: str, out: Path, dies_saving: int = 0) -> tuple[int, list[tuple[int, float]]]:
    """(exit code, steps told) of a life that nobody ends from outside."""
    process, hears = start(name, out, dies_saving)
    heard = told(hears)
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


@pytest.mark.parametrize("name", ["unet-full", "unet-lora-r4", "hybrid-r4"])
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
    assert code == -signal.SIGKILL and (tmp_path / "cut" / (NAME + ".tmp")).exists()
    code, heard = finish(name, tmp_path / "cut")
    assert code == 0 and heard[0][0] == crash_workers.CONFIG.steps - crash_workers.CONFIG.checkpoint_every
    whole, cut = ((tmp_path / part / crash_workers.DIGEST).read_text() for part in ("whole", "cut"))
    assert cut == whole
    histories = [pd.read_csv(tmp_path / part / "history.csv") for part in ("whole", "cut")]
    pd.testing.assert_frame_equal(*(table[["step", "loss", "learning_rate", "held_out"]] for table in histories), check_exact=True)


def test_a_disk_that_fills_up_loses_nothing(tmp_path, monkeypatch):
    def train(out) -> list[str]:
        finetune(pipe := tiny_pipeline(), find_strategy("unet-lora-r4"), tiny_set(), crash_workers.CONFIG, out)
        return [fingerprint(net) for net in components(pipe).values()]

    save = checkpoint.save_file

    def full(tensors, path, metadata):
        if metadata["step"] == "6":
            path.write_bytes(b"half of it")
            raise OSError(28, "No space left on device")
        save(tensors, path, metadata=metadata)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(InputError, match="checkpoint after step 6 could not be saved.*No space left.*last checkpoint still stands"):
        train(tmp_path / "cut")
    assert [path.name for path in (tmp_path / "cut").glob("checkpoint*")] == [NAME]
    monkeypatch.setattr(checkpoint, "save_file", save)
    assert train(tmp_path / "cut") == train(tmp_path / "whole")
