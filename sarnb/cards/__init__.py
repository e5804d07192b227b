"""Model cards in the hub's format: a template of this folder, filled in by ``huggingface_hub``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

FOLDER = Path(__file__).parent


def model_card(template: str, tags: list[str], licence: str | None = None, **values: Any) -> str:
    """The text of a model card.

    Parameters
    ----------
    template : file name of this folder, without its ending: a Jinja2 template with ``{{ card_data }}`` as front matter.
    tags, licence : of the front matter, in the hub's own words.
    values : what the template asks for.
    """
    data = ModelCardData(license=licence, library_name="diffusers", pipeline_tag="text-to-image", tags=tags)
    return ModelCard.from_template(data, template_path=str(FOLDER / f"{template}.md"), **values).content + "\n"
