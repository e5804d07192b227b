"""What each strategy trains: counted by hand, started without effect, refused where it makes no sense."""

from __future__ import annotations

import pytest
import torch
from tiny import outputs, tiny_pipeline

from sarnb.errors import InputError
from sarnb.model.strategy import Strategy, find_strategy, prepare, seeds_of


def test_ranks_by_name():
    assert find_strategy("unet-lora-r8").rank == 8
    with pytest.raises(InputError, match="unknown strategy 'best'.*hybrid"):
        find_strategy("best")
    with pytest.raises(InputError, match="unknown strategy"):
        find_strategy("unet-full-r8")
    with pytest.raises(InputError, match="rank is 0"):
        find_strategy("unet-lora-r0")


@pytest.mark.parametrize(
    "values",
    [
        {"rank": 0},
        {"alpha": 0},
        {"unet": "some"},
        {"text": "scratch"},
        {"vae": "scratch"},
        {"vae": "full", "unet": "lora"},
        {"prior": 1.0},
        {"conv": True},
        {"dora": True},
        {"unet": "full", "conv": True},
    ],
)
def test_impossible_strategies(values):
    with pytest.raises(InputError, match="strategy x"):
        Strategy("x", **values)


def test_a_rank_larger_than_the_layer():
    with pytest.raises(InputError, match="rank 64 is larger than the layer .*choose at most 32"):
        prepare(tiny_pipeline(), find_strategy("unet-lora-r64"))


def test_every_parameter_that_trains_gets_a_gradient():
    # None is dead weight, which would also hang training on several processes.
    for name in ("unet-full+te-full+token", "unet-lora+te-lora+token-r4", "unet-dora-r4", "unet-lora-conv-r4"):
        pipe = tiny_pipeline()
        groups = prepare(pipe, find_strategy(name))
        outputs(pipe, "a <SAR> image of a city")[-1].square().sum().backward()
        assert all(p.grad is not None for group in groups.values() for p in group), name


def test_a_step_of_lora_is_as_long_at_every_rank():
    """Adam moves every entry of B by the rate, so ΔW = s·B·A has the length s·rate·sqrt(outputs · sum over A of a²) where B starts at 0
    and the signs of B's rows are independent: in proportion to s·sqrt(r). Rank-stable scaling, s = α/sqrt(r), cancels it."""
    lengths = {}
    for rank in (2, 8, 32):
        pipe = tiny_pipeline()
        layers = prepare(pipe, Strategy("x", unet="lora", rank=rank))["unet"]
        optimizer = torch.optim.Adam(layers, lr=1e-3)
        outputs(pipe)[-1].square().sum().backward()
        optimizer.step()
        adapted = [layer for layer in pipe.unet.modules() if hasattr(layer, "lora_A")]
        units = [torch.eye(layer.in_features) for layer in adapted]
        moved = [layer(unit) - layer.base_layer(unit) for layer, unit in zip(adapted, units)]  # ΔW itself, as it is used
        lengths[rank] = torch.stack([change.norm() for change in moved]).mean().item()
    assert max(lengths.values()) < 1.5 * min(lengths.values()), lengths  # four times with a factor that is 1 at every rank


@pytest.mark.parametrize("name", ["token", "te-lora-r4", "unet-lora-r4", "unet-lora-conv-r4", "unet-full+te-full+token", "hybrid-r4"])
def test_a_prepared_pipeline_predicts_as_before(name):
    before = outputs(tiny_pipeline())[-1]
    pipe = tiny_pipeline()
    prepare(pipe, find_strategy(name), seed=1)
    assert torch.equal(outputs(pipe)[-1], before)


def test_random_starts_depend_on_the_seed_alone():
    def start(name, seed):
        pipe = tiny_pipeline()
        torch.manual_seed(torch.seed())
        return torch.cat([p.detach().flatten() for p in prepare(pipe, find_strategy(name), seed)["unet"]])

    for name in ("scratch", "unet-lora-r4"):
        assert torch.equal(start(name, 0), start(name, 0))
        assert not torch.equal(start(name, 0), start(name, 1))
    assert not torch.equal(outputs(tiny_pipeline())[-1], outputs(_scratched())[-1])


def test_a_pipeline_is_prepared_once():
    pipe = tiny_pipeline()
    prepare(pipe, find_strategy("te-lora-r4"))
    with pytest.raises(InputError, match="adapted already"):
        prepare(pipe, find_strategy("unet-full"))


def _scratched():
    pipe = tiny_pipeline()
    prepare(pipe, find_strategy("scratch"))
    return pipe


def test_repeated_strategies_train_with_every_seed_and_others_with_the_first():
    repeated = ("unet-lora-r16", "hybrid")
    assert seeds_of("hybrid", [4, 1, 2], repeated) == [4, 1, 2] == seeds_of("unet-lora-r16", (4, 1, 2), repeated)
    assert seeds_of("token", [4, 1, 2], repeated) == [4] == seeds_of("hybrid", [4, 1, 2], ())
    assert seeds_of("hybrid", [4], repeated) == [4]
    with pytest.raises(InputError, match="no training seed"):
        seeds_of("hybrid", [], repeated)
    with pytest.raises(InputError, match="unknown strategy 'hybird'"):
        seeds_of("token", [0], ["hybird"])
