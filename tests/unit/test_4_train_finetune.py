"""Fine-tuning: the loss of diffusers, fair between strategies, and nothing moves that should not."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from tiny import all_weights, tiny_pipeline, tiny_set
from torch import nn

import sarnb.train.finetune as module
from sarnb.errors import InputError
from sarnb.model.foundation import ENCODERS, build_scheduler, components, encode_prompts, normalise_latents, time_ids
from sarnb.model.strategy import STRATEGIES, find_strategy, prepare
from sarnb.model.token import TOKEN, embedding_table, token_row
from sarnb.train.cache import cache_latents, cache_text
from sarnb.train.diffusion import (
    HELD_OUT,
    add_noise,
    diffusion_loss,
    drop_captions,
    held_out_errors,
    high_noise_weight,
    min_snr_weight,
    wording_errors,
)
from sarnb.train.finetune import FinetuneConfig, PriorSet, captions_of, finetune, held_out_loss, remarks, step_draw, training_loss
from sarnb.train.loop import WHOLE, step_generator

SCHEDULER = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


class Constant(nn.Module):
    """Predicts the same tensor whatever it is shown."""

    def __init__(self, answer: torch.Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, sample, timesteps, encoder_hidden_states, added_cond_kwargs):
        return SimpleNamespace(sample=self.answer)


def test_schedule_is_that_of_sdxl():
    torch.testing.assert_close(build_scheduler().alphas_cumprod, SCHEDULER.alphas_cumprod)


def test_forward_process_equals_diffusers():
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 5, 4, 8, 8, generator=generator)
    steps = torch.tensor([0, 10, 250, 600, 999])
    torch.testing.assert_close(add_noise(latents, noise, steps, SCHEDULER.alphas_cumprod), SCHEDULER.add_noise(latents, noise, steps))


def test_min_snr_weight_equals_the_formula_on_diffusers_snr():
    steps = torch.arange(0, 1000, 37)
    snr = compute_snr(SCHEDULER, steps)
    expected = torch.minimum(snr, torch.full_like(snr, 5.0)) / snr
    torch.testing.assert_close(min_snr_weight(SCHEDULER.alphas_cumprod, steps, 5.0), expected)
    assert torch.equal(min_snr_weight(SCHEDULER.alphas_cumprod, steps, 0.0), torch.ones(len(steps)))


def test_high_noise_weighs_as_noise_over_signal_and_never_less_than_one():
    steps = torch.arange(0, 1000, 37)
    amplitude_ratio = compute_snr(SCHEDULER, steps).sqrt()  # signal over noise
    expected = np.clip(1 / amplitude_ratio.double().numpy(), 1, 6)
    weights = high_noise_weight(SCHEDULER.alphas_cumprod, steps, 6.0)
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-4)
    assert weights[0] == 1 and weights[-1] == 6 and (weights.diff() >= 0).all()
    assert torch.equal(high_noise_weight(SCHEDULER.alphas_cumprod, steps, 1.0), torch.ones(len(steps)))
    noise = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    rest = (SCHEDULER, noise, torch.zeros(8, 3, 2), torch.zeros(8, 2), torch.zeros(8, 6), noise, torch.full((8,), 999))
    losses = [diffusion_loss(Constant(torch.zeros_like(noise)), *rest, min_snr_gamma=5.0, high_noise=most) for most in (1.0, 6.0)]
    torch.testing.assert_close(losses[1], 6 * losses[0])


def test_only_dropped_captions_are_replaced():
    hidden, pooled = torch.ones(3, 2, 4), torch.ones(3, 5)
    dropped = torch.tensor([False, True, False])
    new_hidden, new_pooled = drop_captions(hidden, pooled, torch.zeros(3, 2, 4), torch.zeros(3, 5), dropped)
    assert new_hidden.sum(dim=(1, 2)).tolist() == [8, 0, 8]
    assert new_pooled.sum(dim=1).tolist() == [5, 0, 5]


# Fine-tuning: fair between strategies, and nothing moves that should not.


CONFIG = FinetuneConfig(steps=3, batch_size=4, precision="fp32", held_out_images=4, held_out_timesteps=2, log_every=1)
# Every strategy that trains, with a rank that fits the miniature; ranks alone make no strategy of their own here.
ALL = {name: replace(strategy, rank=4, alpha=4) for name, strategy in STRATEGIES.items() if strategy.trains and "-r" not in name}
PRIOR = PriorSet(np.full((2, 16, 16, 3), 90, np.uint8), ("an aerial photograph of a city",) * 2)


@pytest.mark.slow
def test_all_strategies_see_the_same_images_noise_and_timesteps(monkeypatch, tmp_path):
    seen: dict[str, list] = {}
    original = module.diffusion_loss

    def spy(unet, scheduler, latents, hidden, pooled, time_ids, noise, timesteps, *weighting):
        unconditional = hidden.detach().abs().sum(dim=(1, 2)) == 0
        seen[name].append([latents.clone(), noise.clone(), timesteps.clone(), unconditional])
        return original(unet, scheduler, latents, hidden, pooled, time_ids, noise, timesteps, *weighting)

    monkeypatch.setattr(module, "diffusion_loss", spy)
    config = replace(CONFIG, steps=3, caption_dropout=0.5, noise_offset=0.3)
    assert len(ALL) >= 12 and round(ALL["hybrid+prior"].prior * config.batch_size) == 1
    for name, strategy in ALL.items():
        seen[name] = []
        result = finetune(tiny_pipeline(), strategy, tiny_set(), config, tmp_path / name, cache=tmp_path / "cache", prior=PRIOR)
        assert ("prior" in result.record) == (strategy.prior > 0)
    first = seen["scratch"]
    dropped = torch.cat([step[3] for step in first])
    assert dropped.any() and not dropped.all()
    for name, strategy in ALL.items():
        places = round(strategy.prior * config.batch_size)  # the prior's pictures come first, in place of as many images
        assert len(seen[name]) == config.steps
        for package, theirs in zip(seen[name], first, strict=True):
            assert torch.equal(package[0][places:], theirs[0][places:]), name
            assert not places or not torch.equal(package[0][:places], theirs[0][:places])
            assert all(torch.equal(a, b) for a, b in zip(package[1:], theirs[1:])), name


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


def test_the_loss_weights_high_noise_by_one_over_the_root_of_the_snr_up_to_its_bound():
    """A UNet that predicts zero has the noise itself as its error, so the loss is the weighted mean of its squares."""
    pipe, data, config = tiny_pipeline(), tiny_set(), replace(CONFIG, batch_size=12, caption_dropout=0.0)
    for part in pipe.unet.conv_out.parameters():
        torch.nn.init.zeros_(part)
    captions, latents = captions_of(data, token=False), cache_latents(pipe, data.images, None)
    draw = step_draw(12, latents.shape, 1000, config, 0)
    kept = pipe.scheduler.alphas_cumprod[draw.timesteps].double()
    snr, square = (kept / (1 - kept)).numpy(), draw.noise.double().pow(2).mean(dim=(1, 2, 3)).numpy()
    assert (snr < 1 / 9).any() and ((snr > 1 / 9) & (snr < 1)).any() and (snr > 5).any()  # bounded, rising, and min-SNR
    for most in (1.0, 3.0):
        loss = training_loss(pipe, latents, captions, None, replace(config, high_noise=most))({}, 0, WHOLE)
        weight = np.minimum(5 / snr, 1) * np.clip(snr**-0.5, 1, most)
        assert float(loss) == pytest.approx((weight * square).mean(), rel=1e-5)


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


@pytest.mark.parametrize("name", ALL)
@pytest.mark.slow
def test_only_what_trains_moves(name, tmp_path):
    strategy, pipe = ALL[name], tiny_pipeline()
    groups = prepare(reference := tiny_pipeline(), strategy)
    before = all_weights(reference)
    nets = components(reference).items()
    trainable = {f"{part}.{key}" for part, net in nets for key, p in net.named_parameters() if p.requires_grad}
    result = finetune(pipe, strategy, tiny_set(), replace(CONFIG, noise_offset=0.3), tmp_path, prior=PRIOR)
    after = all_weights(pipe)
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


def test_a_learned_word_does_not_leave_the_shell_of_the_words(tmp_path):
    pipe = tiny_pipeline()
    finetune(pipe, find_strategy("token"), tiny_set(), replace(CONFIG, steps=8, lr_token=0.5), tmp_path)
    for words, encoder in ENCODERS:
        table, known = embedding_table(getattr(pipe, encoder)), getattr(pipe, words).get_vocab()
        lengths = sorted(
            table[index].norm().item() for word, index in known.items() if word.endswith("</w>") and word[:-4].isalpha() and len(word) > 5
        )
        start = table[known["image</w>"]].norm().item()
        row = token_row(getattr(pipe, encoder), getattr(pipe, words))
        most = max(start, lengths[-1])
        assert row.norm().item() == pytest.approx(most, rel=1e-4)  # one step of this rate is several times as long


def test_training_lowers_the_held_out_loss_of_its_own_images(tmp_path):
    data = tiny_set(4)
    config = replace(CONFIG, steps=25, lr_unet_full=5e-3, caption_dropout=0.0)
    result = finetune(tiny_pipeline(), find_strategy("unet-full"), data, config, tmp_path, val=data)
    held_out = result.history["held_out"].dropna().to_list()
    assert held_out[-1] < 0.9 * held_out[0]


def test_prior_pictures_are_requested_and_checked():
    with pytest.raises(InputError, match="draw them first"):
        finetune(tiny_pipeline(), replace(find_strategy("hybrid+prior"), rank=4), tiny_set(), CONFIG, None)
    with pytest.raises(InputError, match="one caption each"):
        PriorSet(PRIOR.images, ("a city",))


def test_noise_offset_is_constant_over_a_channel_and_of_its_size():
    plain, shifted = (step_draw(12, (4, 8, 8), 1000, replace(CONFIG, noise_offset=value), 0) for value in (0.0, 0.1))
    offset = shifted.noise - plain.noise
    torch.testing.assert_close(offset, offset[..., :1, :1].expand_as(offset), atol=1e-6, rtol=0)
    offset_config = replace(CONFIG, noise_offset=0.1)
    noises = [[step_draw(12, (4, 1, 1), 1000, config, step).noise for step in range(200)] for config in (offset_config, CONFIG)]
    many = torch.stack(noises[0]) - torch.stack(noises[1])
    assert float(many.std()) == pytest.approx(0.1, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet-full", "hybrid-r4"])
def test_micro_batches_and_checkpointed_activations_train_as_the_whole_batch(name, monkeypatch, tmp_path):
    """The same sums in another order; AdamW divides by the gradient's size, so its first steps amplify rounding a little."""
    calls, original = [], torch.utils.checkpoint.checkpoint
    monkeypatch.setattr(torch.utils.checkpoint, "checkpoint", lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs))
    strategy, data = find_strategy(name), tiny_set()
    whole = finetune(first := tiny_pipeline(), strategy, data, CONFIG, tmp_path / "whole")
    assert not calls
    for changes in ({"accumulate": 2}, {"gradient_checkpointing": True}):
        other = finetune(second := tiny_pipeline(), strategy, data, replace(CONFIG, **changes), tmp_path / next(iter(changes)))
        assert bool(calls) == ("gradient_checkpointing" in changes)
        np.testing.assert_allclose(other.history["loss"], whole.history["loss"], rtol=1e-4)
        torch.testing.assert_close(all_weights(second), all_weights(first), rtol=0, atol=2e-4)


