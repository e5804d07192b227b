"""What looks at a training on the way, and what logs it: it changes no bit of the training, and says what it lacks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import sarnb.train.state as tracking
from sarnb.errors import InputError
from sarnb.train.loop import Watcher, step_generator, train_loop
from sarnb.train.machine import peak_memory_mb, reset_peak_memory, uncounted_memory
from sarnb.train.state import LoopConfig

CONFIG = LoopConfig(steps=7, learning_rate=1e-2, checkpoint_every=3, ema_decay=0.9, precision="fp32")


def regression():
    """A network, and a loss that draws from the *global* random numbers too, so that any use of them elsewhere shows."""
    torch.manual_seed(0)
    network = nn.Linear(4, 1)

    def loss(modules, step, share=None):
        x = torch.randn(8, 4, generator=step_generator(0, step)) + 0.1 * torch.randn(8, 4)
        return (modules["net"](x) - x.sum(dim=1, keepdim=True)).pow(2).mean()

    return network, loss


def trained(out, watchers=()):
    network, loss = regression()
    history = train_loop({"net": network}, loss, CONFIG, out, watchers=[Watcher(every, call(network)) for every, call in watchers])
    return network, history


def test_watchers_change_no_bit_of_the_training(tmp_path):
    looked = []

    def drawing(network):
        def call(step):
            looked.append(step)
            network(torch.randn(100, 4))

        return call

    plain, history = trained(tmp_path / "plain")
    watched, same = trained(tmp_path / "watched", [(2, drawing)])
    assert looked == [0, 2, 4, 6, 7]
    assert history["loss"].tolist() == same["loss"].tolist()
    assert torch.equal(plain.weight, watched.weight) and torch.equal(plain.bias, watched.bias)


def test_watchers_see_the_moving_average(tmp_path):
    seen = {}
    network, _ = trained(tmp_path, [(3, lambda net: lambda step: seen.update({step: net.weight.detach().clone()}))])
    start, _ = regression()
    assert list(seen) == [0, 3, 6, 7]
    assert torch.equal(seen[0], start.weight)
    assert torch.equal(seen[7], network.weight)  # what the loop leaves is the average
    expected, weight = start.weight.detach().clone(), start.weight.detach().clone()
    # The recursion written out on the weights that a loop without average passes through.
    passed = []
    network, loss = regression()
    train_loop(
        {"net": network},
        loss,
        LoopConfig(**{**vars(CONFIG), "ema_decay": 0.0}),
        tmp_path / "raw",
        watchers=[Watcher(1, lambda step: passed.append(network.weight.detach().clone()))],
    )
    for step, weight in enumerate(passed[1:4]):
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(seen[3], expected)


def test_after_a_cut_the_repeated_steps_are_looked_at_again_and_no_others(tmp_path):
    looked = []

    def failing(modules, step, share):
        if step == 5:
            raise KeyboardInterrupt
        return loss(modules, step)

    network, loss = regression()
    with pytest.raises(KeyboardInterrupt):
        train_loop({"net": network}, failing, CONFIG, tmp_path, watchers=[Watcher(2, looked.append)])
    assert looked == [0, 2, 4]
    train_loop({"net": network}, loss, CONFIG, tmp_path, watchers=[Watcher(2, looked.append)])
    assert looked[3:] == [4, 6, 7]  # the checkpoint stood at step 3


def test_senseless_watchers_and_trackers_are_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="every 0 steps"):
        Watcher(0, print)
    network, loss = regression()
    with pytest.raises(InputError, match="unknown tracker 'paper'; choose one of .*tensorboard"):
        train_loop({"net": network}, loss, CONFIG, tmp_path, trackers=["paper"])
    monkeypatch.setattr(tracking, "get_available_trackers", list)
    with pytest.raises(InputError, match="tracker 'tensorboard' needs its package.*pip install tensorboard"):
        train_loop({"net": network}, loss, CONFIG, tmp_path, trackers=["tensorboard"])
    assert not list(tmp_path.iterdir())


def test_what_is_drawn_on_the_way_does_not_count_as_memory_of_the_training():
    reset_peak_memory()
    start = peak_memory_mb()
    with uncounted_memory():
        block = np.ones(120_000_000, np.uint8)  # touched, so resident
        del block
    if peak_memory_mb() > start + 60:
        pytest.skip("this system cannot reset the peak of a process")
    block = np.ones(80_000_000, np.uint8)
    counted = peak_memory_mb()
    assert counted > start + 60
    del block
    with uncounted_memory():
        pass
    assert peak_memory_mb() == pytest.approx(counted, abs=2)  # what counted before is kept
    reset_peak_memory()
    assert peak_memory_mb() < counted - 60
