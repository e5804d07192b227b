"""A pipeline's weights as one file, under the names that SDXL was published with: what other tools give and take.

The names are those of Stability's ``generative-models`` (UNet and autoencoder of latent diffusion), transformers 4 (first
text encoder) and OpenCLIP (second one, whose queries, keys and values are one matrix).
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
VAE = {
    "conv_shortcut": "nin_shortcut",
    "conv_norm_out": "norm_out",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
OPENCLIP = {
    "encoder.layers": "transformer.resblocks",
    "self_attn": "attn",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "fc1": "c_fc",
    "fc2": "c_proj",
    "final_layer_norm": "ln_final",
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "text_projection.weight": "text_projection",
}


def single_file_weights(pipe) -> dict[str, Tensor]:
    """All four networks of a pipeline; OpenCLIP's temperature, which SDXL's file holds and nobody reads, as well."""
    weights = _unet(pipe.unet) | vae_weights(pipe.vae) | _clip(pipe.text_encoder) | _openclip(pipe.text_encoder_2)
    weights["conditioner.embedders.1.model.logit_scale"] = torch.tensor(4.6)
    return {name: value.detach().contiguous().clone() for name, value in weights.items()}


def _renamed(name: str, table: dict[str, str]) -> str:
    for old, new in table.items():
        name = re.sub(rf"(?<![^.]){re.escape(old)}(?![^.])", new, name)
    return name


def _unet(unet) -> dict[str, Tensor]:
    """Blocks are counted through: the first convolution, then of each level its layers and its change of resolution."""
    layers = unet.config.layers_per_block
    middle = ("resnets.0", "attentions.0", "resnets.1")
    places = {f"mid_block.{name}": f"middle_block.{place}" for place, name in enumerate(middle)}
    for level, block in enumerate(unet.up_blocks):
        down, up = 1 + level * (layers + 1), level * (layers + 1)
        for layer in range(layers + 1):
            for kind, place in (("resnets", 0), ("attentions", 1)):
                places[f"down_blocks.{level}.{kind}.{layer}"] = f"input_blocks.{down + layer}.{place}"
                places[f"up_blocks.{level}.{kind}.{layer}"] = f"output_blocks.{up + layer}.{place}"
        places[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{down + layers}.0.op"
        behind = 2 if hasattr(block, "attentions") else 1
        places[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{up + layers}.{behind}.conv"
    weights = {}
    for name, value in unet.state_dict().items():
        block = next((block for block in places if name.startswith(f"{block}.")), None)
        if block is None:
            name = _renamed(name, UNET_ENDS)
        else:
            name = places[block] + _renamed(name.removeprefix(block), RESIDUAL if "resnets" in block else {})
        weights[f"model.diffusion_model.{name}"] = value
    return weights


def vae_weights(vae) -> dict[str, Tensor]:
    """The autoencoder; its decoder's levels are counted from the finest, and its attention consists of 1x1 convolutions."""
    last, weights = len(vae.config.block_out_channels) - 1, {}
    for name, value in vae.state_dict().items():
        name = re.sub(r"down_blocks\.", "down.", name)
        name = re.sub(r"up_blocks\.(\d)", lambda match: f"up.{last - int(match[1])}", name)
        name = re.sub(r"(down|up)samplers\.0", r"\1sample", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
        name = _renamed(name.replace("mid_block.attentions.0", "mid.attn_1").replace("resnets", "block"), VAE)
        convolution = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", name)
        weights[f"first_stage_model.{name}"] = value[..., None, None] if convolution else value
    return weights


def _clip(encoder) -> dict[str, Tensor]:
    prefix = "conditioner.embedders.0.transformer.text_model."
    return {prefix + name.removeprefix("text_model."): value for name, value in encoder.state_dict().items()}


def _openclip(encoder) -> dict[str, Tensor]:
    state, weights = encoder.state_dict(), {}
    for name, value in state.items():
        if "k_proj" in name or "v_proj" in name:
            continue
        if "q_proj" in name:
            value = torch.cat([state[name.replace("q_proj", other)] for other in ("q_proj", "k_proj", "v_proj")])
            name = name.replace("q_proj.", "in_proj_")
        name = _renamed(name.removeprefix("text_model."), OPENCLIP)
        weights[f"conditioner.embedders.1.model.{name}"] = value.T if name == "text_projection" else value
    return weights
