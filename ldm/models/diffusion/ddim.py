"""DDIM sampling (Song et al., 2021): the general backward process of Eq. 3, and Eq. 4 as its case eta = 0."""

from collections.abc import Callable, Mapping, Sequence
from math import sqrt
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ldm.models.diffusion.base import DDPM, Conditioning
from ldm.modules.diffusionmodules.util import make_ddim_sampling_parameters, make_ddim_timesteps
from ldm.util import UserError

Generators = torch.Generator | Sequence[torch.Generator] | None


def draw_noise(
    shape: Sequence[int], generator: Generators = None, device: torch.device | str = "cpu"
) -> Tensor:
    """Standard normal noise of `shape`, drawn on the CPU so that a seed means the same on every device.

    `generator`: None for the global one, one CPU generator for the whole batch, or a list with one for each
    image, which makes an image's noise independent of the batch it is in.
    """
    if not isinstance(generator, Sequence):
        return torch.randn(tuple(shape), generator=generator).to(device)
    if len(generator) != shape[0]:
        raise UserError(f"{len(generator)} generators for a batch of {shape[0]}; give one for each image")
    return torch.stack([torch.randn(tuple(shape[1:]), generator=g) for g in generator]).to(device)


def join_conditioning(unconditional: Any, conditional: Any) -> Any:
    """The conditioning of a batch [uncond | cond]: tensors are concatenated, lists and dicts item by item."""
    if isinstance(conditional, Tensor):
        return torch.cat([unconditional, conditional])
    if isinstance(conditional, Mapping):
        if set(unconditional) != set(conditional):
            names = f"{sorted(unconditional)} and {sorted(conditional)}"
            raise UserError(f"unconditional and conditional conditioning have different keys: {names}")
        return {key: join_conditioning(unconditional[key], value) for key, value in conditional.items()}
    return [join_conditioning(u, c) for u, c in zip(unconditional, conditional, strict=True)]


def conditioning_batch_size(conditioning: Conditioning) -> int:
    """The number of images that a conditioning is for."""
    while not isinstance(conditioning, Tensor):
        conditioning = (
            next(iter(conditioning.values())) if isinstance(conditioning, Mapping) else conditioning[0]
        )
    return len(conditioning)