@pytest.mark.slow
def test_a_compiled_unet_trains_and_is_saved_as_it_is(monkeypatch, tmp_path):
    """By Dynamo without a compiler behind it, as there is no card: what is traced, called and written is the same."""
    monkeypatch.setattr(module, "compile_on_card", lambda network: network.compile(backend="eager"))
    config, strategy = replace(CONFIG, steps=2, gradient_checkpointing=True), find_strategy("unet-lora-r4")
    finetune(first := tiny_pipeline(), strategy, tiny_set(), config, tmp_path / "eager")
    finetune(second := tiny_pipeline(), strategy, tiny_set(), replace(config, compiled=True), tmp_path / "compiled")
    assert second.unet._compiled_call_impl is not None and first.unet._compiled_call_impl is None
    torch.testing.assert_close(all_weights(second), all_weights(first), rtol=0, atol=1e-5)


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


# Errors under several wordings: against the loss written out, and paired by scene.


@pytest.fixture(scope="module")
def requested():
    pipe, data = tiny_pipeline(), tiny_set(3)
    return pipe, cache_latents(pipe, data.images, None), list(data.captions)


def test_the_error_is_the_formula_written_out(requested):
    pipe, latents, captions = requested
    found = held_out_errors(pipe, latents, captions, [100, 700], batch_size=2, precision="fp32")
    clean = normalise_latents(pipe.vae, latents.mean)[2:]
    noise = torch.randn(clean.shape[1:], generator=step_generator(2, 700, HELD_OUT))[None]
    alpha = pipe.scheduler.alphas_cumprod[700]
    hidden, pooled = encode_prompts(pipe, captions[2:])
    conditions = {"text_embeds": pooled, "time_ids": time_ids(pipe, 1)}
    with torch.no_grad():
        predicted = pipe.unet(alpha.sqrt() * clean + (1 - alpha).sqrt() * noise, 700, hidden, added_cond_kwargs=conditions).sample
    assert found.shape == (3, 2) and found[2, 1] == pytest.approx(float((predicted - noise).pow(2).mean()), rel=1e-5)


