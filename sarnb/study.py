"""One notebook's run: its parameters read once, the settings that follow from them, and the record of what it made."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline
from matplotlib.figure import Figure
from PIL import Image

import sarnb
from sarnb.data.dataset import Column, ImageSet, columns_of, load_card, load_set, pick, some_per_label
from sarnb.data.files import content_key, kept, write_png
from sarnb.data.imagefolder import default_caption
from sarnb.errors import InputError
from sarnb.generate.sample import evaluation_text, generate, keep_decoded, redraw, to_grey
from sarnb.generate.strategies import (
    EDITION,
    DrawnSamples,
    SamplingConfig,
    StrategyResult,
    cost_table,
    find_runs,
    timing_table,
    train_and_sample,
    usable_runs,
)
from sarnb.metrics.describe import measure
from sarnb.metrics.evaluation import FROZEN_DECODER, TUNED_DECODER, evaluate, look_reader
from sarnb.metrics.geometry import side_features
from sarnb.metrics.report import headline_anchors, headline_measures
from sarnb.metrics.semantic import Judge, embed_images, embed_texts
from sarnb.model.export import RECORD, foundation_fingerprint, foundation_vae, load_trained, load_vae
from sarnb.model.foundation import decode_latents, encode_posterior, fingerprint, load_foundation, normalise_latents
from sarnb.model.judge import load_judge
from sarnb.model.strategy import Strategy, find_strategy, seeds_of
from sarnb.model.token import TOKEN, with_token
from sarnb.notebook import BATCH, declared_parameters
from sarnb.plots import set_theme
from sarnb.plots.evaluation import drawing_sheet
from sarnb.results import Record, findings
from sarnb.settings import notebooks_folder
from sarnb.train.control import ControlConfig
from sarnb.train.finetune import FinetuneConfig
from sarnb.train.training import RateChoice, differing_settings, tune_rates
from sarnb.train.vae import VaeConfig

SIDED = 24  # images of a class on which the reader of the side is calibrated
GRADED = 24  # pictures by which a trial of a learning rate is judged
LENGTHS = ("clip_accuracy", "look_accuracy", "amplitude_kl", "clip_recall")  # measures that are shown over the length of training
LOCAL = ("DATA", "REAL_DATA")  # folders of the user's machine: the record keeps their names only


def open_study(name: str, variables: Mapping[str, Any]) -> Study:
    """Start a notebook: theme, seed, version line, record.

    Parameters
    ----------
    name : the notebook's name without its ending, such as ``"05_unet_full"``.
    variables : ``globals()`` of the notebook; the names that its parameters cell declares are read from it.

    Raises
    ------
    InputError
        The results folder belongs to another profile or cannot be written to.
    """
    declared = declared_parameters(notebooks_folder() / f"{name}.ipynb")
    parameters = {key: variables[key] for key in declared}
    set_theme()
    torch.manual_seed(parameters["SEED"])
    study = Study(name, parameters)
    versions = ", ".join(f"{module} {sys.modules[module].__version__}" for module in ("torch", "diffusers", "transformers", "peft"))
    print(f"sarnb {sarnb.__version__}, {versions}, Python {sys.version.split()[0]}, seed {study.seed}")
    return study


class Study:
    """What a notebook works with; see ``open_study``.

    Attributes
    ----------
    folder, data, models, samples : the results folder and what lies below it, absolute paths.
    values : the parameters by their lower-case names, as a profile has them.
    record : figures, tables and artefacts; ``figure``, ``table`` and ``artefact`` pass on to it.
    cost_table, timing_table : what runs cost, and what they took of this machine; see ``sarnb.generate.strategies``.
    """

    cost_table, timing_table = staticmethod(cost_table), staticmethod(timing_table)

    def __init__(self, name: str, parameters: Mapping[str, Any]) -> None:
        self.values = SimpleNamespace(**{key.lower(): value for key, value in parameters.items()})
        self.seed = self.values.seed
        kept = {key: Path(value).name if key in LOCAL else value for key, value in parameters.items()}
        kept = {key: value for key, value in kept.items() if key not in ("PROFILE", "RESULTS", "SEED")}
        self.record = Record(name, self.values.results, self.values.profile, self.seed, kept)
        self.table, self.artefact = self.record.table, self.record.artefact
        self.folder = self.record.folder
        self.data, self.models, self.samples = (self.folder / part for part in ("data", "models", "samples"))

    @cached_property
    def finetune(self) -> FinetuneConfig:
        """How strategies are trained: the parameters that are fields of ``FinetuneConfig``, its defaults for the others.

        The held-out loss is measured at five points. ``train_and_sample`` sets each run's seed. Where a notebook declares
        no ``TRAIN_STEPS``, as those that train no strategy, ``steps`` is 1.
        """
        values = SimpleNamespace(**{"train_steps": 1} | vars(self.values))
        config = FinetuneConfig.of(values, seed=0)
        return replace(config, validate_every=config.steps // 5)

    @cached_property
    def vae(self) -> VaeConfig:
        """How autoencoders are trained: the parameters named ``VAE_...``, and those that are fields of ``VaeConfig``."""
        return VaeConfig.of(self.values)

    @cached_property
    def control(self) -> ControlConfig:
        """How control networks are trained: the parameters named ``CONTROL_...``, and those that are fields of ``FinetuneConfig``."""
        return ControlConfig.of(self.values)

    @cached_property
    def sampling(self) -> SamplingConfig:
        """How evaluation images are drawn."""
        values = self.values
        return SamplingConfig(values.generate_per_class, values.sampling_steps, values.guidance_scale, sensor=values.sensor)

    @cached_property
    def card(self) -> dict[str, Any]:
        """The data set's card."""
        return load_card(self.data)

    def images(self, split: str) -> ImageSet:
        """A split of the data set: "train", "val", "test" or "judge"."""
        return load_set(self.data / split)

    def choose_rates(self, *names: str) -> dict[str, RateChoice]:
        """For each strategy the configuration whose rates did best, by the judge and on the validation split; see ``tune_rates``.

        Prints for each strategy where its choices stand in the grid of factors, and every setting in which the strategies differ.
        """
        values, choices = self.values, {}
        for name in names:
            choices[name] = tune_rates(
                find_strategy(name),
                values.foundation,
                self.data,
                self.models / "trials",
                self.finetune,
                values.lr_factors,
                values.tune_steps,
                self.grade if self.judge is not None else None,
            )
            print(f"{name}: {choices[name].remark}")
        if len(choices) > 1:
            print("All else is the same; they differ in:")
            print(differing_settings({name: choice.config for name, choice in choices.items()}).to_string(index=False))
        return choices

    @cached_property
    def judge(self) -> Judge | None:
        """The judge of notebook 03; None where there is none."""
        place = self.models / "sar_clip"
        return load_judge(place) if (place / RECORD).is_file() else None

    def grade(self, pipe: StableDiffusionXLPipeline, strategy: Strategy, classes: Sequence[str]) -> float:
        """Share of ``GRADED`` pictures, drawn of these classes in turn, that the judge finds nearest to their own class's prompt.

        Raises
        ------
        InputError
            There is no judge.
        """
        judge = self.judge
        if judge is None:
            raise InputError(f"{self.models / 'sar_clip'}: there is no judge to grade trials by; run notebook 03 first")
        values, names = self.values, [classes[i % len(classes)] for i in range(GRADED)]
        token = TOKEN if strategy.token else None
        texts = [evaluation_text(name, token, ("left", "right")[i // len(classes) % 2], values.sensor) for i, name in enumerate(names)]
        how = {"size": self.card["size"], "label": "trial"}
        drawn = generate(pipe, texts, range(GRADED), values.sampling_steps, values.guidance_scale, **how)
        rivals = sorted({label for label in self.images("test").labels if "+" not in label})
        prompts = embed_texts(judge, [default_caption(label) for label in rivals])
        guesses = (embed_images(judge, to_grey(drawn)) @ prompts.T).argmax(1)
        return float(np.mean([rivals[guess] == name for guess, name in zip(guesses, names)]))

    def train_and_sample(self, choices: Mapping[str, RateChoice | FinetuneConfig]) -> list[StrategyResult]:
        """Train every strategy with each of its seeds, draw its evaluation images, and record both as artefacts.

        Strategies among ``SEEDED_STRATEGIES`` have every seed of ``TRAIN_SEEDS``, others the first. What is finished already
        is read back.
        """
        values, runs = self.values, []
        for name, choice in choices.items():
            config = choice.config if isinstance(choice, RateChoice) else choice
            for seed in seeds_of(name, values.train_seeds, getattr(values, "seeded_strategies", ())):
                run = train_and_sample(
                    name,
                    values.foundation,
                    self.data,
                    self.models,
                    self.samples,
                    config,
                    self.sampling,
                    seed,
                    getattr(values, "sample_every", 0),
                )
                runs.append(run)
                if run.model is not None:
                    self.artefact(run.model, f"trained model: {name}, seed {seed}")
                self.artefact(run.samples.root, f"evaluation images: {name}, seed {seed}")
        return runs

    def over_lengths(self, name: str, choice: RateChoice, test: ImageSet) -> pd.DataFrame:
        """Measures over the length of training: a whole training for every one of ``CURVE_STEPS``, with the first seed.

        A schedule that ends at zero belongs to its length, so no point of the curve is a checkpoint on the way. The weight average
        covers the same share of each training. The length ``TRAIN_STEPS`` is the strategy's own run, which is read back.

        Returns
        -------
        table : columns of ``sarnb.metrics.evaluation.evaluate``, the rows of all classes together for seen and unseen ones, and
            ``steps``. Empty where ``CURVE_STEPS`` names one length, or there is no judge.
        """
        values, seed, tables = self.values, self.values.train_seeds[0], []
        if len(values.curve_steps) < 2 or self.judge is None:
            return pd.DataFrame()
        through = side_features(list(self.decoded(test).values())[-1].images)  # what the reader of the side learns from, too
        real = replace(measure(test, self.judge, "reference images"), decoded_side=through)
        for steps in values.curve_steps:
            config, within = choice.config, ""
            if steps != config.steps:
                average = max(0.0, 1 - (1 - config.ema_decay) * config.steps / steps) if config.ema_decay else 0.0
                warmup = min(config.warmup_steps, steps // 4)
                config = replace(config, steps=steps, warmup_steps=warmup, ema_decay=average, validate_every=0)
                within = f"curves/{steps}"
            places = self.data, self.models, self.samples
            run = train_and_sample(name, values.foundation, *places, config, self.sampling, seed, within=within)
            drawn = run.samples if self.tuned_decoder is None else self.by_tuned_decoder(str(Path(within) / name), seed, run.samples)
            table = evaluate(name, seed, real, drawn, self.judge, values.bootstrap_resamples // 4, self.seed)
            wanted = (table["class"] == "all") & table["split"].isin(("seen", "unseen")) & table["metric"].isin(LENGTHS)
            tables.append(table[wanted].assign(steps=steps))
        return pd.concat(tables, ignore_index=True)

    def sample_runs(self, test: ImageSet) -> list[DrawnSamples]:
        """What the strategies drew with this notebook's sampler settings for the classes of ``test``, by the models that are there.

        Prints what is left out, and why.

        Raises
        ------
        InputError
            Nothing is left; see ``find_runs``.
        """
        values = self.values
        wanted = {"per_class": values.generate_per_class, "steps": values.sampling_steps, "guidance_scale": values.guidance_scale}
        foundation, data = foundation_fingerprint(load_foundation(values.foundation)), self.images("train").digest
        trained = {"foundation": foundation, "data": data, "steps": values.train_steps}
        seeds = partial(seeds_of, seeds=values.train_seeds, repeated=values.seeded_strategies)
        found = find_runs(self.folder, test, wanted, trained, seeds)
        runs = usable_runs(found)
        names = dict.fromkeys(run.strategy for run in runs)
        print(f"{len(runs)} sets of samples by {len(names)} strategies: {', '.join(names)}")
        for run in found:
            if run.problem:
                print(f"left out: {run.strategy}, seed {run.seed}: {run.problem}")
        return runs

    @cached_property
    def tuned_decoder(self) -> AutoencoderKL | None:
        """The best adapted decoder of notebook 04, which reads the foundation's latents; None where there is none."""
        place = self.models / "vae-best"
        return load_vae(place) if (place / RECORD).is_file() else None

    def by_tuned_decoder(self, name: str, seed: int, samples: ImageSet) -> ImageSet:
        """What the tuned decoder makes of the latents of a strategy's samples; kept below ``samples/decoded-vae-best``."""
        return redraw(samples, self.tuned_decoder, self.samples / "decoded-vae-best" / name / f"seed{seed}")

    def decoded(self, test: ImageSet) -> dict[str, ImageSet]:
        """Anchor -> the reference images as each decoder makes them of their own latents: what a perfect latent would reach.

        The latents are the means of the foundation's encoder. Kept below ``samples/decoded-reference``.
        """
        vae, place, found = foundation_vae(self.values.foundation), self.samples / "decoded-reference", {}
        latents = cache(lambda: normalise_latents(vae, encode_posterior(vae, test.images)[0]))
        for name, decoder in ((FROZEN_DECODER, vae), (TUNED_DECODER, self.tuned_decoder)):
            if decoder is not None:
                key = {"images": test.digest, "encoder": fingerprint(vae), "decoder": fingerprint(decoder)}
                found[name] = keep_decoded(test, latents, decoder, place / name.split()[1], key)
        return found

    def look_reader(self) -> np.ndarray | None:
        """A reader of the side of illumination [108] for what is drawn; None where the images do not tell their sides.

        It is calibrated on images of the split "judge", which only the judge has learned from, as they are and through the headline's
        decoder: see ``sarnb.metrics.evaluation.look_reader``.
        """
        known = some_per_label(self.images("judge"), SIDED, self.seed)
        if not any(row.get("look") for row in known.rows):
            return None
        vae = foundation_vae(self.values.foundation)
        latents = normalise_latents(vae, encode_posterior(vae, known.images)[0])
        through = to_grey(decode_latents(self.tuned_decoder or vae, latents))
        return look_reader(replace(measure(known), decoded_side=side_features(through)))

    def headline_measures(self, test: ImageSet, samples: Mapping[tuple[str, int], ImageSet]) -> dict[str, pd.DataFrame]:
        """Decoder -> the measures ``HEADLINE`` of these samples with all anchors, the headline first.

        "tuned" comes first where notebook 04 made a decoder; without it "frozen" is the headline, and a line says so.

        Parameters
        ----------
        test : held-out reference images.
        samples : (strategy, training seed) -> what was drawn.
        """
        values, decoded, sets = self.values, self.decoded(test), {"frozen": dict(samples)}
        if self.tuned_decoder is None:
            print("There is no tuned decoder (models/vae-best, notebook 04): the headline is by the frozen one.")
        else:
            sets = {"tuned": {key: self.by_tuned_decoder(*key, images) for key, images in samples.items()}} | sets
        labels = next(iter(samples.values())).labels if samples else None
        anchored, real = self._anchors(test, labels, decoded), measure(test, None, "reference images")
        own = {name: headline_measures(real, runs, anchored, values.bootstrap_resamples, values.seed) for name, runs in sets.items()}
        return {name: table.assign(decoder=name) for name, table in own.items()}

    def _anchors(self, test: ImageSet, labels: Sequence[str] | None, decoded: Mapping[str, ImageSet]) -> pd.DataFrame:
        """The anchors of ``headline_measures``, computed once for the notebooks that show them; kept below ``samples/anchors``."""
        settings = self.values.bootstrap_resamples, self.seed
        code = [path.read_bytes() for path in sorted((Path(sarnb.__file__).parent / "metrics").glob("*.py"))]
        key = {
            "images": [test.digest, *(f"{name}: {images.digest}" for name, images in decoded.items())],
            "rows": content_key(json.dumps([test.rows, self.card, labels], default=str)),
            "settings": settings,
            "measures": content_key(*code),  # a table of other measures is none of these
        }
        place = self.samples / "anchors" / content_key(json.dumps(key))[:16]

        def make() -> dict[str, Any]:
            table = headline_anchors(test, labels, *settings, decoded)
            rows = table.astype(object).where(table.notna(), None).to_numpy().tolist()  # JSON has no NaN, and every digit
            return {"columns": table.dtypes.astype(str).to_dict(), "table": rows, "left_out": table.attrs["left_out"]}

        def load(note: dict[str, Any]) -> pd.DataFrame:
            table = pd.DataFrame(note["table"], columns=list(note["columns"])).astype(note["columns"])
            table.attrs["left_out"] = note["left_out"]
            return table

        return kept(place, key, make, load)

    def _before(self, texts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """What the untrained foundation draws, uint8 [N, H, W, 3]; drawn once for all notebooks, and kept below ``samples/before``.

        The last bits of a drawing may depend on the number of threads, which is part of the key.
        """
        values, foundation, side = self.values, load_foundation(self.values.foundation), self.card["size"]
        key = {
            "foundation": foundation_fingerprint(foundation),
            "requests": [list(texts), list(seeds), values.sampling_steps, values.guidance_scale, side, EDITION],
            "threads": torch.get_num_threads(),
        }
        place = self.samples / "before" / content_key(json.dumps(key))[:16]

        def make() -> dict[str, Any]:
            drawn = generate(foundation, texts, seeds, values.sampling_steps, values.guidance_scale, size=side)
            place.mkdir(parents=True, exist_ok=True)
            write_png(place / "drawn.png", np.concatenate(list(drawn)))
            return {}

        def load(_: dict[str, Any]) -> np.ndarray:
            with Image.open(place / "drawn.png") as strip:
                return np.stack(np.split(np.asarray(strip.convert("RGB")), len(texts)))

        return kept(place, key, make, load)

    def before_and_after(
        self, test: ImageSet, runs: Sequence[StrategyResult]
    ) -> tuple[dict[str, np.ndarray], tuple[Column, ...], ImageSet]:
        """Rows of a comparison: a reference image of each class, the untrained foundation's, and those of each strategy.

        The drawn images of a column start from one noise. The foundation, which does not know the learned word, reads
        "radar image" in its place. Of each strategy the first training seed is shown.

        Returns
        -------
        rows : name -> uint8 images [K, H, W] or [K, H, W, 3], one a column, as ``comparison_grid`` takes them.
        columns : the classes.
        requested : of the first strategy, the samples of these columns, with their prompts and seeds.
        """
        values, columns = self.values, columns_of(test, runs[0].samples)
        requested = runs[0].samples.subset(pick(runs[0].samples, columns))
        texts = [text.replace(f"{TOKEN} image", "radar image") for text in requested.column("text")]
        before = self._before(texts, requested.column("seed"))
        rows = {"reference": test.images[pick(test, columns)], "before:\nfoundation": before}
        for run in runs:
            if run.seed == values.train_seeds[0]:
                label = run.strategy.name.replace("+", "\n+", 1)
                rows[label] = run.samples.images[pick(run.samples, columns)]
        return rows, columns, requested

    def playground(self, judge: Judge, test: ImageSet, names: Sequence[str]) -> Figure:
        """Controls for a prompt, and what a strategy draws for it: image, fitted laws, the judge's opinion, nearest reference images.

        Where nobody can move a control, as in a run of all notebooks or without ipywidgets, the returned figure of the first choices
        is all. The first training seed and the headline's decoder are used; a model is loaded when it is first used.

        Parameters
        ----------
        judge, test : the judge, and held-out reference images.
        names : strategies whose models are there.
        """
        values, labels = self.values, list(dict.fromkeys(test.labels))
        prompts, features = embed_texts(judge, [default_caption(label) for label in labels]), embed_images(judge, test.images)

        @lru_cache(maxsize=2)
        def model(name: str) -> StableDiffusionXLPipeline:
            (seed, *_) = seeds_of(name, values.train_seeds, values.seeded_strategies)
            pipe = load_trained(values.foundation, self.models / name / f"seed{seed}", fuse=True)
            pipe.vae = self.tuned_decoder or pipe.vae
            return pipe

        def sheet(strategy: str, subject: str, side: str, incidence: int, seed: int, guidance: float) -> Figure:
            token = TOKEN if find_strategy(strategy).token else None
            words = subject if subject in labels else f"a radar image of {subject}"
            text = evaluation_text(words, token, side, values.sensor) if subject in labels else with_token(words, token) if token else words
            text += f", incidence {incidence} degrees" if incidence else ""
            image = to_grey(generate(model(strategy), [text], [seed], values.sampling_steps, guidance, size=self.card["size"]))
            own = embed_images(judge, image)
            opinion = dict(sorted(zip(labels, (own @ prompts.T)[0].tolist()), key=lambda item: -item[1]))
            nearest = np.argsort(-(own @ features.T)[0])[:3]
            return drawing_sheet(image[0], text, opinion, [(f"reference: {test.labels[k]}", test.images[k]) for k in nearest])

        if not os.environ.get(BATCH) and importlib.util.find_spec("ipywidgets"):
            from IPython.display import display
            from ipywidgets import Combobox, FloatSlider, interact_manual

            def show(**choices: Any) -> None:
                display(sheet(**choices))

            subject = Combobox(value=labels[0], options=labels, description="subject")
            guidance = FloatSlider(values.guidance_scale, min=1, max=10, step=0.5)
            interact_manual(
                show, strategy=list(names), subject=subject, side=["left", "right"], incidence=(0, 60, 5), seed=(0, 999), guidance=guidance
            )
        return sheet(names[0], labels[-1], "left", 0, values.seed, values.guidance_scale)

    def figure(self, figure: Figure, name: str, meaning: str) -> None:
        """Record a figure, see ``Record.figure``, and show it.

        In a run of all notebooks the executed copy shows the recorded file by a link: no picture is stored twice.
        """
        from IPython.display import Markdown, display  # here, as programs that only train need neither

        path = self.record.figure(figure, name, meaning)
        if os.environ.get(BATCH):
            plt.close(figure)  # else Jupyter would show it at the end of the cell, and store it in the copy
            display(Markdown(f"![{meaning}](../{path})"))

    def found(self, *sentences: str) -> None:
        """Show what the notebook found as a list, and record it: ``index.md`` shows it, and opens with that of notebook 10.

        Parameters
        ----------
        sentences : full sentences; every number in them is formatted by the notebook's code from its own tables.
        """
        from IPython.display import Markdown, display  # here, as programs that only train need neither

        self.record.found(sentences)
        display(Markdown("\n".join(findings({"found": sentences}))))

    def close(self) -> None:
        """Put what was recorded in its place, and say where its list is."""
        recorded = self.record.close()
        print(f"{len(recorded)} artefacts recorded in manifest/{self.record.producer}.json of {self.values.results}")