class DDIMSampler:
    """Samples latents from a LatentDiffusion; SD2's interface.

    A subclass can replace any part of a step: `predict_eps` (network and classifier-free guidance), `predict_x0`,
    `step` (Eq. 3), `p_sample_ddim` (all of one step) or the tables that `make_schedule` sets:

    ddim_timesteps: int array, ascending; ``index`` counts along it and sampling goes from its end to its start.
    ddim_alphas, ddim_alphas_prev: abar at each step and at the one it leads to, float64.
    ddim_sigmas: σ of Eq. 3, float64.
    """

    def __init__(self, model: DDPM, schedule: str = "linear", device: torch.device | str | None = None):
        """`schedule` and `device` are accepted for SD2's callers; the betas and the device are the model's."""
        self.model = model

    def make_schedule(
        self,
        ddim_num_steps: int,
        ddim_discretize: str = "uniform",
        ddim_eta: float = 0.0,
        verbose: bool = False,
    ) -> None:
        """Set the tables for `ddim_num_steps` steps.

        ddim_discretize: the timesteps visited, for 50 of 1000
            `uniform`: 1, 21, ..., 981 (SD2's grid; the last step leads to abar_0);
            `quad`: quadratically spaced;
            `descend`: 19, 39, ..., 999 (the grid of HD-Painter's release; the last step gives x_0 itself).
            If `ddim_num_steps` does not divide the number of timesteps, a grid can have some steps more.
        ddim_eta: σ as a share of DDPM's, in [0, 1].
        """
        if ddim_eta < 0:
            raise UserError(f"eta must not be negative, got {ddim_eta}")
        total = self.model.num_timesteps
        if ddim_discretize == "descend":
            if not 1 <= ddim_num_steps <= total:
                raise UserError(f"steps: {ddim_num_steps} is not between 1 and {total}")
            self.ddim_timesteps = np.arange(total - 1, 0, -(total // ddim_num_steps))[::-1]
        else:
            self.ddim_timesteps = make_ddim_timesteps(ddim_discretize, ddim_num_steps, total, verbose)
        alphas_cumprod = self.model.schedule.alphas_cumprod
        sigmas, alphas, alphas_prev = make_ddim_sampling_parameters(
            alphas_cumprod, self.ddim_timesteps, ddim_eta, verbose
        )
        if ddim_discretize == "descend":
            alphas_prev[0], sigmas[0] = 1.0, 0.0  # no noise is left after the last step
        self.ddim_alphas, self.ddim_alphas_prev, self.ddim_sigmas = alphas, alphas_prev, sigmas
        self.ddim_sqrt_one_minus_alphas = np.sqrt(1.0 - alphas)

    @torch.no_grad()
    def sample(
        self,
        S: int,
        batch_size: int,
        shape: Sequence[int],
        conditioning: Conditioning | None = None,
        callback: Callable[[int], None] | None = None,
        normals_sequence: None = None,
        img_callback: Callable[[Tensor, int], None] | None = None,
        quantize_x0: bool = False,
        eta: float = 0.0,
        mask: Tensor | None = None,
        x0: Tensor | None = None,
        temperature: float = 1.0,
        noise_dropout: float = 0.0,
        score_corrector: Any = None,
        corrector_kwargs: Mapping[str, Any] | None = None,
        verbose: bool = True,
        x_T: Tensor | None = None,
        log_every_t: int = 100,
        unconditional_guidance_scale: float = 1.0,
        unconditional_conditioning: Conditioning | None = None,
        dynamic_threshold: None = None,
        ucg_schedule: Sequence[float] | None = None,
        generator: Generators = None,
        ddim_discretize: str = "uniform",
        **step_options: Any,
    ) -> tuple[Tensor, dict[str, list[Tensor]]]:
        """Sample `batch_size` latents of `shape` (C, H, W) in `S` steps.

        conditioning, unconditional_conditioning: what the model's ``apply_model`` takes, for the whole batch.
        callback(i), img_callback(pred_x0, i): called after step i = 0, 1, ...
        eta: see `make_schedule`. ddim_discretize: the timestep grid.
        mask, x0: before each step, latents are replaced by x0 noised to that step where mask is 1.
        temperature, noise_dropout: scale of the noise of Eq. 3, and dropout applied to it.
        score_corrector: object with ``modify_score(model, e_t, x, t, c, **corrector_kwargs)``; eps models only.
        x_T: the starting latents [B, C, H, W]; drawn from `generator` if None.
        log_every_t: keep every so many-th latent and prediction in the intermediates.
        unconditional_guidance_scale: 1, or unconditional_conditioning None, means no guidance.
        ucg_schedule: a guidance scale for each step, in place of the constant one.
        generator: source of all noise, see `draw_noise`.
        step_options: passed on to `p_sample_ddim`, for subclasses that take more.

        Returns the latents [B, C, H, W] and ``{"x_inter": [x_T, ...], "pred_x0": [x_T, ...]}``.
        Raises UserError for the options of SD2's signature that need a VQ model or that it never had:
        `quantize_x0`, `normals_sequence` and `dynamic_threshold`; and for an eta so large that
        σ_t² > 1 - α_{t-1} at some step.
        """
        for name, value in {
            "quantize_x0": quantize_x0 or None,
            "normals_sequence": normals_sequence,
            "dynamic_threshold": dynamic_threshold,
        }.items():
            if value is not None:
                raise UserError(f"DDIMSampler.sample: {name} is not supported")
        for given in (conditioning, unconditional_conditioning):
            if given is not None and (found := conditioning_batch_size(given)) != batch_size:
                raise UserError(f"a conditioning is for {found} images, but the batch size is {batch_size}")

        self.make_schedule(S, ddim_discretize, eta)
        return self.ddim_sampling(
            conditioning,
            (batch_size, *shape),
            x_T=x_T,
            callback=callback,
            img_callback=img_callback,
            mask=mask,
            x0=x0,
            log_every_t=log_every_t,
            ucg_schedule=ucg_schedule,
            verbose=verbose,
            generator=generator,
            temperature=temperature,
            noise_dropout=noise_dropout,
            score_corrector=score_corrector,
            corrector_kwargs=corrector_kwargs,
            unconditional_guidance_scale=unconditional_guidance_scale,
            unconditional_conditioning=unconditional_conditioning,
            **step_options,
        )

    @torch.no_grad()
    def ddim_sampling(
        self,
        cond: Conditioning | None,
        shape: Sequence[int],
        x_T: Tensor | None = None,
        callback: Callable[[int], None] | None = None,
        timesteps: int | None = None,
        mask: Tensor | None = None,
        x0: Tensor | None = None,
        img_callback: Callable[[Tensor, int], None] | None = None,
        log_every_t: int = 100,
        unconditional_guidance_scale: float = 1.0,
        ucg_schedule: Sequence[float] | None = None,
        verbose: bool = False,
        generator: Generators = None,
        **step_options: Any,
    ) -> tuple[Tensor, dict[str, list[Tensor]]]:
        """The loop over the steps of `make_schedule`, or over the last `timesteps` of them; see `sample`.

        `shape` is (B, C, H, W); `step_options` go to `p_sample_ddim`.
        """
        device = self.model.device
        steps = self.ddim_timesteps[:timesteps]
        undefined = np.flatnonzero(self._direction_variances[:timesteps] < 0)
        if len(undefined):
            raise self._too_large_an_eta(undefined[-1])
        if (mask is None) != (x0 is None):
            raise UserError("mask and x0 belong together: give both or neither")
        if ucg_schedule is not None and len(ucg_schedule) != len(steps):
            raise UserError(f"ucg_schedule has {len(ucg_schedule)} scales for {len(steps)} steps")

        x = draw_noise(shape, generator, device) if x_T is None else x_T.to(device)
        intermediates = {"x_inter": [x], "pred_x0": [x]}
        for i in tqdm(range(len(steps)), desc="DDIM", disable=not verbose):
            index = len(steps) - 1 - i
            t = torch.full((len(x),), int(steps[index]), device=device, dtype=torch.long)
            if mask is not None and x0 is not None:
                known = self.model.q_sample(x0, t, draw_noise(x0.shape, generator, device))
                x = known * mask + (1.0 - mask) * x
            scale = unconditional_guidance_scale if ucg_schedule is None else ucg_schedule[i]
            x, pred_x0 = self.p_sample_ddim(
                x,
                cond,
                t,
                index,
                unconditional_guidance_scale=scale,
                generator=generator,
                **step_options,
            )
            if callback:
                callback(i)
            if img_callback:
                img_callback(pred_x0, i)
            if index % log_every_t == 0 or i == 0:
                intermediates["x_inter"].append(x)
                intermediates["pred_x0"].append(pred_x0)
        return x, intermediates

    @torch.no_grad()
    def p_sample_ddim(
        self,
        x: Tensor,
        c: Conditioning | None,
        t: Tensor,
        index: int,
        unconditional_guidance_scale: float = 1.0,
        unconditional_conditioning: Conditioning | None = None,
        temperature: float = 1.0,
        noise_dropout: float = 0.0,
        score_corrector: Any = None,
        corrector_kwargs: Mapping[str, Any] | None = None,
        generator: Generators = None,
    ) -> tuple[Tensor, Tensor]:
        """One step from x_t, `x` [B, C, H, W], at the timesteps `t` [B]: (x_{t-1}, predicted x_0)."""
        e_t, output = self.predict_eps(x, c, t, unconditional_guidance_scale, unconditional_conditioning)
        if score_corrector is not None:
            if self.model.parameterization != "eps":
                raise UserError("a score_corrector needs a model with parameterization 'eps'")
            e_t = score_corrector.modify_score(self.model, e_t, x, t, c, **(corrector_kwargs or {}))
        pred_x0 = self.predict_x0(x, t, e_t, output)
        # Drawn also where σ = 0, so that the random sequence does not depend on eta.
        noise = temperature * draw_noise(x.shape, generator, x.device)
        if noise_dropout > 0:
            noise = F.dropout(noise, p=noise_dropout)
        return self.step(e_t, pred_x0, index, noise), pred_x0

    def predict_eps(
        self, x: Tensor, c: Conditioning | None, t: Tensor, scale: float = 1.0, uc: Conditioning | None = None
    ) -> tuple[Tensor, Tensor]:
        """(eps_t, the network's output it comes from), both with classifier-free guidance.

        Guidance with `scale` is output = uncond + scale (cond - uncond), from one batch [uncond | cond]. The
        output is in the model's parameterization, eps, v or x_0.
        """
        if uc is None or scale == 1.0:
            output = self.model.apply_model(x, t, c).to(x.dtype)
        else:
            both = self.model.apply_model(torch.cat([x, x]), torch.cat([t, t]), join_conditioning(uc, c))
            uncond, cond = both.to(x.dtype).chunk(2)
            output = uncond + scale * (cond - uncond)
        return self.model.to_eps(x, t, output), output

    def predict_x0(self, x: Tensor, t: Tensor, e_t: Tensor, output: Tensor) -> Tensor:
        """x_0^pred, from eps_t, or for other parameterizations directly from the network's output."""
        if self.model.parameterization == "eps":
            return self.model.predict_start_from_noise(x, t, e_t)
        return self.model.to_x0(x, t, output)

    def step(self, e_t: Tensor, pred_x0: Tensor, index: int, noise: Tensor) -> Tensor:
        """Eq. 3: x_{t-1} = sqrt(α_{t-1}) x_0^pred + sqrt(1 - α_{t-1} - σ_t²) eps_t + σ_t noise.

        Raises UserError where σ_t² > 1 - α_{t-1}, for which the process is not defined.
        """
        alpha_prev, sigma = float(self.ddim_alphas_prev[index]), float(self.ddim_sigmas[index])
        direction = float(self._direction_variances[index])
        if direction < 0:
            raise self._too_large_an_eta(index)
        return sqrt(alpha_prev) * pred_x0 + sqrt(direction) * e_t + sigma * noise

    @property
    def _direction_variances(self) -> np.ndarray:
        """1 - α_{t-1} - σ_t² of each step; where it is negative, the process is not defined."""
        return 1.0 - self.ddim_alphas_prev - self.ddim_sigmas**2

    def _too_large_an_eta(self, index: int) -> UserError:
        t, sigma = self.ddim_timesteps[index], self.ddim_sigmas[index]
        return UserError(f"eta is too large: σ = {sigma:.3f} exceeds sqrt(1 - α) at timestep {t}")

    @torch.no_grad()
    def encode(
        self,
        x0: Tensor,
        c: Conditioning | None,
        t_enc: int,
        unconditional_guidance_scale: float = 1.0,
        unconditional_conditioning: Conditioning | None = None,
        callback: Callable[[int], None] | None = None,
        return_intermediates: int | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """DDIM inversion: run the deterministic process (Eq. 4) backwards over the first `t_enc` steps.

        Returns the noised latents and ``{"x_encoded", "intermediate_steps"[, "intermediates"]}``, where
        `return_intermediates` is how many latents on the way to keep. `decode` with ``t_start=t_enc`` leads back.
        Call `make_schedule` first.
        """
        if not 1 <= t_enc <= len(self.ddim_timesteps):
            raise UserError(f"t_enc must lie in 1 ... {len(self.ddim_timesteps)}, got {t_enc}")
        current = np.append(0, self.ddim_timesteps[: t_enc - 1])  # x starts at the level of t = 0
        keep_every = max(t_enc // return_intermediates, 1) if return_intermediates else t_enc + 1
        x, kept, kept_steps = x0, [], []
        for i in range(t_enc):
            t = torch.full((len(x),), int(current[i]), device=x.device, dtype=torch.long)
            e_t, output = self.predict_eps(x, c, t, unconditional_guidance_scale, unconditional_conditioning)
            pred_x0 = self.predict_x0(x, t, e_t, output)
            alpha = float(self.ddim_alphas[i])
            x = sqrt(alpha) * pred_x0 + sqrt(1.0 - alpha) * e_t
            if (i + 1) % keep_every == 0:
                kept.append(x)
                kept_steps.append(i)
            if callback:
                callback(i)
        out = {"x_encoded": x, "intermediate_steps": kept_steps}
        return x, {**out, "intermediates": kept} if return_intermediates else out

    @torch.no_grad()
    def stochastic_encode(
        self, x0: Tensor, t: Tensor, use_original_steps: bool = False, noise: Tensor | None = None
    ) -> Tensor:
        """x_t ~ q(x_t | x_0), where `t` [B] indexes the DDIM steps, or with `use_original_steps` the model's."""
        steps = t if use_original_steps else torch.as_tensor(self.ddim_timesteps.copy(), device=t.device)[t]
        noise = draw_noise(x0.shape, device=x0.device) if noise is None else noise
        return self.model.q_sample(x0, steps, noise)

    def decode(
        self,
        x_latent: Tensor,
        cond: Conditioning | None,
        t_start: int,
        unconditional_guidance_scale: float = 1.0,
        unconditional_conditioning: Conditioning | None = None,
        callback: Callable[[int], None] | None = None,
        **options: Any,
    ) -> Tensor:
        """Denoise latents at the level of DDIM step number `t_start`; `options` as for `ddim_sampling`."""
        samples, _ = self.ddim_sampling(
            cond,
            x_latent.shape,
            x_T=x_latent,
            timesteps=t_start,
            callback=callback,
            unconditional_guidance_scale=unconditional_guidance_scale,
            unconditional_conditioning=unconditional_conditioning,
            **options,
        )
        return samples
