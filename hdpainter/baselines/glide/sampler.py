"""GLIDE's diffusion: respaced schedules, learned variances and a known region that is put back at every step.

The tables are computed in float64, the steps in float32.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from hdpainter.baselines.glide.timesteps import TIMESTEPS, spaced_timesteps
from ldm.modules.diffusionmodules.gaussian import Schedule
from ldm.modules.diffusionmodules.util import make_beta_schedule

# x_t [B, 3, H, W], t [B] of training, and the picture and mask of `denoise` -> eps and the variance's fraction v
# in -1..1, each like x_t.
Predict = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def cosine_betas() -> np.ndarray:
    """The base's variances beta_t, float64 [1000] (Nichol & Dhariwal, 2021)."""
    return make_beta_schedule("cosine", TIMESTEPS)


def linear_betas() -> np.ndarray:
    """The upsampler's variances beta_t, float64 [1000], linear in beta (Ho et al., 2020)."""
    return make_beta_schedule("sqrt_linear", TIMESTEPS, 1e-4, 0.02)


@dataclass(frozen=True, eq=False)
class Respaced:
    """A diffusion over some of another's timesteps: `timesteps` of it, and the schedule between them."""

    timesteps: tuple[int, ...]
    schedule: Schedule

    @classmethod
    def of(cls, betas: np.ndarray, respacing: str) -> "Respaced":
        """The diffusion with variances `betas` [T] over `spaced_timesteps(respacing)`.

        Its cumulative alphas are those of the whole one at the timesteps that are kept.
        """
        kept = spaced_timesteps(respacing, len(betas))
        alphas_cumprod = Schedule(betas).alphas_cumprod[kept]
        return cls(tuple(kept), Schedule(1 - alphas_cumprod / np.append(1.0, alphas_cumprod[:-1])))

    def __len__(self) -> int:
        return len(self.timesteps)

    @cached_property
    def tables(self) -> dict[str, np.ndarray]:
        """Those of `Schedule.tables` and `log_betas`, float64 [len(self)].

        The posterior's variance is zero at the first place; its logarithm there is the second's, as the networks
        were trained with.
        """
        tables = self.schedule.tables()
        posterior = tables["posterior_log_variance_clipped"]
        posterior[0] = posterior[min(1, len(self) - 1)]
        return tables | {"log_betas": np.log(tables["betas"])}


def denoise(
    x: Tensor,
    predict: Predict,
    diffusion: Respaced,
    image: Tensor,
    mask: Tensor,
    noise: Callable[[], Tensor],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Ancestral sampling from the noise x [B, 3, H, W]; yields (x_t, x_0 as predicted) after each step.

    image: the picture like x in -1..1, of which only what is known counts. mask: [B, 1, H, W], 1 = known. noise:
    draws standard normal noise like x, once after every step but the last.

    What is known is put into every predicted x_0 (and never into x_t). The last x_t is the last x_0, so it has
    the known pixels exactly.
    """
    tables = {
        name: torch.tensor(table, dtype=torch.float32).tolist() for name, table in diffusion.tables.items()
    }
    known = image * mask * mask
    for index in reversed(range(len(diffusion))):
        at = {name: table[index] for name, table in tables.items()}
        t = torch.full((len(x),), diffusion.timesteps[index], device=x.device)
        eps, fraction = predict(x, t, image, mask)
        x0 = at["sqrt_recip_alphas_cumprod"] * x - at["sqrt_recipm1_alphas_cumprod"] * eps
        x0 = (x0 * (1 - mask) + known).clamp(-1, 1)
        x = at["posterior_mean_coef1"] * x0 + at["posterior_mean_coef2"] * x
        if index:
            share = (fraction + 1) / 2
            log_variance = share * at["log_betas"] + (1 - share) * at["posterior_log_variance_clipped"]
            x = x + torch.exp(0.5 * log_variance) * noise()
        yield x, x0


def guide(output: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Classifier-free guidance of a network's output [2B, 6, H, W] for B prompts, then B times for none.

    Returns eps = eps_u + scale (eps_c - eps_u), and the variance's fraction of the prompts', each [B, 3, H, W].
    """
    eps, fraction = output.chunk(2, dim=1)
    with_prompt, without = eps.chunk(2)
    return without + scale * (with_prompt - without), fraction.chunk(2)[0]


def to_8_bits(x: Tensor) -> Tensor:
    """A picture in -1..1 rounded to the 256 levels of a file, as the upsampler is given it."""
    return ((x + 1) * 127.5).round() / 127.5 - 1
