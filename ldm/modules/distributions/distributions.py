"""The distribution that the autoencoder's encoder describes."""

import torch
from torch import Tensor


class DiagonalGaussianDistribution:
    """A Gaussian with a diagonal covariance over latents [B, C, h, w].

    `parameters` [B, 2C, h, w] holds the means, then the logarithms of the variances, which are clamped to
    [-30, 20]. With `deterministic` the variance is 0 and every sample is the mean.
    """

    def __init__(self, parameters: Tensor, deterministic: bool = False):
        self.parameters = parameters
        self.deterministic = deterministic
        self.mean, logvar = parameters.chunk(2, dim=1)
        self.logvar = logvar.clamp(-30.0, 20.0)
        self.std = torch.exp(0.5 * self.logvar)
        self.var = torch.exp(self.logvar)
        if deterministic:
            self.std = self.var = torch.zeros_like(self.mean)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A sample [B, C, h, w]. The noise is drawn on the CPU, so that a seed means the same everywhere."""
        noise = torch.randn(self.mean.shape, generator=generator)
        return self.mean + self.std * noise.to(self.mean)

    def mode(self) -> Tensor:
        """The mean [B, C, h, w]."""
        return self.mean

    def kl(self, other: "DiagonalGaussianDistribution | None" = None) -> Tensor:
        """KL(self || other) in nats per sample [B]; against the standard normal by default."""
        if self.deterministic:
            return self.mean.new_zeros(len(self.mean))
        if other is None:
            terms = self.mean**2 + self.var - 1.0 - self.logvar
        else:
            squared_distance = (self.mean - other.mean) ** 2
            terms = (squared_distance + self.var) / other.var - 1.0 - self.logvar + other.logvar
        return 0.5 * terms.sum(dim=(1, 2, 3))
