"""Low-resolution images as a condition of the upscaling model."""

from typing import Any

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from ldm.modules.diffusionmodules.util import extract_into_tensor, make_beta_schedule


class AbstractLowScaleModel(nn.Module):
    """Base of the models that prepare a low-resolution condition; it can add noise by its own schedule.

    `noise_schedule_config` holds arguments of `register_schedule`; None means that there is no schedule.
    """

    def __init__(self, noise_schedule_config: dict[str, Any] | None = None):
        super().__init__()
        if noise_schedule_config is not None:
            self.register_schedule(**noise_schedule_config)

    def register_schedule(
        self,
        beta_schedule: str = "linear",
        timesteps: int = 1000,
        linear_start: float = 1e-4,
        linear_end: float = 2e-2,
        cosine_s: float = 8e-3,
    ) -> None:
        """Compute the tables of the forward process, as buffers in fp32."""
        betas = make_beta_schedule(beta_schedule, timesteps, linear_start, linear_end, cosine_s)
        alphas_cumprod = np.cumprod(1.0 - betas)
        self.num_timesteps = timesteps
        for name, table in {
            "betas": betas,
            "alphas_cumprod": alphas_cumprod,
            "alphas_cumprod_prev": np.append(1.0, alphas_cumprod[:-1]),
            "sqrt_alphas_cumprod": np.sqrt(alphas_cumprod),
            "sqrt_one_minus_alphas_cumprod": np.sqrt(1.0 - alphas_cumprod),
            "log_one_minus_alphas_cumprod": np.log(1.0 - alphas_cumprod),
            "sqrt_recip_alphas_cumprod": np.sqrt(1.0 / alphas_cumprod),
            "sqrt_recipm1_alphas_cumprod": np.sqrt(1.0 / alphas_cumprod - 1.0),
        }.items():
            self.register_buffer(name, torch.tensor(table, dtype=torch.float32))

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor | None = None) -> Tensor:
        """x_start [B, C, H, W] noised to level t [B]: sqrt(abar_t) x + sqrt(1 - abar_t) noise."""
        noise = torch.randn_like(x_start) if noise is None else noise
        signal = extract_into_tensor(self.sqrt_alphas_cumprod, t, x_start.shape)
        sigma = extract_into_tensor(self.sqrt_one_minus_alphas_cumprod, t, x_start.shape)
        return signal * x_start + sigma * noise


class ImageConcatWithNoiseAugmentation(AbstractLowScaleModel):
    """Adds noise of a level below `max_noise_level` to the image; the UNet is told the level as its y."""

    def __init__(self, noise_schedule_config: dict[str, Any], max_noise_level: int = 1000):
        super().__init__(noise_schedule_config)
        self.max_noise_level = max_noise_level

    def forward(
        self, x: Tensor, noise_level: Tensor | None = None, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(noised x, noise level) of images x [B, 3, h, w] in [-1, 1].

        noise_level  int64 [B], 0 ... max_noise_level - 1; drawn at random if None
        noise        like x; drawn from the global generator if None
        """
        if noise_level is None:
            noise_level = torch.randint(self.max_noise_level, (len(x),), device=x.device)
        return self.q_sample(x, noise_level, noise), noise_level
