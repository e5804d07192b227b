"""Fine-tuning: fair between strategies, exact when resumed, and nothing moves that should not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import tiny_pipeline, tiny_set

import sarnb.train.finetune as module
from sarnb.errors import InputError
from sarnb.model.foundation import components, encode_prompts
from sarnb.model.strategy import STRATEGIES, find_strategy, prepare
from sarnb.model.token import TOKEN, embedding_table, token_row
from sarnb.train.cache import cache_latents, cache_text, content_key
from sarnb.train.finetune import FinetuneConfig, PriorSet, captions_of, finetune, held_out_loss, step_draw, training_loss
from sarnb.train.loop import WHOLE

CONFIG = FinetuneConfig(steps=3, batch_size=4, precision="fp32", held_out_images=4, held_out_timesteps=2, log_every=1)
# Every strategy that trains, with a rank that fits the miniature; ranks alone make no strategy of their own here.
ALL = {name: replace(strategy, rank=4, alpha=4) for name, strategy in STRATEGIES.items() if strategy.trains and "-r" not in name}
PRIOR = PriorSet(np.full((2, 16, 16, 3), 90, np.uint8), ("an aerial photograph of a city",) * 2)


def weights(pipe) -> dict[str, torch.Tensor]:
    """All parameters by component and name."""
    return {f"{part}.{name}": p.detach().clone() for part, net in components(pipe).items() for name, p in net.named_parameters()}


def test_all_strategies_see_the_same_images_noise_and_timesteps(monkeypatch, tmp_path):
    seen: dict[str, list] = {}
    original = module.noise_prediction_loss

    def spy(unet, scheduler, latents, hidden, pooled, time_ids, noise, timesteps, gamma):
        unconditional = hidden.detach().abs().sum(dim=(1, 2)) == 0
        seen[name].append([latents.clone(), noise.clone(), timesteps.clone(), unconditional])
        return original(unet, scheduler, latents, hidden, pooled, time_ids, noise, timesteps, gamma)

    monkeypatch.setattr(module, "noise_prediction_loss", spy)
    config = replace(CONFIG, steps=2, caption_dropout=0.4, noise_offset=0.3)
    assert len(ALL) >= 12
    for name, strategy in ALL.items():
        seen[name] = []
        finetune(tiny_pipeline(), strategy, tiny_set(), config, tmp_path / name, cache=tmp_path / "cache", prior=PRIOR)
    first = seen["scratch"]
    dropped = torch.cat([step[3] for step in first])
    assert dropped.any() and not dropped.all()
    for name, strategy in ALL.items():
        places = round(strategy.prior * config.batch_size)  # the prior's pictures come first, in place of as many images
        assert len(seen[name]) == config.steps
        for ours, theirs in zip(seen[name], first, strict=True):
            assert torch.equal(ours[0][places:], theirs[0][places:]), name
            assert not places or not torch.equal(ours[0][:places], theirs[0][:places])
            assert all(torch.equal(a, b) for a, b in zip(ours[1:], theirs[1:])), name


def test_a_draw_is_a_function_of_seed_and_step():
    def draw(step, **changes):
        value = step_draw(12, (4, 4, 4), 1000, replace(CONFIG, **changes), step)
        return [torch.from_numpy(value.ids), value.captions, value.timesteps, value.noise]

    torch.manual_seed(1)
    first = draw(5)
    torch.manual_seed(2)
    draw(4)
    assert all(torch.equal(a, b) for a, b in zip(draw(5, lr_token=1.0, caption_dropout=0.3), first))
    assert not any(torch.equal(a, b) for a, b in zip(draw(6), first))
    assert not any(torch.equal(a, b) for a, b in zip(draw(5, seed=1), first))
    noise = torch.cat([draw(step)[3].flatten() for step in range(50)])
    assert abs(float(noise.mean())) < 0.03 and abs(float(noise.std()) - 1) < 0.03
    ids = np.concatenate([step_draw(12, (1,), 10, CONFIG, step).ids for step in range(3)])
    assert sorted(ids) == list(range(12))  # an epoch shows every image once


def test_caches_give_the_loss_without_caches(tmp_path):
    data, strategy = tiny_set(), find_strategy("unet-full")
    pipe = tiny_pipeline()
    prepare(pipe, strategy)
    captions = captions_of(data, token=False)
    flat = [caption for several in captions for caption in several]
    latents = cache_latents(pipe, data.images, None)
    live = training_loss(pipe, latents, captions, None, CONFIG)({}, 0, WHOLE)
    stored = cache_latents(pipe, data.images, tmp_path)
    cached = training_loss(pipe, stored, captions, cache_text(pipe, flat, tmp_path), CONFIG)({}, 0, WHOLE)
    torch.testing.assert_close(cached, live, rtol=1e-5, atol=1e-6)
    assert torch.equal(stored.mean, latents.mean) and torch.equal(stored.std, latents.std)


def test_cache_files_are_shared_keyed_by_content_and_remade_when_damaged(tmp_path):
    pipe, images = tiny_pipeline(), tiny_set().images
    first = cache_latents(pipe, images, tmp_path)
    (file,) = tmp_path.iterdir()
    changed = images.copy()
    changed[0, 0, 0] ^= 1
    cache_latents(pipe, changed, tmp_path)
    cache_latents(tiny_pipeline(seed=1), images, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    del first
    file.write_bytes(file.read_bytes()[:200])
    again = cache_latents(pipe, images, tmp_path)
    torch.testing.assert_close(again.mean, cache_latents(pipe, images, None).mean, rtol=0, atol=0)
    assert content_key("ab", "c") != content_key("a", "bc")


def test_latents_are_drawn_anew_at_each_step():
    latents = cache_latents(tiny_pipeline(), tiny_set().images, None)
    one, two = (latents.sample(np.array([0, 1]), torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert not torch.equal(one, two)
    many = torch.stack([latents.sample(np.array([0]), torch.Generator().manual_seed(s)) for s in range(400)])
    torch.testing.assert_close(many.mean(dim=0), latents.mean[:1], atol=0.25 * float(latents.std.max()), rtol=0)


@pytest.mark.parametrize("name", ALL)
def test_only_what_trains_moves(name, tmp_path):
    strategy, pipe = ALL[name], tiny_pipeline()
    groups = prepare(reference := tiny_pipeline(), strategy)
    before = weights(reference)
    nets = components(reference).items()
    trainable = {f"{part}.{key}" for part, net in nets for key, p in net.named_parameters() if p.requires_grad}
    result = finetune(pipe, strategy, tiny_set(), replace(CONFIG, noise_offset=0.3), tmp_path, prior=PRIOR)
    after = weights(pipe)
    assert after.keys() == before.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed <= trainable and len(changed) > 0.9 * len(trainable)
    assert result.cost["trainable_parameters"] == sum(p.numel() for group in groups.values() for p in group)
    if strategy.token:
        for tokenizer, encoder in (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2")):
            plain = getattr(tiny_pipeline(), encoder).get_input_embeddings().weight
            assert torch.equal(embedding_table(getattr(pipe, encoder))[:-1], plain)
            moved = token_row(getattr(pipe, encoder), getattr(pipe, tokenizer))
            assert not torch.equal(moved, token_row(getattr(reference, encoder), getattr(reference, tokenizer)))


@pytest.mark.parametrize("name", ["unet-full", "unet-lora-r4", "hybrid-r4"])
def test_resuming_ends_with_the_same_bits(name, monkeypatch, tmp_path):
    config = replace(CONFIG, steps=4, checkpoint_every=2, ema_decay=0.9, warmup_steps=2)
    strategy, data = find_strategy(name), tiny_set()
    whole = finetune(first := tiny_pipeline(), strategy, data, config, tmp_path / "whole", val=tiny_set(2, seed=1))
    original = module.step_draw

    def killed(count, shape, timesteps, config, step):
        if step == 3:
            raise KeyboardInterrupt
        return original(count, shape, timesteps, config, step)

    monkeypatch.setattr(module, "step_draw", killed)
    with pytest.raises(KeyboardInterrupt):
        finetune(tiny_pipeline(), strategy, data, config, tmp_path / "cut", val=tiny_set(2, seed=1))
    monkeypatch.setattr(module, "step_draw", original)
    torch.manual_seed(99)
    resumed = finetune(second := tiny_pipeline(), strategy, data, config, tmp_path / "cut", val=tiny_set(2, seed=1))
    expected, found = weights(first), weights(second)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert list(resumed.history["loss"].dropna()) == list(whole.history["loss"].dropna())
    assert list(resumed.history["held_out"].dropna()) == list(whole.history["held_out"].dropna())


def test_training_lowers_the_held_out_loss_of_its_own_images(tmp_path):
    data = tiny_set(4)
    config = replace(CONFIG, steps=25, lr_unet_full=5e-3, caption_dropout=0.0)
    result = finetune(tiny_pipeline(), find_strategy("unet-full"), data, config, tmp_path, val=data)
    held_out = result.history["held_out"].dropna().to_list()
    assert held_out[-1] < 0.9 * held_out[0]


def test_held_out_loss_repeats_and_ignores_batches():
    data, pipe = tiny_set(6), tiny_pipeline()
    latents = cache_latents(pipe, data.images, None)
    torch.manual_seed(3)
    one = held_out_loss(pipe, latents, list(data.captions), CONFIG)
    assert held_out_loss(pipe, latents, list(data.captions), CONFIG) == one
    assert held_out_loss(pipe, latents, list(data.captions), replace(CONFIG, batch_size=5)) == pytest.approx(one, rel=1e-4)


PICTURES = PriorSet(np.random.default_rng(4).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8), ("an aerial image of a city",) * 5)


def test_prior_pictures_take_their_share_of_each_batch_and_nothing_else_changes(monkeypatch, tmp_path):
    seen: dict[str, list] = {"hybrid": [], "hybrid+prior": []}
    original = module.noise_prediction_loss

    def spy(unet, scheduler, latents, hidden, pooled, time_ids, noise, timesteps, gamma):
        seen[name].append([latents.clone(), noise.clone(), timesteps.clone()])
        return original(unet, scheduler, latents, hidden, pooled, time_ids, noise, timesteps, gamma)

    monkeypatch.setattr(module, "noise_prediction_loss", spy)
    for name in seen:
        strategy = replace(find_strategy(name), rank=4)
        result = finetune(tiny_pipeline(), strategy, tiny_set(), replace(CONFIG, steps=2), tmp_path / name, prior=PICTURES)
        assert ("prior" in result.record) == (name == "hybrid+prior")
    for plain, kept in zip(*seen.values(), strict=True):
        assert torch.equal(plain[1], kept[1]) and torch.equal(plain[2], kept[2])
        differs = [not torch.equal(a, b) for a, b in zip(plain[0], kept[0])]
        assert differs == [True, False, False, False]  # a quarter of four
    draws = [step_draw(12, (4, 4, 4), 1000, CONFIG, step).with_prior(12, 5, 0.5, 0, step).ids for step in range(50)]
    first, rest = np.stack(draws)[:, :2], np.stack(draws)[:, 2:]
    assert set(first.ravel()) == {12, 13, 14, 15, 16} and rest.max() < 12


def test_prior_pictures_are_asked_for_and_checked():
    with pytest.raises(InputError, match="draw them first"):
        finetune(tiny_pipeline(), replace(find_strategy("hybrid+prior"), rank=4), tiny_set(), CONFIG, None)
    with pytest.raises(InputError, match="one caption each"):
        PriorSet(PICTURES.images, ("a city",))


def test_noise_offset_is_constant_over_a_channel_and_of_its_size():
    plain, shifted = (step_draw(12, (4, 8, 8), 1000, replace(CONFIG, noise_offset=value), 0) for value in (0.0, 0.1))
    offset = shifted.noise - plain.noise
    torch.testing.assert_close(offset, offset[..., :1, :1].expand_as(offset), atol=1e-6, rtol=0)
    many = torch.stack(
        [
            step_draw(12, (4, 1, 1), 1000, replace(CONFIG, noise_offset=0.1), step).noise
            - step_draw(12, (4, 1, 1), 1000, CONFIG, step).noise
            for step in range(200)
        ]
    )
    assert float(many.std()) == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("name", ["unet-full", "hybrid-r4"])
def test_micro_batches_train_as_the_whole_batch(name, tmp_path):
    """SGD would agree to rounding; AdamW divides by the gradient's size, so its first steps amplify rounding a little."""
    strategy, data = find_strategy(name), tiny_set()
    whole = finetune(first := tiny_pipeline(), strategy, data, CONFIG, tmp_path / "whole")
    parts = finetune(second := tiny_pipeline(), strategy, data, replace(CONFIG, accumulate=2), tmp_path / "parts")
    np.testing.assert_allclose(parts.history["loss"], whole.history["loss"], rtol=1e-4)
    expected, found = weights(first), weights(second)
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", ["unet-full", "hybrid-r4"])
def test_checkpointed_activations_train_alike(name, monkeypatch, tmp_path):
    from torch.utils import checkpoint

    calls, original = [], checkpoint.checkpoint
    monkeypatch.setattr(checkpoint, "checkpoint", lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs))
    strategy, data = find_strategy(name), tiny_set()
    stored = finetune(first := tiny_pipeline(), strategy, data, CONFIG, tmp_path / "stored")
    assert not calls
    config = replace(CONFIG, gradient_checkpointing=True)
    computed = finetune(second := tiny_pipeline(), strategy, data, config, tmp_path / "computed")
    assert calls
    # The same sums in another order: gradients of what several blocks share arrive one after the other.
    np.testing.assert_allclose(computed.history["loss"], stored.history["loss"], rtol=1e-4)
    expected, found = weights(first), weights(second)
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=2e-4)


