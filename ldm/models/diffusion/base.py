"""The conditioned network, and what training and sampling all models of `ldm.models.diffusion.ddpm` share."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.models.base import TrainedModule, batch_images
from ldm.modules.diffusionmodules.gaussian import GaussianDiffusion, Schedule, check_parameterization
from ldm.modules.diffusionmodules.util import make_beta_schedule
from ldm.modules.ema import LitEma
from ldm.util import UserError, default, instantiate_from_config, shown

Conditioning = Tensor | Sequence[Tensor] | Mapping[str, Any]
"""c_concat, c_crossattn (sequences of tensors) and c_adm (a tensor) by name; or what stands for the only one."""

CONDITIONING_KEYS: dict[str | None, tuple[str, ...]] = {
    None: (),
    "concat": ("c_concat",),
    "crossattn": ("c_crossattn",),
    "adm": ("c_adm",),
    "hybrid": ("c_concat", "c_crossattn"),
    "crossattn-adm": ("c_crossattn", "c_adm"),
    "hybrid-adm": ("c_concat", "c_crossattn", "c_adm"),
}


class DiffusionWrapper(nn.Module):
    """The UNet together with the way in which a conditioning reaches it.

    conditioning_key: `concat` appends c_concat to the input channels, `crossattn` makes c_crossattn the context
        of the cross-attention, `adm` gives c_adm to the timestep embedding; `hybrid` is concat and crossattn,
        `crossattn-adm` and `hybrid-adm` add adm; None is unconditional.
    """

    def __init__(self, diff_model_config: Mapping[str, Any], conditioning_key: str | None):
        super().__init__()
        if conditioning_key not in CONDITIONING_KEYS:
            known = ", ".join(str(key) for key in CONDITIONING_KEYS)
            raise UserError(f"conditioning_key {shown(conditioning_key)} is not one of {known}")
        self.diffusion_model = instantiate_from_config(diff_model_config)
        self.conditioning_key = conditioning_key

    def unet_inputs(
        self,
        x: Tensor,
        c_concat: Sequence[Tensor] | None = None,
        c_crossattn: Sequence[Tensor] | None = None,
        c_adm: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(x, context, y) as the UNet takes them.

        x: [B, C, H, W]. c_concat: list of [B, c, H, W]. c_crossattn: list of [B, tokens, d]. c_adm: classes or
        noise levels [B], or vectors [B, d]. Raises UserError if one that conditioning_key needs is missing.
        """
        given: dict[str, Any] = {"c_concat": c_concat, "c_crossattn": c_crossattn, "c_adm": c_adm}
        wanted = CONDITIONING_KEYS[self.conditioning_key]
        for name in wanted:
            if given[name] is None:
                raise UserError(f"conditioning_key {self.conditioning_key!r} needs the conditioning {name}")
        if "c_concat" in wanted:
            x = torch.cat([x, *given["c_concat"]], dim=1)
        context = torch.cat(list(given["c_crossattn"]), dim=1) if "c_crossattn" in wanted else None
        return x, context, c_adm if "c_adm" in wanted else None

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """The network's output [B, C, H, W] at timesteps t [B]; `cond` as in `unet_inputs`."""
        x, context, y = self.unet_inputs(x, **cond)
        return self.diffusion_model(x, timesteps=t, context=context, y=y)


