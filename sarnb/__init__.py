"""sarnb: how should a text-to-image diffusion model be fine-tuned so that it draws radar images?

The helper package of the notebooks. Its folders stand in the order in which the data flows:
world → data → model → train → generate → metrics → results. Nothing imports backwards.
"""

from __future__ import annotations

from pathlib import Path

__version__ = "0.1.0"


def foundation_path() -> Path:
    """Folder of the embedded foundation, a miniature SDXL that ``DiffusionPipeline.from_pretrained`` opens."""
    return Path(__file__).parent / "model" / "embedded"
