"""Noise schedules, the timestep embedding and the small building blocks of the networks."""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from ldm.util import UserError, shown

# --- noise schedules -------------------------------------------------------------------------------------
# Tables are computed in float64: alphas_cumprod is a product of a thousand factors, and 1 - alphas_cumprod
# loses all its digits in float32 near t = 0.


def make_beta_schedule(
    schedule: str,
    n_timestep: int,
    linear_start: float = 1e-4,
    linear_end: float = 2e-2,
    cosine_s: float = 8e-3,
) -> np.ndarray:
    """The variances beta_t of the forward process, float64 [n_timestep].

    `linear` is Stable Diffusion's: linear in sqrt(beta) from sqrt(linear_start) to sqrt(linear_end);
    `sqrt_linear` is linear in beta, `sqrt` its square root; `cosine` is Nichol & Dhariwal's, with offset
    `cosine_s` and beta at most 0.999. Raises UserError for another name.
    """
    if schedule == "linear":
        return np.linspace(linear_start**0.5, linear_end**0.5, n_timestep) ** 2
    if schedule == "sqrt_linear":
        return np.linspace(linear_start, linear_end, n_timestep)
    if schedule == "sqrt":
        return np.linspace(linear_start, linear_end, n_timestep) ** 0.5
    if schedule == "cosine":
        t = np.arange(n_timestep + 1) / n_timestep
        alphas_cumprod = np.cos((t + cosine_s) / (1 + cosine_s) * np.pi / 2) ** 2
        return np.clip(1 - alphas_cumprod[1:] / alphas_cumprod[:-1], 0, 0.999)
    raise UserError(f"beta_schedule: {shown(schedule)} is not one of linear, sqrt_linear, sqrt, cosine")


def make_ddim_timesteps(
    ddim_discr_method: str, num_ddim_timesteps: int, num_ddpm_timesteps: int, verbose: bool = False
) -> np.ndarray:
    """The subsequence of 0 ... num_ddpm_timesteps - 1 that DDIM visits, ascending, int64.

    `uniform` takes every (num_ddpm_timesteps // num_ddim_timesteps)-th step, so the result can be longer than
    asked for (7 of 1000 gives 8); `quad` is denser near 0. Both are then shifted by one, as in the original,
    unless that runs past the end of the tables. Raises UserError if more steps are asked for than there are,
    or for another method.
    """
    if not 1 <= num_ddim_timesteps <= num_ddpm_timesteps:
        raise UserError(f"steps: {num_ddim_timesteps} is not between 1 and {num_ddpm_timesteps}")
    if ddim_discr_method == "uniform":
        steps = np.arange(0, num_ddpm_timesteps, num_ddpm_timesteps // num_ddim_timesteps)
    elif ddim_discr_method == "quad":
        last = math.sqrt(num_ddpm_timesteps * 0.8)
        steps = (np.linspace(0, last, num_ddim_timesteps) ** 2).astype(np.int64)
    else:
        raise UserError(f"ddim_discretize: {shown(ddim_discr_method)} is not one of uniform, quad")
    if steps[-1] + 1 < num_ddpm_timesteps:
        steps = steps + 1
    if verbose:
        print(f"DDIM timesteps: {steps}")
    return steps


def make_ddim_sampling_parameters(
    alphacums: np.ndarray, ddim_timesteps: np.ndarray, eta: float, verbose: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(sigmas, alphas, alphas_prev) of the DDIM steps, each like `ddim_timesteps`.

    sigma = eta sqrt((1 - a_prev) / (1 - a)) sqrt(1 - a / a_prev), Eq. 16 of Song et al., with cumulative
    alphas a; the step before the first is t = 0.
    """
    alphas = alphacums[ddim_timesteps]
    alphas_prev = np.concatenate([alphacums[:1], alphacums[ddim_timesteps[:-1]]])
    sigmas = eta * np.sqrt((1 - alphas_prev) / (1 - alphas) * (1 - alphas / alphas_prev))
    if verbose:
        print(f"DDIM with eta {eta}: alphas {alphas}, alphas_prev {alphas_prev}, sigmas {sigmas}")
    return sigmas, alphas, alphas_prev


def extract_into_tensor(a: Tensor, t: Tensor, x_shape: tuple[int, ...]) -> Tensor:
    """a[t] of a table a [T] at steps t [B], shaped [B, 1, ..., 1] to multiply a tensor of `x_shape`."""
    return a[t].reshape(len(t), *(1,) * (len(x_shape) - 1))


# --- building blocks -------------------------------------------------------------------------------------


def timestep_embedding(timesteps: Tensor, dim: int, max_period: int = 10000) -> Tensor:
    """Sinusoidal embedding of timesteps [B] (integer or fractional) as fp32 [B, dim]: cosines, then sines.

    The frequencies run geometrically from 1 down to 1 / max_period; an odd `dim` gets a zero column.
    """
    half = dim // 2
    freqs = torch.exp(-math.log(max_period) / half * torch.arange(half, device=timesteps.device))
    angles = timesteps[:, None].float() * freqs
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=-1), (0, dim % 2))


class GroupNorm32(nn.GroupNorm):
    """GroupNorm whose statistics are right in every dtype and memory format.

    Torch's kernels accumulate in fp32 whatever the dtype of the input, so half input with half weights needs
    no fp32 copy; input of another dtype than the weights is normalised in theirs. On the CPU the input is
    made contiguous: the kernel for channels_last loses precision on flat areas, in half precision too.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu":
            x = x.contiguous()
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


def normalization(channels: int, num_groups: int = 32) -> GroupNorm32:
    """The UNet's normalisation layer (epsilon 1e-5; the autoencoder and the transformers use 1e-6)."""
    return GroupNorm32(num_groups, channels)


def zero_module(module: nn.Module) -> nn.Module:
    """The module with all its parameters set to zero: a residual branch that starts as the identity."""
    for p in module.parameters():
        nn.init.zeros_(p)
    return module


def checkpoint(function: Callable[..., Tensor], *inputs: Tensor | None, enabled: bool) -> Tensor:
    """function(*inputs); if enabled, its activations are recomputed in the backward pass, not kept."""
    if enabled and torch.is_grad_enabled():
        return torch_checkpoint(function, *inputs, use_reentrant=False)
    return function(*inputs)
