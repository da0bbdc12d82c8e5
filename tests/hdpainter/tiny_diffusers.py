"""Tiny random pipelines made by the package diffusers, saved as it saves them."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionUpscalePipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

TOKENS = 49408  # so that real prompts can be given
WIDTH = 16  # of the text features
CHANNELS = {"text": 4, "inpainting": 9, "upscaler": 7}


def shaken(module: nn.Module) -> Any:
    """The module with weights that are random everywhere, also where diffusers starts from ones and zeros."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


def unet(family: int, kind: str) -> UNet2DConditionModel:
    """Stable Diffusion `family` in small: two levels, one of them with transformers."""
    levels = (
        ("DownBlock2D", "CrossAttnDownBlock2D")
        if kind == "upscaler"
        else ("CrossAttnDownBlock2D", "DownBlock2D")
    )
    heads = [2, 4] if family == 2 and kind != "upscaler" else 2
    extras = {"num_class_embeds": 40, "only_cross_attention": [True, False]} if kind == "upscaler" else {}
    return shaken(
        UNet2DConditionModel(
            sample_size=8,
            in_channels=CHANNELS[kind],
            out_channels=4,
            down_block_types=levels,
            up_block_types=tuple(level.replace("Down", "Up") for level in reversed(levels)),
            block_out_channels=(16, 32),
            layers_per_block=1,
            cross_attention_dim=WIDTH,
            attention_head_dim=heads,
            norm_num_groups=8,
            use_linear_projection=family == 2,
            **extras,
        )
    )


def autoencoder(levels: int) -> AutoencoderKL:
    return shaken(
        AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=(8, 16, 16, 16)[:levels],
            layers_per_block=1,
            norm_num_groups=4,
            latent_channels=4,
        )
    )


def text_encoder(family: int) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=TOKENS,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=2,
        hidden_act="gelu" if family == 2 else "quick_gelu",
    )
    return shaken(CLIPTextModel(config))


def pipeline(family: int, kind: str, prediction: str = "epsilon", seed: int = 0) -> Any:
    """A pipeline of `kind` "text", "inpainting" or "upscaler"."""
    torch.manual_seed(seed)
    beta = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = DDIMScheduler(**beta, prediction_type=prediction, clip_sample=False, set_alpha_to_one=False)
    parts = {
        "unet": unet(family, kind),
        "vae": autoencoder(3 if kind == "upscaler" else 4),
        "text_encoder": text_encoder(family),
        "tokenizer": None,
        "scheduler": scheduler,
    }
    if kind == "upscaler":
        low = DDPMScheduler(beta_schedule="scaled_linear")
        return StableDiffusionUpscalePipeline(**parts, low_res_scheduler=low, max_noise_level=30)
    made = StableDiffusionPipeline if kind == "text" else StableDiffusionInpaintPipeline
    return made(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def save(folder: Path, family: int, kind: str, prediction: str = "epsilon", **how: Any) -> Any:
    """The pipeline, saved to `folder`."""
    made = pipeline(family, kind, prediction)
    made.save_pretrained(folder, **how)
    return made
