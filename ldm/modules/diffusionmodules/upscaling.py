"""Low-resolution images as a condition of the upscaling model."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldm.modules.diffusionmodules.gaussian import GaussianDiffusion, Schedule
from ldm.modules.diffusionmodules.util import make_beta_schedule


class ForwardSchedule(Schedule):
    """The tables of the forward process alone: nothing is sampled from this schedule's posterior."""

    def tables(self) -> dict[str, np.ndarray]:
        """Those that a checkpoint of the x4 upscaler stores, by name."""
        return {name: table for name, table in super().tables().items() if not name.startswith("posterior")}


class AbstractLowScaleModel(GaussianDiffusion):
    """Base of the models that prepare a low-resolution condition; it can add noise by its own schedule.

    `noise_schedule_config` holds arguments of `low_scale_betas`; None means that there is no schedule.
    """

    def __init__(self, noise_schedule_config: dict[str, Any] | None = None):
        super().__init__()
        if noise_schedule_config is not None:
            self.register_schedule(ForwardSchedule(low_scale_betas(**noise_schedule_config)))


def low_scale_betas(
    beta_schedule: str = "linear",
    timesteps: int = 1000,
    linear_start: float = 1e-4,
    linear_end: float = 2e-2,
    cosine_s: float = 8e-3,
) -> np.ndarray:
    """The variances beta_t [timesteps], with SD2's defaults."""
    return make_beta_schedule(beta_schedule, timesteps, linear_start, linear_end, cosine_s)


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
