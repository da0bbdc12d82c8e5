"""The Gaussian diffusion process: its noise schedule and the conversions between x_0, eps, v and x_t.

With abar_t = prod_{i<=t} (1 - beta_i) (the paper's α_t, SD2's ``alphas_cumprod``)
    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps,      v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from ldm.modules.diffusionmodules.util import extract_into_tensor
from ldm.util import UserError, shown

Parameterization = Literal["eps", "v", "x0"]


@dataclass(frozen=True, eq=False)
class Schedule:
    """Tables of the forward process in float64, each [T], index t = 0 the least noisy.

    Float64 because abar_T is small (0.0047 in Stable Diffusion, 0.00004 in its x4 upscaler) and samplers divide
    by its root; numpy because the values must exist also while a model's tensors are on the meta device or in
    half precision.
    """

    betas: np.ndarray
    v_posterior: float = 0.0
    """Weight of beta_t in the posterior's variance; the rest is that of the exact posterior."""

    @property
    def alphas_cumprod(self) -> np.ndarray:
        """abar_t."""
        return np.cumprod(1.0 - self.betas)

    @property
    def alphas_cumprod_prev(self) -> np.ndarray:
        """abar_{t-1}, with abar_{-1} = 1: clean data."""
        return np.append(1.0, self.alphas_cumprod[:-1])

    def tables(self) -> dict[str, np.ndarray]:
        """Every table that a checkpoint of Stable Diffusion stores, by name."""
        betas, alphas_cumprod, prev = self.betas, self.alphas_cumprod, self.alphas_cumprod_prev
        v_posterior = self.v_posterior
        # q(x_{t-1} | x_t, x_0): DDPM, Eqs. 6 and 7.
        posterior_variance = (1 - v_posterior) * betas * (1 - prev) / (
            1 - alphas_cumprod
        ) + v_posterior * betas
        return {
            "betas": betas,
            "alphas_cumprod": alphas_cumprod,
            "alphas_cumprod_prev": prev,
            "sqrt_alphas_cumprod": np.sqrt(alphas_cumprod),
            "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - alphas_cumprod),
            "log_one_minus_alphas_cumprod": np.log(1 - alphas_cumprod),
            "sqrt_recip_alphas_cumprod": np.sqrt(1 / alphas_cumprod),
            "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / alphas_cumprod - 1),
            "posterior_variance": posterior_variance,
            "posterior_log_variance_clipped": np.log(np.maximum(posterior_variance, 1e-20)),
            "posterior_mean_coef1": betas * np.sqrt(prev) / (1 - alphas_cumprod),
            "posterior_mean_coef2": (1 - prev) * np.sqrt(1 - betas) / (1 - alphas_cumprod),
        }