def test_the_held_out_loss_is_the_mean_of_the_errors(requested):
    pipe, latents, captions = requested
    config = FinetuneConfig(steps=1, batch_size=2, held_out_timesteps=4, precision="fp32")
    errors = held_out_errors(pipe, latents, captions, [125, 375, 625, 875], 3, "fp32")
    torch.manual_seed(3)  # the global generator has no say, nor has the size of the batch
    assert held_out_loss(pipe, latents, captions, config) == pytest.approx(errors.mean(), rel=1e-5)
    assert held_out_loss(pipe, latents, captions, replace(config, batch_size=3)) == pytest.approx(errors.mean(), rel=1e-5)


def test_rows_are_paired_by_scene_and_differ_by_the_wording(requested):
    pipe, latents, captions = requested
    wordings = {"radar": captions, "optical": ["an image of a city"] * 3}
    table = wording_errors(pipe, {"radar": latents, "optical": latents}, wordings, [300], 2, "fp32")
    errors = table.set_index(["images", "wording", "scene"])["error"]
    np.testing.assert_array_equal(errors["radar"], errors["optical"])  # the same latents, the same noise
    assert (errors["radar", "radar"] != errors["radar", "optical"]).all() and len(table) == 12
    with pytest.raises(InputError, match="3 radar images but 1 captions"):
        wording_errors(pipe, {"radar": latents}, {"radar": ["x"]}, [300])


