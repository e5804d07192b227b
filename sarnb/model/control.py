"""Pictures that steer the drawing: a land-cover map, a coarse satellite view or a photograph of the same scene, next to the text.

A network reads the picture and adds to what the UNet computes; the UNet itself stays as it was tuned. Two kinds of network, both
diffusers' own: ``controlnet``, a copy of the UNet's encoder whose outputs pass convolutions that start at zero (Zhang et al.
2023, arXiv 2302.05543), and ``adapter``, a few convolutions that see the picture only once a drawing (Mou et al. 2023,
arXiv 2302.08453).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel, MultiAdapter, StableDiffusionXLPipeline, T2IAdapter
from PIL import Image
from torch import Tensor, nn

from sarnb.data.dataset import ImageSet
from sarnb.data.files import METADATA
from sarnb.data.twin import SATELLITE_FACTOR
from sarnb.errors import InputError, first_line
from sarnb.model.strategy import seeded
from sarnb.world.backscatter import COVERS

#: Kind of condition -> channels of the tensor that the network sees: one a land cover, or those of a picture.
KINDS = {"map": len(COVERS), "satellite": 3, "optical": 3}
NETWORKS = {"controlnet": ControlNetModel, "adapter": T2IAdapter}  # also the names of their folders
EMBEDDING = (16, 32, 96, 256)  # channels of ControlNet's own encoder of the picture, each but the first halves its sides; SDXL's
_COLOURS = "0064c8 b4dc78 f0c83c b49678 f5e6aa 006400 505050 a0a0a0 fa0000 c85a28 8cb4dc 6e5a50 f0f0f0 281e6e e678a0 ffff00"
#: Colour of each land cover in a map that is shown or given in colour, uint8 [covers, 3].
PALETTE = np.frombuffer(bytes.fromhex(_COLOURS), np.uint8).reshape(len(COVERS), 3)
CONTROL = 5  # stream of random starts, next to those of ``sarnb.model.strategy``


def check_kind(kind: str, network: str = "controlnet") -> None:
    """Raise ``InputError`` for a condition or a network that there is not."""
    for what, value, known in (("condition", kind, KINDS), ("network", network, NETWORKS)):
        if value not in known:
            raise InputError(f"unknown {what} {value!r}; choose one of {', '.join(known)}")


def conditions_of(data: ImageSet, kind: str) -> np.ndarray:
    """The condition of every image of a set, as files hold it: uint8 codes [N, H, W], grey [N, H/4, W/4], or colour [N, H, W, 3].

    Raises
    ------
    InputError
        An unknown kind, and a set that has no such picture.
    """
    check_kind(kind)
    found = {"map": data.masks, "satellite": data.satellite, "optical": data.optical}[kind]()
    if found is None:
        column = f"{'mask' if kind == 'map' else kind}_file_name"
        raise InputError(f"{data.root}: has no {kind} of every image; name its file in the column {column} of {METADATA}")
    return check_conditions(found, kind, data.images.shape[1:], str(data.root))


def read_condition(kind: str, path: Path, size: tuple[int, int]) -> np.ndarray:
    """One condition of a file [1, ...], checked. A map holds codes, grey, or colours of ``PALETTE``.

    Raises
    ------
    InputError
        The file cannot be read or does not fit ``size`` (H, W), or has a colour that is none of the palette.
    """
    check_kind(kind)
    try:
        with Image.open(path) as image:
            coloured = kind == "optical" or (kind == "map" and image.mode in ("RGB", "P"))
            if kind == "map" and image.mode not in ("L", "RGB", "P"):
                raise InputError(f"{path}: a map is 8-bit grey, of codes, or RGB, of the palette's colours, not of mode {image.mode}")
            if kind != "map" and image.mode not in ("L", "RGB", "P"):  # conversion would cut off what has more than 8 bits
                raise InputError(f"{path}: a condition is a picture of 8-bit grey or RGB, not of mode {image.mode}; convert it first")
            pixels = np.asarray(image.convert("RGB" if coloured else "L"))[None]
    except OSError as error:
        raise InputError(f"{path}: cannot be read as an image ({first_line(error)}); give a PNG") from error
    return check_conditions(_codes(pixels, path) if kind == "map" and coloured else pixels, kind, size, str(path))


def _codes(colours: np.ndarray, path: Path) -> np.ndarray:
    """Codes uint8 [N, H, W] of a map in the colours of ``PALETTE`` [N, H, W, 3]."""
    same = (colours[..., None, :] == PALETTE).all(-1)
    if not (known := same.any(-1)).all():
        _, row, column = np.argwhere(~known)[0]
        listed = ", ".join(f"{name} #{bytes(colour).hex()}" for name, colour in zip(COVERS, PALETTE))
        strange = f"#{bytes(colours[0, row, column]).hex()} at row {row}, column {column}"
        raise InputError(f"{path}: {strange} is the colour of no land cover; use {listed}, in a lossless file")
    return same.argmax(-1).astype(np.uint8)


def check_conditions(images: np.ndarray, kind: str, size: tuple[int, int], where: str) -> np.ndarray:
    """The conditions [N, ...] as they are.

    Raises
    ------
    InputError
        Another size than ``size`` (a satellite view may be coarser), or an unknown code.
    """
    sides, coarse = tuple(images.shape[1:3]), tuple(side // SATELLITE_FACTOR for side in size)
    if sides != tuple(size) and not (kind == "satellite" and sides == coarse):
        fits = f"{size[1]} x {size[0]} px" + f" or {coarse[1]} x {coarse[0]} px" * (kind == "satellite")
        raise InputError(f"{where}: the {kind} has {sides[1]} x {sides[0]} px; give one of {fits}, as the image is")
    if kind == "map" and images.max() >= len(COVERS):
        raise InputError(f"{where}: the map holds the code {images.max()}; land covers are 0 to {len(COVERS) - 1} ({', '.join(COVERS)})")
    return images


def to_condition(images: np.ndarray, kind: str, size: tuple[int, int]) -> Tensor:
    """What a network sees of ``conditions_of``: float [N, C, H, W] in [0, 1], a map as one channel a land cover.

    A coarse satellite view is enlarged by repeating its cells.
    """
    if kind == "map":
        return nn.functional.one_hot(torch.from_numpy(images.astype(np.int64)), len(COVERS)).permute(0, 3, 1, 2).float()
    pixels = torch.from_numpy(np.ascontiguousarray(images)).float() / 255
    pixels = pixels.permute(0, 3, 1, 2) if pixels.ndim == 4 else pixels.unsqueeze(1).expand(-1, 3, -1, -1)
    return nn.functional.interpolate(pixels, tuple(size), mode="nearest")


def control_network(pipe: StableDiffusionXLPipeline, kind: str, network: str = "controlnet", seed: int = 0) -> nn.Module:
    """A fresh network for conditions of ``kind``, float32, all of it training; what is random in it depends on ``seed`` only.

    A ControlNet starts as a copy of the pipeline's own UNet's encoder and adds nothing at first. Both see the picture at image size,
    and bring it to the latents' by the autoencoder's downsampling. See ``_open_eyes`` for how this project's starts.
    """
    check_kind(kind, network)
    factor, widths = pipe.vae_scale_factor, list(pipe.unet.config.block_out_channels)
    with seeded(seed, CONTROL):
        if network == "controlnet":
            levels = EMBEDDING[: factor.bit_length()]  # a factor of 8 is three halvings, by four levels
            net = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=levels, conditioning_channels=KINDS[kind])
            _open_eyes(net)
        else:  # its features join the UNet behind the first downsampling, where they are half as wide as the latents
            several = {"num_res_blocks": 1, "downscale_factor": 2 * factor, "adapter_type": "full_adapter_xl"}
            net = T2IAdapter(in_channels=KINDS[kind], channels=[*widths, widths[-1]][: 4 if len(widths) > 2 else 2], **several)
    return net.float().requires_grad_(True)


def _open_eyes(net: ControlNetModel) -> None:
    """Let the picture reach the copied encoder from the first step on.

    By torch's own start each layer of the network that reads the picture hands on a third to a half of its contrast, all of them a
    thousandth. And it ends in zeros, with the zero convolutions behind it: of a product of two zeros neither factor has a gradient.
    So each layer starts with the deviation that keeps the contrast (2 as SiLU has the slope 1/2 at 0), the last one too. That a fresh
    ControlNet adds nothing is up to the zero convolutions alone.
    """
    reads = net.controlnet_cond_embedding
    for layer, gain in ((reads.conv_in, 2.0), *((block, 2.0) for block in reads.blocks), (reads.conv_out, 1.0)):
        nn.init.normal_(layer.weight, std=gain / layer.weight[0].numel() ** 0.5)
        nn.init.zeros_(layer.bias)


def controlled(unet: nn.Module, net: nn.Module, condition: Tensor) -> Callable[..., Any]:
    """The UNet steered by ``net``, to be called as the UNet is; ``condition`` [N, C, H, W] of as many images."""

    def call(noisy: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, added_cond_kwargs: Mapping[str, Tensor]) -> Any:
        conditions = {"encoder_hidden_states": encoder_hidden_states, "added_cond_kwargs": dict(added_cond_kwargs)}
        return unet(noisy, timestep, **conditions, **residuals(net, condition, 1.0, noisy, timestep, **conditions))

    return call


def residuals(
    net: nn.Module,
    condition: Tensor,
    scale: float,
    noisy: Tensor,
    timestep: Tensor,
    encoder_hidden_states: Tensor,
    added_cond_kwargs: Mapping[str, Tensor],
) -> dict[str, Any]:
    """What ``net`` adds to the UNet's features [B, C, h, w] of each block, by the names under which the UNet takes them."""
    if isinstance(getattr(net, "module", net), ControlNetModel):  # several processes wrap it
        conditions = {"encoder_hidden_states": encoder_hidden_states, "added_cond_kwargs": added_cond_kwargs}
        down, middle = net(noisy, timestep, controlnet_cond=condition, conditioning_scale=scale, return_dict=False, **conditions)
        return {"down_block_additional_residuals": list(down), "mid_block_additional_residual": middle}
    return {"down_intrablock_additional_residuals": [scale * feature for feature in net(condition)]}


