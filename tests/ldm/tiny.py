"""Diffusion models small enough to sample and train within a test."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.util import instantiate_from_config

AUTOENCODER = {
    "target": "ldm.models.autoencoder.AutoencoderKL",
    "params": {
        "embed_dim": 4,
        "ddconfig": {
            "double_z": True,
            "z_channels": 4,
            "resolution": 32,
            "in_channels": 3,
            "out_ch": 3,
            "ch": 8,
            "ch_mult": [1, 2, 2],
            "num_res_blocks": 1,
            "attn_resolutions": [],
            "num_groups": 4,
        },
        "lossconfig": {"target": "torch.nn.Identity"},
    },
}

LOW_SCALE = {
    "target": "ldm.modules.diffusionmodules.upscaling.ImageConcatWithNoiseAugmentation",
    "params": {"noise_schedule_config": {"linear_start": 1e-4, "linear_end": 2e-2}, "max_noise_level": 350},
}


class Words(nn.Module):
    """A text encoder that gives each prompt 3 tokens of width 16, made from its letters."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(128, 16)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        letters = [[ord(c) % 128 for c in prompt.ljust(3)[:3]] for prompt in prompts]
        return self.table(torch.tensor(letters, device=self.table.weight.device))


def unet(in_channels: int, **params: Any) -> dict[str, Any]:
    return {
        "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
        "params": {
            "image_size": 8,
            "in_channels": in_channels,
            "out_channels": 4,
            "model_channels": 32,
            "attention_resolutions": [1],
            "num_res_blocks": 1,
            "channel_mult": [1, 2],
            "num_head_channels": 16,
            "use_spatial_transformer": True,
            "use_linear_in_transformer": True,
            "context_dim": 16,
            "legacy": False,
            "use_checkpoint": False,
            **params,
        },
    }


def config(
    target: str = "LatentDiffusion", in_channels: int = 4, unet_params: Any = None, **params: Any
) -> dict:
    """Config of a tiny model of ``ldm.models.diffusion.ddpm``, SD's schedule, no EMA."""
    return {
        "target": f"ldm.models.diffusion.ddpm.{target}",
        "params": {
            "unet_config": unet(in_channels, **(unet_params or {})),
            "first_stage_config": AUTOENCODER,
            "cond_stage_config": {"target": "tests.ldm.tiny.Words"},
            "first_stage_key": "jpg",
            "cond_stage_key": "txt",
            "conditioning_key": "crossattn",
            "linear_start": 0.00085,
            "linear_end": 0.012,
            "image_size": 8,
            "channels": 4,
            "use_ema": False,
            **params,
        },
    }


def build(target: str = "LatentDiffusion", seed: int = 0, **params: Any) -> LatentDiffusion:
    torch.manual_seed(seed)
    model = instantiate_from_config(config(target, **params))
    # UNets start with zero output; give the last convolution weights so that outputs say something.
    nn.init.normal_(model.model.diffusion_model.out[-1].weight, std=0.1)
    return model


def inpainting(**params: Any) -> LatentDiffusion:
    return build("LatentInpaintDiffusion", **{"in_channels": 9, "conditioning_key": "hybrid", **params})


def upscaler(**params: Any) -> LatentDiffusion:
    return build(
        "LatentUpscaleDiffusion",
        in_channels=7,
        unet_params={"num_classes": 350},
        conditioning_key="hybrid-adm",
        parameterization="v",
        low_scale_config=LOW_SCALE,
        low_scale_key="lr",
        **params,
    )


class Oracle(LatentDiffusion):
    """A LatentDiffusion whose network is given: ``denoise(x_t, t, cond) -> x_0``, in any parameterization.

    `calls` holds the arguments of each call of `apply_model`.
    """

    def __init__(self, denoise: Any, **params: Any):
        params = config(in_channels=4, **params)["params"]
        super().__init__(**params | {"unet_config": {"target": "torch.nn.Linear", "params": dict.fromkeys(
            ("in_features", "out_features"), 1
        )}, "first_stage_config": {"target": "torch.nn.Identity"}})  # fmt: skip
        self.denoise = denoise
        self.calls: list[tuple[Tensor, Tensor, Any]] = []

    def apply_model(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        self.calls.append((x, t, cond))
        x0 = self.denoise(x, t, cond)
        return self.target(x0, self.predict_eps_from_start(x, t, x0), t)
