"""Reweighting Attention Score Guidance (section 3.4 of the paper).

S(x_t) says how badly the prompt's cross-attention scores fit the mask (Eq. 9). Vanilla guidance adds its gradient
to eps (Eq. 6) and drives x_{t-1} out of the domain that the model was trained on. RASG uses the general DDIM
update (Eq. 3) and puts the gradient, scaled to unit variance, in the place of the noise (Eq. 7), so that
x_{t-1} stays in the domain while its sampling is steered.

The sign: the paper defines S as a cross entropy to be minimised, yet Eq. 7 adds its gradient. Added, it would
lower the attention inside the mask. Here the noise is minus the gradient, so that a step lowers S; the authors'
release does the same by negating S.

The gradient needs little of the UNet. S depends on the conditional half only, and on the blocks up to the last
cross-attention it reads; the rest runs without a graph, and no weight needs a gradient.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hdpainter.levels import mask_pyramid, token_weights
from hdpainter.objectives import objective
from hdpainter.painta import PAIntA
from hdpainter.settings import RASGSettings
from ldm.models.diffusion.base import DDPM, Conditioning
from ldm.models.diffusion.ddim import DDIMSampler, Generators
from ldm.modules.attention import CrossAttention
from ldm.modules.diffusionmodules.openaimodel import UNetModel, UNetState
from ldm.util import UserError

# The score is multiplied by this before the backward pass and its gradient divided by it afterwards: exact (a
# power of two), and half-precision gradients do not underflow.
GRADIENT_SCALE = 2.0**10


class CrossAttentionScores:
    """Context manager that collects the pre-softmax scores A_cross of chosen levels, averaged over heads.

    The mean over heads of q_h . k_h is one product of the concatenated heads, so each layer costs one small
    matmul and keeps its fused attention. `stop` is the stage of the UNet behind the last layer it reads.
    """

    def __init__(self, unet: UNetModel, levels: Iterable[int]):
        blocks = unet.transformer_blocks(levels)
        self.layers: list[tuple[int, CrossAttention]] = [(factor, block.attn2) for _, factor, block in blocks]
        self.stop = max(stage for stage, _, _ in blocks) + 1
        self._scores: dict[int, list[Tensor]] = {}

    def __enter__(self) -> "CrossAttentionScores":
        for factor, layer in self.layers:
            layer.attend = partial(self._attend, factor, layer)  # type: ignore[method-assign]  # patched
        return self

    def __exit__(self, *exc: object) -> None:
        for _, layer in self.layers:
            del layer.attend
        self._scores.clear()

    def _attend(self, factor: int, layer: CrossAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q.float() @ k.float().mT * (layer.scale / layer.heads)
        self._scores.setdefault(factor, []).append(scores)
        return type(layer).attend(layer, q, k, v)

    def mean(self) -> dict[int, Tensor]:
        """Eq. 8 for every token: the mean over a level's layers, {level: [B, pixels, tokens]}; starts anew."""
        means = {factor: torch.stack(scores).mean(0) for factor, scores in self._scores.items()}
        self._scores.clear()
        return means


def standardize(gradient: Tensor, center: bool = False) -> Tensor:
    """gradient / std(gradient), the std of each image over all its values (section 3.4).

    The mean is kept, as in the paper; with `center` it is taken off first. An image whose gradient is constant
    (nothing to steer by) gets zeros; one that is not finite stays so.
    """
    shape = (-1, *[1] * (gradient.ndim - 1))
    std = gradient.flatten(1).std(dim=1).view(shape)
    if center:
        gradient = gradient - gradient.flatten(1).mean(dim=1).view(shape)
    return torch.where(std == 0, 0.0, gradient / std)


