"""Training losses of the autoencoder."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.modules.distributions.distributions import DiagonalGaussianDistribution
from ldm.util import instantiate_from_config


class ReconstructionKLLoss(nn.Module):
    """exp(-logvar) (L1 + perceptual_weight d) + logvar + kl_weight KL, each term a mean over its elements.

    Means, not sums, so that the balance does not depend on the size of the crops.

    kl_weight: weight of the KL divergence from the standard normal per latent element.
    logvar_init: log variance of the reconstruction; a parameter, trained with AutoencoderKL's learn_logvar.
    perceptual_config: config of a module d(inputs, reconstructions) -> [B], such as LPIPS; None is none.
    """

    def __init__(
        self,
        kl_weight: float = 1e-6,
        logvar_init: float = 0.0,
        perceptual_config: Mapping[str, Any] | None = None,
        perceptual_weight: float = 1.0,
    ):
        super().__init__()
        self.kl_weight = kl_weight
        self.logvar = nn.Parameter(torch.tensor(logvar_init))
        self.perceptual_weight = perceptual_weight
        self.perceptual: nn.Module | None = None
        if perceptual_config is not None:
            self.perceptual = instantiate_from_config(perceptual_config).eval().requires_grad_(False)

    def forward(
        self,
        inputs: Tensor,
        reconstructions: Tensor,
        posterior: DiagonalGaussianDistribution,
        split: str = "train",
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, dict to log under ``<split>/``) of images and reconstructions [B, 3, H, W] in [-1, 1]."""
        l1 = F.l1_loss(reconstructions, inputs)
        kl = posterior.kl().sum() / posterior.mean.numel()
        reconstruction = l1
        logs = {f"{split}/rec_loss": l1, f"{split}/kl_loss": kl}
        if self.perceptual is not None:
            distance = self.perceptual(inputs, reconstructions).mean()
            reconstruction = reconstruction + self.perceptual_weight * distance
            logs[f"{split}/perceptual_loss"] = distance
        loss = reconstruction * torch.exp(-self.logvar) + self.logvar + self.kl_weight * kl
        logs[f"{split}/total_loss"] = loss
        return loss, {name: value.detach() for name, value in logs.items()}