# What a person gave and training would not use, or use otherwise, is said.


@pytest.mark.parametrize("batch, shown", [(1, [0, 0, 0, 1]), (2, [0, 1, 0, 1]), (3, [0, 1, 1, 1]), (4, [1, 1, 1, 1]), (16, [4, 4, 4, 4])])
def test_prior_pictures_are_shown_in_their_share_whatever_the_batch(batch, shown):
    config = replace(CONFIG, batch_size=batch)
    draws = [step_draw(12, (1,), 10, config, step).with_prior(12, 5, 0.25, 0, step).ids for step in range(400)]
    assert [int((ids >= 12).sum()) for ids in draws[:4]] == shown
    assert np.mean(np.concatenate(draws) >= 12) == 0.25


def test_images_without_a_text_are_refused_by_name(tmp_path):
    data = tiny_set(3)
    rows = [{"file_name": row["file_name"], "caption": "a city"} for row in data.rows]
    bare = replace(data, rows=(data.rows[0], *rows[1:]))
    with pytest.raises(InputError, match="2 of 3 images have no text, such as 000001.png .its columns: caption"):
        finetune(tiny_pipeline(), find_strategy("token"), bare, CONFIG, tmp_path)
    for number in (" ", 5, None):
        blank = replace(data, rows=({**data.rows[0], "captions": ["a city", number]}, *data.rows[1:]))
        with pytest.raises(InputError, match="1 of 3 images have no text"):
            finetune(tiny_pipeline(), find_strategy("token"), data, CONFIG, tmp_path, val=blank)


