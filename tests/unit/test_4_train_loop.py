"""The training loop: data order, resume to the bit, moving average, watchers, and the errors that keep the last checkpoint."""

from __future__ import annotations

import copy
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from sarnb.errors import DivergedError, InputError
from sarnb.train import state
from sarnb.train.loop import WHOLE, MicroBatch, Watcher, batch_ids, ema_decay_at, last, step_generator, train_loop
from sarnb.train.machine import peak_memory_mb, reset_peak_memory, uncounted_memory
from sarnb.train.state import LoopConfig, rate_factor


def regression(seed: int = 0):
    """A small network and a loss that draws its batch from the step."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def loss(modules, step, micro=WHOLE):
        x = micro.of(torch.randn(16, 4, generator=step_generator(0, step)))
        return (modules["net"](x) - x.sum(dim=1, keepdim=True)).pow(2).mean()

    return network, loss


def config(steps: int = 20, **changes) -> LoopConfig:
    return LoopConfig(**({"steps": steps, "learning_rate": 1e-2, "checkpoint_every": 5, "precision": "fp32"} | changes))


@pytest.mark.parametrize("count", [12, 10])  # batches of four, which cross an epoch of ten
def test_every_epoch_shows_every_image_once(count):
    ids = np.concatenate([batch_ids(count, 4, seed=3, step=step) for step in range(count // 2)])
    assert sorted(ids[:count]) == sorted(ids[count:]) == list(range(count))
    assert not np.array_equal(ids[:count], ids[count:])


def test_generator_depends_on_seed_step_and_stream_only():
    first = torch.randn(4, generator=step_generator(1, 2))
    torch.manual_seed(99)
    assert torch.equal(first, torch.randn(4, generator=step_generator(1, 2)))
    others = [torch.randn(4, generator=step_generator(*key)) for key in ((2, 2), (1, 3), (1, 2, 1))]
    assert not any(torch.equal(first, other) for other in others)


def test_rate_rises_then_falls_to_a_tenth():
    loop = config(100, warmup_steps=10, schedule="cosine")
    assert rate_factor(4, loop) == pytest.approx(0.5)
    assert rate_factor(10, loop) == pytest.approx(1.0)
    assert rate_factor(100, loop) == pytest.approx(0.1)
    linear = [rate_factor(step, config(100, warmup_steps=10, schedule="linear")) for step in range(101)]
    assert linear[:4] == pytest.approx([rate_factor(step, loop) for step in range(4)]) and set(linear[10:61]) == {1.0}
    assert np.diff(linear[60:]) == pytest.approx(-1 / 40) and linear[100] == 0 < linear[99]  # the last step trains, too


def test_a_bounded_parameter_ends_at_the_nearest_point_of_its_ball(tmp_path):
    """|v - c|² over the ball |v| <= 2 is least at 2 c / |c|; its free twin in the same group reaches c."""
    network, goal = nn.ParameterList([torch.ones(6), torch.ones(6)]), torch.linspace(-3, 4, 6)
    loss = lambda modules, step, micro=WHOLE: sum((v - goal).square().sum() for v in modules["net"])  # noqa: E731
    groups = [{"params": list(network), "lr": 0.05, "weight_decay": 0.0, "longest": [2.0]}]
    train_loop(
        {"net": network}, loss, config(300, ema_decay=0.9, schedule="cosine", checkpoint_every=300, log_every=300), tmp_path, groups=groups
    )
    bound, free = network[0].detach(), network[1].detach()
    torch.testing.assert_close(bound, 2 * goal / goal.norm(), atol=2e-2, rtol=0)
    torch.testing.assert_close(free, goal, atol=2e-2, rtol=0)
    assert bound.norm() <= 2 + 1e-5


def test_moving_average_is_the_recursion_written_out(tmp_path):
    network, loss = regression()
    plain = copy.deepcopy(network)
    train_loop({"net": network}, loss, config(6, ema_decay=0.9), tmp_path / "average")
    expected = [p.detach().clone() for p in plain.parameters()]
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2, betas=(0.9, 0.99), weight_decay=0.01)
    for step in range(6):
        loss({"net": plain}, step).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        decay = ema_decay_at(step, 0.9)
        expected = [decay * e + (1 - decay) * p.detach() for e, p in zip(expected, plain.parameters())]
    torch.testing.assert_close(list(network.parameters()), expected)


@pytest.mark.parametrize(("largest", "clips"), [(0.01, 8), (1e3, 0)])
def test_gradients_are_clipped_by_their_common_norm_or_left_to_the_bit(largest, clips, tmp_path, monkeypatch):
    network, loss = regression()
    plain, scaled, original = copy.deepcopy(network), [], torch.nn.utils.clip_grads_with_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grads_with_norm_", lambda *given: scaled.append(1) or original(*given))
    train_loop({"net": network}, loss, config(8, max_grad_norm=largest), tmp_path)
    assert len(scaled) == clips
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    for step in range(8):
        loss({"net": plain}, step).backward()
        norm = torch.cat([p.grad.flatten() for p in plain.parameters()]).norm()
        for p in plain.parameters():
            p.grad *= min(1.0, largest / float(norm))
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(list(network.parameters()), list(plain.parameters()), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_resume_after_a_cut_is_exact_to_the_bit(tmp_path, ema):
    whole, loss = regression()
    train_loop({"net": whole}, loss, config(ema_decay=ema), tmp_path / "whole")
    cut, _ = regression()

    def failing(modules, step, micro):
        if step == 13:
            raise KeyboardInterrupt
        return loss(modules, step)

    with pytest.raises(KeyboardInterrupt):
        train_loop({"net": cut}, failing, config(ema_decay=ema), tmp_path / "cut")
    fresh, _ = regression(seed=5)  # the weights come from the checkpoint, not from here
    train_loop({"net": fresh}, loss, config(ema_decay=ema), tmp_path / "cut")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), fresh.parameters()))


def test_loss_that_is_not_finite_stops_and_names_the_step(tmp_path):
    network, loss = regression()
    broken = lambda modules, step, micro: loss(modules, step) * (float("nan") if step == 7 else 1.0)  # noqa: E731
    with pytest.raises(DivergedError, match="step 7"):
        train_loop({"net": network}, broken, config(), tmp_path)
    fresh, _ = regression()
    steps, counted = counting(loss)
    history = train_loop({"net": fresh}, counted, config(), tmp_path)
    assert steps == list(range(5, 20)) and history["step"].iloc[-1] == 20  # on from the checkpoint after five steps


def counting(loss):
    """The steps that a loss is called for, and the loss."""
    steps: list[int] = []

    def counted(modules, step, micro):
        steps.append(step)
        return loss(modules, step, micro)

    return steps, counted


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_gradient_that_is_not_finite_poisons_no_checkpoint(tmp_path, ema):
    network, loss = regression()
    path, before = tmp_path / state.CHECKPOINT, []

    def poisoned(modules, step, micro):
        value = loss(modules, step, micro)
        if step != 9:
            return value
        before.append(path.read_bytes())
        return value + (0 * modules["net"][0].weight.sum()).sqrt()  # 0, with the slope 0 / 0

    with pytest.raises(DivergedError, match="weights are not finite after step 10.*last good checkpoint"):
        train_loop({"net": network}, poisoned, config(ema_decay=ema), tmp_path)
    assert [path.read_bytes()] == before
    steps, counted = counting(loss)
    fresh, _ = regression(seed=5)
    train_loop({"net": fresh}, counted, config(ema_decay=ema), tmp_path)
    whole, _ = regression()
    train_loop({"net": whole}, loss, config(ema_decay=ema), tmp_path / "whole")
    assert steps[0] == 5 and all(torch.equal(a, b) for a, b in zip(whole.parameters(), fresh.parameters()))


def test_a_full_disk_under_the_history_is_reported_and_loses_nothing(tmp_path, monkeypatch):
    network, loss = regression()
    replace, seen = Path.replace, []

    def full(temporary, path):
        if path.exists():
            seen.append(path.read_bytes())
            raise OSError(28, "No space left on device")
        replace(temporary, path)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(InputError, match="history.csv: the history could not be saved.*No space left.*last checkpoint still stands"):
        train_loop({"net": network}, loss, config(), tmp_path)
    assert [(tmp_path / "history.csv").read_bytes()] == seen and not list(tmp_path.glob(".history*"))
    monkeypatch.undo()
    steps, counted = counting(loss)
    history = train_loop({"net": regression()[0]}, counted, config(), tmp_path)
    assert steps[0] == 10 and history["step"].tolist() == [5, 10, 15, 20]


def test_what_cannot_be_trained_or_gone_on_with_is_refused(tmp_path):
    network, loss = regression()
    with pytest.raises(InputError, match="multiple of 3"):
        train_loop({"net": network}, loss, config(accumulate=3), tmp_path, batch_size=16)
    train_loop({"net": network}, loss, config(5), tmp_path, identity="unet-full")
    with pytest.raises(InputError, match="another run"):
        train_loop({"net": network}, loss, config(5), tmp_path, identity="unet-lora")
    path = tmp_path / state.CHECKPOINT
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="damaged"):
        train_loop({"net": network}, loss, config(5), tmp_path, identity="unet-full")
    with pytest.raises(InputError, match="trains nothing"):
        train_loop({"net": network.requires_grad_(False)}, loss, config(), tmp_path)


def test_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    (network, loss), kept = regression(), []
    save_file = state.save_file

    def saved(tensors, path, metadata):
        if kept:
            path.write_bytes(b"half of it")
            raise OSError(28, "No space left on device")
        save_file(tensors, path, metadata=metadata)
        kept.append(path.read_bytes())

    monkeypatch.setattr(state, "save_file", saved)
    with pytest.raises(InputError, match="after step 10 could not be saved.*No space left.*last checkpoint still stands"):
        train_loop({"net": network}, loss, config(), tmp_path)
    assert [path.read_bytes() for path in tmp_path.glob("checkpoint*")] == kept


@pytest.mark.parametrize(
    "changes", [{"steps": 0}, {"learning_rate": 0.0}, {"ema_decay": 1.0}, {"schedule": "step"}, {"accumulate": 0}, {"optimizer": "sgd"}]
)
def test_impossible_configuration_is_refused(changes):
    with pytest.raises(InputError):
        config(**changes)


def test_shares_split_a_batch_without_rest():
    shares = [MicroBatch(index, 3) for index in range(3)]
    assert sum((micro.of(list(range(6))) for micro in shares), []) == list(range(6))
    assert torch.equal(shares[1].of(torch.arange(6)), torch.tensor([2, 3]))
    assert WHOLE.of("abc") == "abc"


def test_micro_batches_give_the_weights_of_the_whole_batch(tmp_path):
    whole, loss = regression()
    parts = copy.deepcopy(whole)
    histories = [
        train_loop({"net": net}, loss, config(10, accumulate=count), tmp_path / str(count), batch_size=16)
        for net, count in ((whole, 1), (parts, 4))
    ]
    np.testing.assert_allclose(histories[1]["loss"], histories[0]["loss"], rtol=1e-5)
    torch.testing.assert_close(list(parts.parameters()), list(whole.parameters()), rtol=1e-4, atol=1e-5)


def test_tracker_writes_the_rows_of_the_history(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    network, loss = regression()
    held_out = iter([9.0, 8.0, 7.0])
    history = train_loop(
        {"net": network},
        loss,
        config(20, log_every=5, validate_every=10),
        tmp_path,
        trackers=["tensorboard"],
        validate=lambda: next(held_out),
    )
    events = EventAccumulator(str(tmp_path / "trackers" / "sarnb"))
    events.Reload()
    found = events.Scalars("loss")
    assert [event.step for event in found] == history["step"].tolist()[1:] == [5, 10, 15, 20]
    np.testing.assert_allclose([event.value for event in found], history["loss"].dropna(), rtol=1e-6)
    assert [(event.step, event.value) for event in events.Scalars("held_out")] == [(0, 9.0), (10, 8.0), (20, 7.0)]


@pytest.mark.skipif(torch.cuda.is_available(), reason="has the hardware")
def test_eight_bit_moments_need_their_package_and_hardware(tmp_path):
    network, loss = regression()
    with pytest.raises(InputError, match='adamw8bit.*choose "adamw"'):
        train_loop({"net": network}, loss, config(optimizer="adamw8bit"), tmp_path)


def test_last_value_of_a_history():
    history = pd.DataFrame({"step": [0, 5, 10, 15], "loss": [None, 0.9, 0.8, 0.7], "held_out": [1.0, None, 0.6, 0.4]})
    assert last(history) == 0.4 and last(history.iloc[:2]) == 1.0 and last(history, "loss") == 0.7
    assert np.isnan(last(history.drop(columns="held_out")))


# What looks at a training on the way, and what logs it: it changes no bit of the training, and says what it lacks.


CONFIG = LoopConfig(steps=7, learning_rate=1e-2, checkpoint_every=3, ema_decay=0.9, precision="fp32")


def drawing_regression():
    """A network, and a loss that draws from the *global* random numbers too, so that any use of them elsewhere shows."""
    torch.manual_seed(0)
    network = nn.Linear(4, 1)

    def loss(modules, step, share=None):
        x = torch.randn(8, 4, generator=step_generator(0, step)) + 0.1 * torch.randn(8, 4)
        return (modules["net"](x) - x.sum(dim=1, keepdim=True)).pow(2).mean()

    return network, loss


def trained(out, watchers=()):
    network, loss = drawing_regression()
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


def test_the_time_of_steps_is_whole_and_that_of_looking_is_left_out(tmp_path):
    """Held-out losses and watchers come between two rows of the history, more often than these."""
    network, loss = drawing_regression()

    def slow(modules, step, share=None):
        time.sleep(0.02)
        return loss(modules, step)

    config = LoopConfig(**{**vars(CONFIG), "steps": 20, "checkpoint_every": 20, "log_every": 10, "validate_every": 4})
    look = {"validate": lambda: time.sleep(0.1) or 0.0, "watchers": [Watcher(3, lambda step: time.sleep(0.1))]}
    seconds = train_loop({"net": network}, slow, config, tmp_path, **look)["seconds"].sum()
    assert 20 * 0.02 <= seconds < 20 * 0.02 + 0.5  # the looks alone take 1.3 s


def test_watchers_see_the_moving_average(tmp_path):
    seen = {}
    network, _ = trained(tmp_path, [(3, lambda net: lambda step: seen.update({step: net.weight.detach().clone()}))])
    start, _ = drawing_regression()
    assert list(seen) == [0, 3, 6, 7]
    assert torch.equal(seen[0], start.weight)
    assert torch.equal(seen[7], network.weight)  # what the loop leaves is the average
    shorter, loss = drawing_regression()
    train_loop({"net": shorter}, loss, LoopConfig(**{**vars(CONFIG), "steps": 3}), tmp_path / "shorter")
    assert torch.equal(seen[3], shorter.weight)


def test_after_a_cut_the_repeated_steps_are_looked_at_again_and_no_others(tmp_path):
    looked = []

    def failing(modules, step, share):
        if step == 5:
            raise KeyboardInterrupt
        return loss(modules, step)

    network, loss = drawing_regression()
    with pytest.raises(KeyboardInterrupt):
        train_loop({"net": network}, failing, CONFIG, tmp_path, watchers=[Watcher(2, looked.append)])
    assert looked == [0, 2, 4]
    train_loop({"net": network}, loss, CONFIG, tmp_path, watchers=[Watcher(2, looked.append)])
    assert looked[3:] == [4, 6, 7]  # the checkpoint stood at step 3


def test_senseless_watchers_and_trackers_are_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="every 0 steps"):
        Watcher(0, print)
    network, loss = drawing_regression()
    with pytest.raises(InputError, match="unknown tracker 'paper'; choose one of .*tensorboard"):
        train_loop({"net": network}, loss, CONFIG, tmp_path, trackers=["paper"])
    monkeypatch.setattr(state, "get_available_trackers", list)
    with pytest.raises(InputError, match="tracker 'tensorboard' needs its package.*pip install tensorboard"):
        train_loop({"net": network}, loss, CONFIG, tmp_path, trackers=["tensorboard"])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
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
