"""The published configuration of SDXL base 1.0 (Podell et al. 2023), built without weights: shapes, counts, speed."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from sarnb.model.foundation import assemble

VOCABULARY, MAX_TOKENS = 49408, 77  # CLIP's


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
    large = CLIPTextConfig(vocab_size=VOCABULARY, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    huge = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=20,
        projection_dim=1280,
        hidden_act="gelu",
    )
    return CLIPTextModel(large), CLIPTextModelWithProjection(huge)


def sdxl_components(device: str = "meta") -> dict[str, nn.Module]:
    """The four networks of SDXL by diffusers' names; on the meta device shapes only, elsewhere random weights in float32."""
    with torch.device(device):
        first, second = sdxl_text_encoders()
        return {"unet": sdxl_unet(), "text_encoder": first, "text_encoder_2": second, "vae": sdxl_vae()}


def stand_in_tokenizer() -> CLIPTokenizer:
    """A tokenizer with as many entries as CLIP's, whose words it does not know: for counts and for speed."""
    words = [f"word{number}</w>" for number in range(VOCABULARY - 3)] + ["!", "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: row for row, word in enumerate(words)}, merges=[], model_max_length=MAX_TOKENS)


def sdxl_pipeline(device: str = "meta") -> StableDiffusionXLPipeline:
    """A pipeline of SDXL's shapes without its knowledge: nothing at all on the meta device, random weights elsewhere."""
    return assemble(tokenizer=stand_in_tokenizer(), **sdxl_components(device))