class GaussianDiffusion(nn.Module):
    """A module with a noise schedule: mixin of the diffusion models.

    The tables are float32 buffers under SD2's names. They are computed on the CPU even within
    ``torch.device("meta")``, so a model built there needs only its weights loaded, and they stay float32 when
    the module is cast to half precision.

    Shapes: z, x_start, noise, v and model outputs [B, C, H, W]; t [B] integers in [0, num_timesteps).
    """

    parameterization: Parameterization = "eps"
    betas: Tensor
    sqrt_alphas_cumprod: Tensor
    sqrt_one_minus_alphas_cumprod: Tensor
    posterior_variance: Tensor
    posterior_log_variance_clipped: Tensor

    def register_schedule(self, schedule: Schedule) -> None:
        """Set `schedule`, `num_timesteps` and the buffers."""
        self.schedule = schedule
        self.num_timesteps = len(schedule.betas)
        for name, table in schedule.tables().items():
            self.register_buffer(name, torch.tensor(table, dtype=torch.float32, device="cpu"))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        module = super()._apply(fn, recurse)
        if hasattr(self, "schedule") and self.betas.dtype != torch.float32:
            device = self.betas.device
            self.register_schedule(self.schedule)
            for name in self.schedule.tables():
                setattr(self, name, getattr(self, name).to(device))
        return module

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor | None = None) -> Tensor:
        """x_t ~ q(x_t | x_0), Eq. 1 in closed form."""
        noise = torch.randn_like(x_start) if noise is None else noise
        return self._mix("sqrt_alphas_cumprod", x_start, "sqrt_one_minus_alphas_cumprod", noise, t)

    def get_v(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """v = sqrt(abar) eps - sqrt(1 - abar) x_0, where x is x_0."""
        return self._mix("sqrt_alphas_cumprod", noise, "sqrt_one_minus_alphas_cumprod", -x, t)

    def predict_start_from_noise(self, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_0 = (x_t - sqrt(1 - abar) eps) / sqrt(abar)."""
        return self._mix("sqrt_recip_alphas_cumprod", x_t, "sqrt_recipm1_alphas_cumprod", -noise, t)

    def predict_start_from_z_and_v(self, x_t: Tensor, t: Tensor, v: Tensor) -> Tensor:
        """x_0 = sqrt(abar) x_t - sqrt(1 - abar) v."""
        return self._mix("sqrt_alphas_cumprod", x_t, "sqrt_one_minus_alphas_cumprod", -v, t)

    def predict_eps_from_z_and_v(self, x_t: Tensor, t: Tensor, v: Tensor) -> Tensor:
        """eps = sqrt(abar) v + sqrt(1 - abar) x_t."""
        return self._mix("sqrt_alphas_cumprod", v, "sqrt_one_minus_alphas_cumprod", x_t, t)

    def predict_eps_from_start(self, x_t: Tensor, t: Tensor, x_start: Tensor) -> Tensor:
        """eps = (x_t - sqrt(abar) x_0) / sqrt(1 - abar)."""
        shape = x_t.shape
        scaled = x_t - extract_into_tensor(self.sqrt_alphas_cumprod, t, shape) * x_start
        return scaled / extract_into_tensor(self.sqrt_one_minus_alphas_cumprod, t, shape)

    def to_eps(self, x_t: Tensor, t: Tensor, output: Tensor) -> Tensor:
        """eps from the network's output, whatever its parameterization."""
        match self.parameterization:
            case "eps":
                return output
            case "v":
                return self.predict_eps_from_z_and_v(x_t, t, output)
        return self.predict_eps_from_start(x_t, t, output)

    def to_x0(self, x_t: Tensor, t: Tensor, output: Tensor) -> Tensor:
        """x_0 from the network's output, whatever its parameterization."""
        match self.parameterization:
            case "eps":
                return self.predict_start_from_noise(x_t, t, output)
            case "v":
                return self.predict_start_from_z_and_v(x_t, t, output)
        return output

    def target(self, x_start: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network is trained to predict: eps, v or x_0."""
        match self.parameterization:
            case "eps":
                return noise
            case "v":
                return self.get_v(x_start, noise, t)
        return x_start

    def q_posterior(self, x_start: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and clipped log variance of q(x_{t-1} | x_t, x_0) (DDPM, Eqs. 6 and 7)."""
        mean = self._mix("posterior_mean_coef1", x_start, "posterior_mean_coef2", x_t, t)
        variance = extract_into_tensor(self.posterior_variance, t, x_t.shape)
        return mean, variance, extract_into_tensor(self.posterior_log_variance_clipped, t, x_t.shape)

    def _mix(self, name_a: str, a: Tensor, name_b: str, b: Tensor, t: Tensor) -> Tensor:
        """table_a[t] a + table_b[t] b."""
        table_a, table_b = getattr(self, name_a), getattr(self, name_b)
        return extract_into_tensor(table_a, t, a.shape) * a + extract_into_tensor(table_b, t, b.shape) * b


def check_parameterization(value: str) -> Parameterization:
    """`value` if it is a parameterization; otherwise UserError."""
    for known in get_args(Parameterization):
        if value == known:
            return known
    raise UserError(f"parameterization must be 'eps', 'v' or 'x0', not {shown(value)}")
