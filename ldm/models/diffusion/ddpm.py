"""Diffusion models in the latent space of an autoencoder: Stable Diffusion, its inpainting model, its upscaler.

Names, constructor parameters and state-dict keys are those of Stable Diffusion 2, so its YAML configs and
checkpoints fit. SD2's parameters that none of its configs sets (the weight of the variational bound, learned
variances and the like) are left out.

A training batch is a dict. Under `first_stage_key` it has images [B, H, W, 3] in [-1, 1], under `cond_stage_key`
a list of B strings; the classes say what else they read. Where the autoencoder has been run beforehand, a batch
may have ``<key>_latent``, latents [B, C, h, w] before scaling, in place of the images under ``<key>``; where the
text encoder has been, ``<cond_stage_key>_features`` [B, tokens, d] in place of the prompts.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.models.base import batch_entry, batch_images
from ldm.models.diffusion.base import DDPM, DiffusionWrapper
from ldm.modules.distributions.distributions import DiagonalGaussianDistribution
from ldm.util import UserError, instantiate_from_config, shown

__all__ = ["DDPM", "DiffusionWrapper", "LatentDiffusion", "LatentInpaintDiffusion", "LatentUpscaleDiffusion"]

UNCONDITIONAL: Final = "__is_unconditional__"


class LatentDiffusion(DDPM):
    """Diffusion of the latents of a frozen autoencoder, conditioned on text: Stable Diffusion.

    first_stage_config, cond_stage_config: configs of the autoencoder and of the text encoder; the latter may be
        ``"__is_unconditional__"``.
    cond_stage_key: key of the prompts in a batch. cond_stage_trainable: train the text encoder too.
    conditioning_key: if None, `concat` or `crossattn` according to `concat_mode`.
    scale_factor: multiplies latents so that their std is about 1. With scale_by_std it is 1 / std of the first
        training batch, and stored in the checkpoint.
    """

    scale_factor: float | Tensor

    def __init__(
        self,
        first_stage_config: Mapping[str, Any],
        cond_stage_config: Mapping[str, Any] | Literal["__is_unconditional__"],
        num_timesteps_cond: int | None = None,
        cond_stage_key: str = "image",
        cond_stage_trainable: bool = False,
        concat_mode: bool = True,
        conditioning_key: str | None = None,
        scale_factor: float = 1.0,
        scale_by_std: bool = False,
        ckpt_path: str | None = None,
        ignore_keys: Sequence[str] = (),
        **kwargs: Any,
    ):
        if num_timesteps_cond not in (None, 1):
            raise UserError(
                f"num_timesteps_cond must be 1 (conditionings are not noised), not {shown(num_timesteps_cond)}"
            )
        if conditioning_key is None and cond_stage_config != UNCONDITIONAL:
            conditioning_key = "concat" if concat_mode else "crossattn"
        super().__init__(conditioning_key=conditioning_key, **kwargs)
        self.cond_stage_key = cond_stage_key
        self.cond_stage_trainable = cond_stage_trainable
        self.scale_by_std = scale_by_std
        if scale_by_std:
            self.register_buffer("scale_factor", torch.tensor(float(scale_factor), device="cpu"))
        else:
            self.scale_factor = scale_factor

        self.first_stage_model = instantiate_from_config(first_stage_config).requires_grad_(False)
        self.cond_stage_model: nn.Module | None = None
        if cond_stage_config != UNCONDITIONAL:
            self.cond_stage_model = instantiate_from_config(cond_stage_config).requires_grad_(
                cond_stage_trainable
            )
        self.train(self.training)
        if ckpt_path is not None:
            self.init_from_ckpt(ckpt_path, ignore_keys)

    def train(self, mode: bool = True) -> "LatentDiffusion":
        """Set the training mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        self.first_stage_model.eval()
        if self.cond_stage_model is not None and not self.cond_stage_trainable:
            self.cond_stage_model.eval()
        return self

    # --- latents and conditionings ---

    @torch.no_grad()
    def encode_first_stage(self, x: Tensor) -> DiagonalGaussianDistribution:
        """The posterior over latents of images x [B, 3, H, W] in [-1, 1]."""
        return self.first_stage_model.encode(x)

    def get_first_stage_encoding(self, encoder_posterior: DiagonalGaussianDistribution | Tensor) -> Tensor:
        """Scaled latents: scale_factor times a sample of the posterior, or times latents [B, C, h, w]."""
        if isinstance(encoder_posterior, DiagonalGaussianDistribution):
            return self.scale_factor * encoder_posterior.sample()
        return self.scale_factor * encoder_posterior

    @torch.no_grad()
    def decode_first_stage(self, z: Tensor) -> Tensor:
        """Images [B, 3, H, W], about [-1, 1], of scaled latents z [B, C, h, w]."""
        return self.first_stage_model.decode(z / self.scale_factor)

    def get_learned_conditioning(self, c: Sequence[str]) -> Tensor:
        """The text encoder's features [B, tokens, d] of B prompts."""
        encoder = self.cond_stage_model
        if encoder is None:
            raise UserError("an unconditional model has no text encoder: it takes no prompts")
        return getattr(encoder, "encode", encoder)(c)

    @torch.no_grad()
    def get_unconditional_conditioning(self, batch_size: int, null_label: str | None = None) -> Tensor:
        """The features of `null_label`, such as "", repeated: [batch_size, tokens, d]."""
        if null_label is None:
            raise UserError('get_unconditional_conditioning: give a null_label, for example ""')
        features = self.get_learned_conditioning([null_label])
        return features.repeat(batch_size, *[1] * (features.ndim - 1))

    # --- training ---

    def get_latent(self, batch: Mapping[str, Any], key: str) -> Tensor:
        """Scaled latents [B, C, h, w] of the images under `key`, or of the cached ``<key>_latent``."""
        if f"{key}_latent" in batch:
            return self.get_first_stage_encoding(batch[f"{key}_latent"])
        posterior = self.encode_first_stage(batch_images(batch, key))
        return self.get_first_stage_encoding(posterior).detach()

    def get_input(self, batch: Mapping[str, Any], key: str) -> tuple[Tensor, Any]:
        """(latents [B, C, h, w], conditioning)."""
        z = self.get_latent(batch, key)
        if self.cond_stage_model is None:
            return z, None
        if f"{self.cond_stage_key}_features" in batch:
            return z, batch[f"{self.cond_stage_key}_features"]
        prompts = batch_entry(batch, self.cond_stage_key)
        with torch.set_grad_enabled(self.cond_stage_trainable and torch.is_grad_enabled()):
            c = self.get_learned_conditioning(prompts)
        return z, c

    def on_train_batch_start(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """With scale_by_std, set scale_factor before the first step."""
        if self.scale_by_std and self.global_step == 0:
            z = self.get_latent(batch, self.first_stage_key) / self.scale_factor
            self.scale_factor = 1.0 / z.flatten().std()

    def trained_parameters(self) -> list[nn.Parameter]:
        """The UNet's parameters, and the text encoder's if it is trainable."""
        params = super().trained_parameters()
        if self.cond_stage_trainable and self.cond_stage_model is not None:
            params += self.cond_stage_model.parameters()
        return params


class LatentInpaintDiffusion(LatentDiffusion):
    """Stable Inpainting: the UNet also sees the mask and the latents of the masked image (9 channels).

    A batch also has, for each of `concat_keys` and in this order, [B, H, W, C]. Under `masked_image_key` it is
    the image with the region to fill set to 0, in [-1, 1], and is encoded; others, such as the ``mask``
    [B, H, W, 1] with 1 = fill, are resized to the latents' size (nearest).

    finetune_keys: weights whose input channels are widened when `ckpt_path` is a model without the extra
        channels: the first `keep_finetune_dims` are taken over, the new ones start at zero.
    """

    def __init__(
        self,
        concat_keys: Sequence[str] = ("mask", "masked_image"),
        masked_image_key: str = "masked_image",
        finetune_keys: Sequence[str] | None = (
            "model.diffusion_model.input_blocks.0.0.weight",
            "model_ema.diffusion_modelinput_blocks00weight",
        ),
        keep_finetune_dims: int = 4,
        conditioning_key: str = "hybrid",
        ckpt_path: str | None = None,
        ignore_keys: Sequence[str] = (),
        **kwargs: Any,
    ):
        super().__init__(conditioning_key=conditioning_key, **kwargs)
        self.concat_keys = tuple(concat_keys)
        self.masked_image_key = masked_image_key
        self.finetune_keys = tuple(finetune_keys or ())
        self.keep_finetune_dims = keep_finetune_dims
        if ckpt_path is not None:
            self.init_from_ckpt(ckpt_path, ignore_keys)

    def adapt_state_dict(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Widen the `finetune_keys` to this model's input channels."""
        own = self.state_dict()
        keep = self.keep_finetune_dims
        for key in self.finetune_keys:
            if key in state and key in own and state[key].shape[1] == keep != own[key].shape[1]:
                wide = torch.zeros(own[key].shape, dtype=state[key].dtype)
                wide[:, :keep] = state[key]
                state[key] = wide
        return state

    def get_input(self, batch: Mapping[str, Any], key: str) -> tuple[Tensor, dict[str, Any]]:
        """(latents, conditioning with c_concat = [mask | masked latents] and c_crossattn)."""
        z, c = super().get_input(batch, key)
        parts = [
            self.get_latent(batch, name)
            if name == self.masked_image_key
            else F.interpolate(batch_images(batch, name), size=z.shape[-2:])
            for name in self.concat_keys
        ]
        return z, {"c_concat": [torch.cat(parts, dim=1)], "c_crossattn": [c]}


class LatentUpscaleDiffusion(LatentDiffusion):
    """The x4 upscaler: the UNet also sees the low-resolution image, with noise, and the level of that noise.

    low_scale_config: config of the model that adds the noise, ``low_scale_model(x, noise_level or None)`` ->
        (noised x, level [B]).
    low_scale_key: key of the low-resolution images in a batch, [B, h, w, 3] in [-1, 1] at the latents' size.
    noise_level_key: key of the noise levels [B] in a batch; drawn at random if None.
    """

    def __init__(
        self,
        *,
        low_scale_config: Mapping[str, Any],
        low_scale_key: str = "LR",
        noise_level_key: str | None = None,
        ckpt_path: str | None = None,
        ignore_keys: Sequence[str] = (),
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        with torch.device("cpu"):  # its noise schedule must be real also when the model is built on meta
            self.low_scale_model = instantiate_from_config(low_scale_config).requires_grad_(False).eval()
        self.low_scale_key = low_scale_key
        self.noise_level_key = noise_level_key
        if ckpt_path is not None:
            self.init_from_ckpt(ckpt_path, ignore_keys)

    def get_input(self, batch: Mapping[str, Any], key: str) -> tuple[Tensor, dict[str, Any]]:
        """(latents, conditioning with c_concat = [noised low-resolution image], c_adm = level, c_crossattn)."""
        z, c = super().get_input(batch, key)
        level = None if self.noise_level_key is None else batch_entry(batch, self.noise_level_key)
        low, level = self.low_scale_model(batch_images(batch, self.low_scale_key), level)
        return z, {"c_concat": [low], "c_crossattn": [c], "c_adm": level}