def test_captions_that_are_cut_are_counted_and_those_that_become_equal(tmp_path):
    words = " ".join(["city"] * 14)  # with start and end as many tokens as the tiny encoders read
    data = tiny_set(4)
    captions = ("a city", f"{words}", f"{words} forest", f"{words} radar image")
    long = replace(data, rows=tuple({**row, "text": text, "captions": [text]} for row, text in zip(data.rows, captions)))
    cost = finetune(tiny_pipeline(), find_strategy("unet-lora-r4"), long, replace(CONFIG, steps=1), tmp_path).cost
    assert cost["remarks"] == [
        f"2 of 4 texts are longer than the 16 tokens that are read, and were cut, such as {captions[2][:60]!r}; 2 of them then read "
        "like another one."
    ]
    assert remarks(tiny_pipeline(), find_strategy("unet-lora-r4"), captions_of(tiny_set(4), False)) == []


def test_a_word_that_the_strategy_does_not_learn_is_remarked(tmp_path):
    data = tiny_set(4)
    reported = replace(data, rows=tuple({**row, "captions": ["a <SAR> image"]} for row in data.rows))
    pipe = tiny_pipeline()
    (remark,) = remarks(pipe, find_strategy("unet-lora"), captions_of(reported, False))
    assert remark.startswith("4 captions hold the word <SAR>, which unet-lora does not learn")
    assert remarks(pipe, find_strategy("token"), captions_of(reported, True)) == []


def test_partners_share_all_that_is_random_but_the_posterior():
    partners = np.array([1, 0, 3, 2, 5, 4])
    draw = step_draw(6, (4, 4, 4), 1000, CONFIG, 3)
    paired = draw.with_sides(partners, 1.0, CONFIG.seed, 3)
    for place in range(0, len(draw.ids) - 1, 2):
        assert paired.ids[place] == draw.ids[place] and paired.ids[place + 1] == partners[draw.ids[place]]
        for name in ("noise", "timesteps", "captions", "dropped"):
            first, second = getattr(paired, name)[place : place + 2]
            assert torch.equal(first, second) and torch.equal(first, getattr(draw, name)[place])
    same = draw.with_sides(np.full(6, -1), 1.0, CONFIG.seed, 3)
    assert np.array_equal(same.ids, draw.ids) and torch.equal(same.noise, draw.noise)


def test_a_training_shows_both_sides_under_one_noise_and_timestep(monkeypatch, tmp_path):
    data, seen, loss = tiny_set(12), [], module.diffusion_loss
    rows = tuple({**row, "label": "city", "seed": n // 2, "look": ("left", "right")[n % 2]} for n, row in enumerate(data.rows))

    def spy(unet, scheduler, latents, hidden, pooled, ids, noise, steps, *weighting):
        seen.append((noise.clone(), steps.clone()))
        return loss(unet, scheduler, latents, hidden, pooled, ids, noise, steps, *weighting)

    monkeypatch.setattr(module, "diffusion_loss", spy)
    config = replace(CONFIG, steps=2, side_pairs=1.0)
    done = finetune(tiny_pipeline(), find_strategy("token"), replace(data, rows=rows), config, tmp_path)
    assert done.record["paired"] == 12 and len(seen) == 2
    for noise, steps in seen:
        assert torch.equal(noise[0], noise[1]) and torch.equal(noise[2], noise[3]) and not torch.equal(noise[1], noise[2])
        assert steps[0] == steps[1] and steps[2] == steps[3]