def check_sort(nets: Sequence[nn.Module]) -> None:
    """Raise ``InputError`` for two sorts of networks at once, which no pipeline of diffusers takes."""
    if len({type(net) for net in nets}) > 1:
        raise InputError("a ControlNet and an adapter cannot steer one drawing; give networks of one sort")


def control_pipeline(pipe: StableDiffusionXLPipeline, nets: list[nn.Module]) -> StableDiffusionXLPipeline:
    """diffusers' own pipeline of the same networks with one or more control networks; ``InputError`` as of ``check_sort``."""
    logging.disable(logging.WARNING)  # loading them warns of packages that are not needed here
    from diffusers import StableDiffusionXLAdapterPipeline, StableDiffusionXLControlNetPipeline

    logging.disable(logging.NOTSET)
    logging.getLogger("diffusers.pipelines.controlnet.pipeline_controlnet_sd_xl").setLevel(logging.ERROR)  # of several networks
    check_sort(nets)
    parts = {name: part for name, part in pipe.components.items() if name not in ("feature_extractor", "image_encoder")}
    own = nets[0] if len(nets) == 1 else nets
    more = {"force_zeros_for_empty_prompt": pipe.config.force_zeros_for_empty_prompt}
    if isinstance(nets[0], T2IAdapter):
        return StableDiffusionXLAdapterPipeline(**parts, **more, adapter=own if len(nets) == 1 else MultiAdapter(nets))
    return StableDiffusionXLControlNetPipeline(**parts, **more, controlnet=own, add_watermarker=False)