class RASGSampler(DDIMSampler):
    """DDIMSampler with the guidance of section 3.4.

    Works together with an active PAIntA on the same UNet. After each step `score` holds S(x_t) of each image [B]
    and `gradient` its gradient [B, C, h, w], for callbacks that follow the guidance.

    Args:
        model: a LatentDiffusion.
        levels: downsampling factors of the latent whose cross-attention scores make up S.
        settings: the variant; the paper's by default.
    """

    score: Tensor
    gradient: Tensor

    def __init__(self, model: DDPM, levels: Iterable[int] = (4,), settings: RASGSettings | None = None):
        super().__init__(model)
        self.levels = tuple(levels)
        self.settings = settings or RASGSettings()

    def sample(  # type: ignore[override]  # its masks and indices are no options
        self,
        S: int,
        batch_size: int,
        shape: Sequence[int],
        conditioning: Conditioning | None = None,
        *,
        mask: Tensor | Mapping[int, Tensor],
        token_indices: Sequence[Iterable[int]],
        known: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, dict[str, list[Tensor]]]:
        """DDIMSampler.sample's arguments and two more; its own `mask`, which goes with `x0`, is called `known`.

        mask: [B, 1, h, w] at latent size, 1 = fill, or a mapping from level to mask at that level's size.
        token_indices: ind(τ) for each image.
        known: [B, 1, h, w], 1 where x0 is put back, noised, before each step. S and its gradient are those of the
            x_t which this has made; the gradient is with respect to all of it, and standardised as a whole.
        """
        target = mask_pyramid(mask, self.levels)
        if len(token_indices) != batch_size or any(len(level) != batch_size for level in target.values()):
            raise UserError(f"a batch of {batch_size} needs as many masks and lists of token indices")
        return super().sample(
            S,
            batch_size,
            shape,
            conditioning,
            mask=known,
            target=target,
            token_indices=token_indices,
            **options,
        )

    def make_schedule(
        self,
        ddim_num_steps: int,
        ddim_discretize: str = "uniform",
        ddim_eta: float = 0.0,
        verbose: bool = False,
    ) -> None:
        super().make_schedule(ddim_num_steps, ddim_discretize, ddim_eta, verbose)
        if self.settings.sigma == "per_step":
            # The release's formula: the alphas of single steps where DDIM has their cumulative products.
            alphas = 1.0 - self.model.schedule.betas
            a, a_prev = alphas[self.ddim_timesteps], alphas[np.append(0, self.ddim_timesteps[:-1])]
            sigmas = ddim_eta * np.sqrt((1 - a_prev) / (1 - a) * (1 - a / a_prev))
            self.ddim_sigmas = np.where(self.ddim_alphas_prev == 1.0, 0.0, sigmas)

    @torch.no_grad()
    def p_sample_ddim(  # type: ignore[override]  # as for `sample`
        self,
        x: Tensor,
        c: Conditioning | None,
        t: Tensor,
        index: int,
        unconditional_guidance_scale: float = 1.0,
        unconditional_conditioning: Conditioning | None = None,
        *,
        target: Mapping[int, Tensor],
        token_indices: Sequence[Iterable[int]],
        temperature: float = 1.0,
        noise_dropout: float = 0.0,
        score_corrector: None = None,
        corrector_kwargs: None = None,
        generator: Generators = None,
    ) -> tuple[Tensor, Tensor]:
        """One step of Eq. 7 (or Eq. 6). DDIM's options for its noise have no effect: there is none.

        Raises UserError for a score_corrector, whose eps the gradient would not know of.
        """
        if score_corrector is not None:
            raise UserError("RASG has no score_corrector: leave it out, or use DDIMSampler")
        uc = unconditional_conditioning if unconditional_guidance_scale != 1.0 else None
        output, self.score, self.gradient = self.guided_output(x, c, t, uc, target, token_indices)
        if uc is not None:
            uncond, cond = output.chunk(2)
            output = uncond + unconditional_guidance_scale * (cond - uncond)
        e_t = self.model.to_eps(x, t, output)
        if self.settings.update == "reweighted":
            pred_x0 = self.predict_x0(x, t, e_t, output)
            direction = -standardize(self.gradient, self.settings.center)
            return self.step(e_t, pred_x0, index, direction), pred_x0
        # Eq. 6. The paper's ξ_t has the wrong sign: the coefficient of eps in x_{t-1} is negative at every step.
        sqrt_one_minus_alpha = float(self.ddim_sqrt_one_minus_alphas[index])
        e_t = e_t + sqrt_one_minus_alpha * self.settings.scale * self.gradient
        pred_x0 = self.model.predict_start_from_noise(x, t, e_t)
        return self.step(e_t, pred_x0, index, torch.zeros_like(x)), pred_x0

    def guided_output(
        self,
        x: Tensor,
        c: Conditioning | None,
        t: Tensor,
        uc: Conditioning | None,
        target: Mapping[int, Tensor],
        token_indices: Sequence[Iterable[int]],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The UNet's output for [uncond | cond] (or cond if `uc` is None), S(x_t) [B] and its gradient.

        The halves go separately through the prefix of the UNet that S depends on, the conditional one with a
        graph, and together through the rest.
        """
        unet: UNetModel = self.model.model.diffusion_model
        painta = PAIntA.on(unet)
        with torch.enable_grad(), CrossAttentionScores(unet, self.levels) as attention:
            x_t = x.detach().requires_grad_()
            state = self._prefix(x_t, t, c, attention.stop)
            score = self.objective(attention.mean(), target, token_indices)
            (gradient,) = torch.autograd.grad(GRADIENT_SCALE * score.sum(), x_t)
        state = state.detach()
        if uc is not None:
            with painta.unconditional() if painta else nullcontext():
                uncond = self._prefix(x, t, uc, attention.stop)
            state = UNetState.cat([uncond, state])
        output = unet.finish(unet.advance(state)).to(x.dtype)
        return output, score.detach(), gradient / GRADIENT_SCALE

    def _prefix(self, x: Tensor, t: Tensor, c: Conditioning | None, stop: int) -> UNetState:
        x, context, y = self.model.model.unet_inputs(x, **self.model.named_conditioning(c))
        unet = self.model.model.diffusion_model
        return unet.advance(unet.begin(x, t, context, y), stop)

    def objective(
        self,
        scores: Mapping[int, Tensor],
        target: Mapping[int, Tensor],
        token_indices: Sequence[Iterable[int]],
    ) -> Tensor:
        """S(x_t) [B] from the mean scores of each level; several levels are summed."""
        per_level = []
        for level, mean in scores.items():
            weights = token_weights(token_indices, mean.shape[2], mean.device)
            mask = target[level].flatten(1).to(mean)
            grid = (target[level].shape[-2], target[level].shape[-1])
            per_level.append(objective(mean, mask, weights, grid, self.settings))
        return torch.stack(per_level).sum(0)
