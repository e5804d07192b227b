"""sarnb: how should a text-to-image diffusion model be fine-tuned so that it draws radar images?

The helper package of the notebooks. Its folders stand in the order in which the data flows:
world → data → model → train → generate → metrics → results. Nothing imports backwards.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

# Remarks of libraries on parts that nothing here uses (torchvision's image processors, bars drawn by ipywidgets). Both are
# made on import, so they are silenced before it; whoever sets the variable hears transformers again.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
warnings.filterwarnings("ignore", message="IProgress not found")

OTHER_VAE = "+vae="
__version__ = "0.1.0"


def foundation_path() -> Path:
    """Folder of the embedded foundation, a miniature SDXL that ``DiffusionPipeline.from_pretrained`` opens."""
    return Path(__file__).parent / "model" / "embedded"


def split_foundation(spec: str) -> tuple[str, str]:
    """ "FOUNDATION+vae=VAE", a foundation with another autoencoder, in two; the second is empty for the foundation's own.

    >>> split_foundation("stabilityai/stable-diffusion-xl-base-1.0+vae=madebyollin/sdxl-vae-fp16-fix")
    ('stabilityai/stable-diffusion-xl-base-1.0', 'madebyollin/sdxl-vae-fp16-fix')
    """
    base, _, vae = spec.partition(OTHER_VAE)
    return base, vae


def foundation_folders(spec: str) -> list[Path]:
    """The folders or files of this machine that the name of a foundation, and of the autoencoder behind it, stand for."""
    paths = [foundation_path() if part == "embedded" else Path(part) for part in split_foundation(spec) if part]
    return [path for path in paths if path.exists()]
