"""A judge that starts from a CLIP of open_clip: ViT-L, SARCLIP or any other, from a local folder, a file or a hub id.

open_clip (Ilharco et al. 2021) is an extra package; only this file asks for it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from sarnb.errors import InputError
from sarnb.model.clip import TwoTowers

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"  # open_clip's own names


class OpenClipEncoder(TwoTowers):
    """An open_clip model with the interface of ``DualEncoder``: it trains in ``train_clip`` and judges as the small one does."""

    def __init__(self, model: nn.Module, tokenizer: Any, config: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.tokenizer, self.config = model, tokenizer, config
        size = model.visual.image_size
        self.size = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
        self.register_buffer("mean", torch.tensor(model.visual.image_mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(model.visual.image_std).view(1, -1, 1, 1), persistent=False)

    @property
    def log_scale(self) -> Tensor:
        """ln of the factor on the cosines."""
        return self.model.logit_scale

    def image_embeddings(self, pixels: Tensor) -> Tensor:
        """[N, 3, H, W] in [-1, 1] → unit vectors [N, D]; resized to what the model takes."""
        pixels = pixels.to(self.log_scale.device)
        if pixels.shape[-2:] != self.size:
            pixels = F.interpolate(pixels, self.size, mode="bicubic", antialias=True, align_corners=False)
        pixels = (pixels.clamp(-1, 1) / 2 + 0.5 - self.mean) / self.std
        return F.normalize(self.model.encode_image(pixels).float(), dim=-1)

    def text_embeddings(self, ids: Tensor) -> list[Tensor]:
        """Token ids [N, T] → unit vectors [N, D], in a list because there is one tower."""
        return [F.normalize(self.model.encode_text(ids.to(self.log_scale.device)).float(), dim=-1)]

    def tokens(self, captions: list[str]) -> Tensor:
        """Padded and cut token ids [N, T]."""
        return self.tokenizer(captions)

    def save(self, folder: Path) -> None:
        """Write weights (safetensors) and configuration in the layout that open_clip's "local-dir:" reads."""
        folder.mkdir(parents=True, exist_ok=True)
        if hasattr(self.tokenizer, "save_pretrained"):
            self.tokenizer.save_pretrained(folder)
        (folder / CONFIG).write_text(json.dumps(self.config, indent=1))
        save_file({name: value.contiguous() for name, value in self.model.state_dict().items()}, folder / WEIGHTS)


def load_open_clip(spec: str) -> OpenClipEncoder:
    """A CLIP of open_clip in float32, ready to judge.

    ``spec``: a folder in open_clip's layout, "hf-hub:owner/name", or "architecture:weights" where weights is one of
    open_clip's tags or a file, as in "ViT-L-14:openai". Raises ``InputError`` without the package, for an unknown spec, and for
    weights that cannot be read.
    """
    try:
        import open_clip
    except ImportError as error:
        raise InputError(
            f"judge {spec!r} needs the package open_clip_torch; install sarnb[openclip], or choose the judge 'small'"
        ) from error
    folder = Path(spec.removeprefix("local-dir:"))
    if folder.is_dir():
        name, weights = f"local-dir:{folder}", None
    elif spec.startswith(("hf-hub:", "local-dir:")):
        name, weights = spec, None
    else:
        name, _, weights = spec.partition(":")
        if not weights:
            raise InputError(
                f"judge {spec!r}: no such folder; give one in open_clip's layout, hf-hub:owner/name, or architecture:weights"
            )
    try:
        model = open_clip.create_model(name, pretrained=weights, require_pretrained=True)
        tokenizer, config = open_clip.get_tokenizer(name), open_clip.get_model_config(name)
    except Exception as error:  # open_clip raises anything, from RuntimeError to what the hub's client does
        raise InputError(f"judge {spec!r}: open_clip cannot load it ({' '.join(str(error).split())[:200]})") from error
    preprocess = {"mean": list(model.visual.image_mean), "std": list(model.visual.image_std)}
    return OpenClipEncoder(model, tokenizer, {"model_cfg": config, "preprocess_cfg": preprocess}).eval()
