"""Captions for images that have none: what an image-text model says of the photograph next to each, and the physics of the metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sarnb.data.files import check_apart, read_numbered, saving, working_in, write_rows
from sarnb.data.imagefolder import EXTRA_COLUMNS, PAIRED, UserImage, default_caption, list_images, physics, safe_name
from sarnb.errors import InputError, first_line

WORDS = 40  # tokens that the model may say of a picture
#: What such models begin with; a radar image is none of these.
LEAD = re.compile(r"(?:(?:an?|the|this) )?(?:(?:\w+ )?(?:photo|photograph|image|view|picture|shot) (?:of|showing) )", re.IGNORECASE)


def write_captions(source: Path, out: Path, model: str = "", batch: int = 16) -> tuple[int, int]:
    """Write a row of every image of a folder into ``out``: its class and facts, and a caption.

    Parameters
    ----------
    source : the folder, see ``list_images``.
    out : JSON lines. What a killed call has described lies next to it, and the next one goes on behind that.
    model : image-text model, a hub id or a folder. It describes the photographs that the metadata's column ``PAIRED`` names;
        images without one, or all without a model, have their class as caption.
    batch : photographs at a time.

    Returns
    -------
    described, others : captions of photographs, and by the class.

    Raises
    ------
    InputError
        No image, no such model, a photograph that cannot be read, or a file of another model's captions.
    """
    images, by = list_images(source, labelled=False, index=True).images, model or "class"
    check_apart(out, [image.path for image in images], "captions")
    partial = out.with_name(f".{out.name}.partial")
    with working_in(out), saving(out):
        done = _whole_rows(partial) | ({row.get("file_name"): row for _, row in read_numbered(out)} if out.is_file() else {})
        for name, row in done.items():
            if row.get("captioned_by") != by:
                raise InputError(f"{out}: {name} is captioned by {row.get('captioned_by')!r}, not {by!r}; name another file, or remove it")
        left = [image for image in images if image.name not in done]
        paired = [image for image in left if model and PAIRED in image.extra]
        say = describer(model) if paired else None
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in done.values())
            for start in range(0, len(paired), batch):
                part = paired[start : start + batch]
                texts = say([_photograph(image) for image in part]) if say else []
                file.writelines(json.dumps(_row(image, text, by), ensure_ascii=False) + "\n" for image, text in zip(part, texts))
                file.flush()
        done = _whole_rows(partial)
        write_rows(out, [done.get(image.name) or _row(image, "", by) for image in images])
        partial.unlink()
    described = sum(bool(model and PAIRED in image.extra) for image in images)
    return described, len(images) - described


def describer(model: str) -> Callable[[Sequence[Image.Image]], list[str]]:
    """Pictures -> a sentence on each, by greedy decoding. Weights are read from safetensors, and no code of the model's is run.

    Raises
    ------
    InputError
        The model cannot be read here, or is no image-text model.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(model, trust_remote_code=False)
        network = AutoModelForImageTextToText.from_pretrained(model, trust_remote_code=False, use_safetensors=True).eval()
    except Exception as error:  # the hub's client and the readers raise anything
        raise InputError(
            f"--model {model}: is no image-text model that can be read here ({first_line(error)}); give a captioning model such as BLIP, "
            "by its name on the hub or as a folder with config.json, model.safetensors, tokenizer and preprocessor_config.json"
        ) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network.to(device)

    def say(pictures: Sequence[Image.Image]) -> list[str]:
        with torch.inference_mode():
            inputs = processor(images=list(pictures), return_tensors="pt").to(device)
            tokens = network.generate(**inputs, max_new_tokens=WORDS, do_sample=False)
        return [" ".join(text.split()) for text in processor.batch_decode(tokens, skip_special_tokens=True)]

    return say


def _row(image: UserImage, sentence: str, by: str) -> dict[str, Any]:
    seen = LEAD.sub("", sentence, count=1).rstrip(". ")
    text = f"a radar image of {seen}" if seen else default_caption(image.label) if image.label else "a radar image"
    facts = {name: image.extra[name] for name in EXTRA_COLUMNS if name in image.extra}
    label = {"label": image.label} if image.label else {}
    return {"file_name": image.name, **label, **facts, "text": ", ".join([text, *physics(**facts)]), "captioned_by": by}


def _photograph(image: UserImage) -> Image.Image:
    folder, name, where = image.extra[PAIRED]
    path = folder / safe_name(name, folder, where)
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except Exception as error:  # decoders raise anything on damaged bytes, and refuse bombs
        raise InputError(f"{path}: cannot be read as a photograph ({first_line(error)}); mend it or take it out of the row") from error


def _whole_rows(path: Path) -> dict[str, dict[str, Any]]:
    """Image -> row of what an earlier call wrote, without a last line that has no end."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
    return {row["file_name"]: row for row in map(json.loads, lines)}