class DDPM(GaussianDiffusion, TrainedModule):
    """Denoising diffusion of images [B, C, H, W] (Ho et al., 2020), and what all models here share in training.

    unet_config: config of the network. conditioning_key: see `DiffusionWrapper`.
    timesteps, beta_schedule, linear_start, linear_end, cosine_s, given_betas, v_posterior: the noise schedule.
    parameterization: what the network predicts, `eps`, `v` or `x0`.
    loss_type: `l1` or `l2`.
    first_stage_key, image_size, channels: key of the images in a batch and their (latent) size.
    use_ema: keep an exponential moving average of the weights (`model_ema`).
    ucg_training: conditioning dropout, ``{batch key: {"p": rate, "val": replacement}}``; val defaults to "".
    ckpt_path, ignore_keys: a checkpoint to start from, and prefixes of the keys in it to leave out.
    scheduler_config: a learning-rate multiplier with a method ``schedule(step)``.
    monitor: the value that checkpoint callbacks watch. log_every_t: how often `p_sample_loop` keeps a latent.

    The learning rate is the attribute `learning_rate`, as in SD2, for the training script to set.
    """

    learning_rate: float = 1e-4

    def __init__(
        self,
        unet_config: Mapping[str, Any],
        timesteps: int = 1000,
        beta_schedule: str = "linear",
        loss_type: str = "l2",
        ckpt_path: str | None = None,
        ignore_keys: Sequence[str] = (),
        monitor: str | None = "val/loss_simple",
        use_ema: bool = True,
        first_stage_key: str = "image",
        image_size: int = 256,
        channels: int = 3,
        log_every_t: int = 100,
        linear_start: float = 1e-4,
        linear_end: float = 2e-2,
        cosine_s: float = 8e-3,
        given_betas: Sequence[float] | None = None,
        v_posterior: float = 0.0,
        conditioning_key: str | None = None,
        parameterization: str = "eps",
        scheduler_config: Mapping[str, Any] | None = None,
        ucg_training: Mapping[str, Mapping[str, Any]] | None = None,
    ):
        super().__init__()
        if loss_type not in ("l1", "l2"):
            raise UserError(f"loss_type must be 'l1' or 'l2', not {shown(loss_type)}")
        self.parameterization = check_parameterization(parameterization)
        self.loss_type = loss_type
        self.monitor = monitor
        self.first_stage_key = first_stage_key
        self.image_size = image_size
        self.channels = channels
        self.log_every_t = log_every_t
        self.scheduler_config = scheduler_config
        self.ucg_training = ucg_training or {}

        self.model = DiffusionWrapper(unet_config, conditioning_key)
        self.use_ema = use_ema
        if use_ema:
            self.model_ema = LitEma(self.model)
        betas = (
            make_beta_schedule(beta_schedule, timesteps, linear_start, linear_end, cosine_s)
            if given_betas is None
            else np.asarray(given_betas, dtype=np.float64)
        )
        self.register_schedule(Schedule(betas, v_posterior))
        if ckpt_path is not None:
            self.init_from_ckpt(ckpt_path, ignore_keys)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    # --- training ---

    def get_input(self, batch: Mapping[str, Any], key: str) -> tuple[Tensor, Conditioning | None]:
        """(x_0 [B, C, H, W], conditioning for `apply_model`) of a batch."""
        return batch_images(batch, key), None

    def apply_model(self, x_noisy: Tensor, t: Tensor, cond: Conditioning | None = None) -> Tensor:
        """The network's output [B, C, H, W] for x_t and t [B].

        cond: those that the conditioning_key needs; a tensor or a list of tensors stands for the only one.
        """
        return self.model(x_noisy, t, **self.named_conditioning(cond))

    def named_conditioning(self, cond: Conditioning | None) -> Mapping[str, Any]:
        """`cond` by name, as `DiffusionWrapper` takes it."""
        if cond is None:
            return {}
        if isinstance(cond, Mapping):
            return cond
        key = self.model.conditioning_key
        if key == "adm":
            return {"c_adm": cond}
        name = "c_concat" if key == "concat" else "c_crossattn"
        return {name: [cond] if isinstance(cond, Tensor) else cond}

    def p_losses(
        self, x_start: Tensor, cond: Conditioning | None, t: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The simple loss at timesteps t [B] and a dict of what to log.

        The mean of |target - output|^p, p = 1 or 2, where the target is eps, v or x_0.
        """
        noise = torch.randn_like(x_start) if noise is None else noise
        output = self.apply_model(self.q_sample(x_start, t, noise), t, cond)
        distance = F.mse_loss if self.loss_type == "l2" else F.l1_loss
        loss = distance(output, self.target(x_start, noise, t))
        return loss, {f"{'train' if self.training else 'val'}/loss_simple": loss.detach()}

    def forward(self, x: Tensor, cond: Conditioning | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """`p_losses` at random timesteps."""
        t = torch.randint(self.num_timesteps, (len(x),), device=x.device)
        return self.p_losses(x, cond, t)

    def shared_step(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The simple loss of a batch at random timesteps, and what to log."""
        return self(*self.get_input(batch, self.first_stage_key))

    def augment(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of the batch in which `ucg_training` has replaced conditionings at random, sample by sample."""
        batch = dict(batch)
        for key, rule in self.ucg_training.items():
            value = default(rule.get("val"), "")
            drop = torch.rand(len(batch[key])) < rule["p"]
            if isinstance(batch[key], Tensor):
                kept = batch[key].clone()
                kept[drop.to(kept.device)] = value
                batch[key] = kept
            else:
                batch[key] = [value if d else item for item, d in zip(batch[key], drop.tolist(), strict=True)]
        return batch

    @property
    def averaged(self) -> nn.Module:
        """The network."""
        return self.model

    def trained_parameters(self) -> list[nn.Parameter]:
        """The parameters that the optimiser gets."""
        return list(self.model.parameters())

    def configure_optimizers(self) -> Any:
        """AdamW with `learning_rate`, and the schedule of `scheduler_config` stepped after every batch."""
        optimizer = torch.optim.AdamW(self.trained_parameters(), lr=self.learning_rate)
        if self.scheduler_config is None:
            return optimizer
        schedule = instantiate_from_config(self.scheduler_config).schedule
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_lambda=schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    # --- ancestral sampling ---

    @torch.no_grad()
    def p_sample(
        self, x: Tensor, cond: Conditioning | None, t: Tensor, clip_denoised: bool = False
    ) -> Tensor:
        """x_{t-1} ~ p(x_{t-1} | x_t), Eq. 2, for x_t = `x` at t [B]; without noise where t is 0."""
        x_start = self.to_x0(x, t, self.apply_model(x, t, cond).to(x.dtype))
        if clip_denoised:
            x_start = x_start.clamp(-1.0, 1.0)
        mean, _, log_variance = self.q_posterior(x_start, x, t)
        noisy = (t > 0).view(-1, *[1] * (x.ndim - 1))
        return mean + noisy * (0.5 * log_variance).exp() * torch.randn_like(x)

    @torch.no_grad()
    def p_sample_loop(
        self,
        cond: Conditioning | None,
        shape: Sequence[int],
        x_T: Tensor | None = None,
        clip_denoised: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """Sample through every timestep: (x_0, the x_t at every `log_every_t`-th one). `shape`: (B, C, H, W)."""
        x = torch.randn(tuple(shape), device=self.device) if x_T is None else x_T
        intermediates = [x]
        for step in reversed(range(self.num_timesteps)):
            t = torch.full((len(x),), step, device=self.device, dtype=torch.long)
            x = self.p_sample(x, cond, t, clip_denoised)
            if step % self.log_every_t == 0:
                intermediates.append(x)
        return x, intermediates
