"""The published configuration of SDXL base 1.0 (Podell et al. 2023), built without weights on the meta device."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection


def sdxl_unet() -> UNet2DConditionModel:
    """SDXL's UNet; 2,567,463,684 parameters."""
    return UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        transformer_layers_per_block=[1, 2, 10],
        attention_head_dim=[5, 10, 20],
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def sdxl_vae() -> AutoencoderKL:
    """SDXL's autoencoder: downsampling 8, 4 latent channels."""
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=1024,
        scaling_factor=0.13025,
    )


def sdxl_text_encoders() -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """CLIP ViT-L's and OpenCLIP ViT-bigG's text towers."""
    large = CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    )
    huge = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=20,
        projection_dim=1280,
        hidden_act="gelu",
    )
    return CLIPTextModel(large), CLIPTextModelWithProjection(huge)


def sdxl_components() -> dict[str, nn.Module]:
    """The four networks of SDXL by diffusers' names, on the meta device: shapes only, no memory."""
    with torch.device("meta"):
        first, second = sdxl_text_encoders()
        return {"unet": sdxl_unet(), "text_encoder": first, "text_encoder_2": second, "vae": sdxl_vae()}