def test_captions_hold_the_token_where_it_is_learned():
    data = tiny_set(2)
    assert all(caption.count(TOKEN) == 1 for several in captions_of(data, token=True) for caption in several)
    assert [len(several) for several in captions_of(data, token=False)] == [3, 3]


def test_cost_names_the_caches_that_applied(tmp_path):
    def cost(name, **changes):
        config = replace(CONFIG, steps=1, **changes)
        return finetune(tiny_pipeline(), find_strategy(name), tiny_set(), config, tmp_path / f"{name}{changes}").cost

    found = cost("unet-lora-r4")
    assert found["caches"] == ["latents", "text"] and found["checkpoint_bytes"] == 4 * found["trainable_parameters"]
    assert found["seconds"] > 0 and found["images_per_second"] > 0 and found["peak_memory_mb"] > 50
    assert cost("te-lora-r4")["caches"] == ["latents"]
    assert cost("unet-lora-r4", text_cache_gb=0.0)["caches"] == ["latents"]


def test_refusals(tmp_path):
    data, strategy = tiny_set(), find_strategy("unet-lora-r4")
    with pytest.raises(InputError, match="zero-shot trains nothing"):
        finetune(tiny_pipeline(), find_strategy("zero-shot"), data, CONFIG, tmp_path)
    with pytest.raises(InputError, match="empty training set"):
        finetune(tiny_pipeline(), strategy, data.subset([]), CONFIG, tmp_path)
    finetune(tiny_pipeline(), strategy, data, CONFIG, tmp_path)
    with pytest.raises(InputError, match="belongs to another run .*unet-lora-r4.*unet-full"):
        finetune(tiny_pipeline(), find_strategy("unet-full"), data, CONFIG, tmp_path)
    with pytest.raises(InputError, match="belongs to another run"):
        finetune(tiny_pipeline(seed=1), strategy, data, CONFIG, tmp_path)
    for values in ({"steps": 0}, {"lr_token": -1.0}, {"caption_dropout": 1.0}, {"batch_size": 0}):
        with pytest.raises(InputError, match=next(iter(values))):
            replace(CONFIG, **values)


def test_a_loss_that_is_not_finite_names_its_step(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "noise_prediction_loss", lambda unet, *_: unet.conv_in.weight.sum() * float("nan"))
    with pytest.raises(InputError, match="loss is nan at step 0"):
        finetune(tiny_pipeline(), find_strategy("unet-full"), tiny_set(), CONFIG, tmp_path)


def test_live_text_keeps_its_gradient():
    pipe = tiny_pipeline()
    prepare(pipe, find_strategy("token"))
    assert encode_prompts(pipe, ["a <SAR> image"])[0].requires_grad
