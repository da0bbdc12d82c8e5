"""The autoencoder between images and latents (Kingma & Welling, 2014; Rombach et al., 2022)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ldm.models.base import TrainedModule, batch_images
from ldm.modules.diffusionmodules.model import Decoder, Encoder
from ldm.modules.distributions.distributions import DiagonalGaussianDistribution
from ldm.modules.ema import LitEma
from ldm.util import UserError, instantiate_from_config


class AutoencoderKL(TrainedModule):
    """Variational autoencoder with a diagonal Gaussian posterior over latents.

    ddconfig: parameters of `Encoder` and `Decoder`; must have ``double_z: true``.
    lossconfig: config of the training loss, a module ``loss(inputs, reconstructions, posterior, split)`` ->
        (scalar, dict to log) such as `ldm.modules.losses.ReconstructionKLLoss`; ``torch.nn.Identity`` for a
        model that is not trained.
    embed_dim: channels of the latents.
    image_key: key of the images in a batch, [B, H, W, 3] in [-1, 1].
    ema_decay: keep a moving average of the weights (`model_ema`) with this decay. None: do not.
    learn_logvar: train the loss's ``logvar`` (the weight between reconstruction and KL) too.
    ckpt_path, ignore_keys: a checkpoint to start from, and prefixes of the keys in it to leave out.

    It computes in the dtype of its weights, whatever that of its input, and returns float32. The learning rate is
    the attribute `learning_rate`, as in SD2, for the training script to set.
    """

    learning_rate: float = 4.5e-6

    def __init__(
        self,
        ddconfig: Mapping[str, Any],
        lossconfig: Mapping[str, Any],
        embed_dim: int,
        ckpt_path: str | None = None,
        ignore_keys: Sequence[str] = (),
        image_key: str = "image",
        monitor: str | None = None,
        ema_decay: float | None = None,
        learn_logvar: bool = False,
    ):
        super().__init__()
        if not ddconfig.get("double_z", True):
            raise UserError("AutoencoderKL: ddconfig needs double_z: true (a mean and a variance)")
        self.image_key = image_key
        self.embed_dim = embed_dim
        self.learn_logvar = learn_logvar
        if monitor is not None:
            self.monitor = monitor
        self.encoder = Encoder(**ddconfig)
        self.decoder = Decoder(**ddconfig)
        self.loss = instantiate_from_config(lossconfig)
        self.quant_conv = nn.Conv2d(2 * ddconfig["z_channels"], 2 * embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, ddconfig["z_channels"], 1)
        if ema_decay is not None:
            self.model_ema = LitEma(self, decay=ema_decay)
        if ckpt_path is not None:
            self.init_from_ckpt(ckpt_path, ignore_keys)

    def encode(self, x: Tensor) -> DiagonalGaussianDistribution:
        """The posterior over latents [B, embed_dim, h, w] of images x [B, 3, H, W] in [-1, 1].

        It is float32 whatever the dtype of the weights, because variances can exceed float16.
        """
        moments = self.quant_conv(self.encoder(x.to(self.quant_conv.weight.dtype)))
        return DiagonalGaussianDistribution(moments.float())

    def decode(self, z: Tensor) -> Tensor:
        """Images [B, 3, H, W], about [-1, 1], of latents z [B, embed_dim, h, w]."""
        return self.decoder(self.post_quant_conv(z.to(self.post_quant_conv.weight.dtype))).float()

    def forward(
        self, x: Tensor, sample_posterior: bool = True
    ) -> tuple[Tensor, DiagonalGaussianDistribution]:
        """(reconstructions of x from a sample of the posterior or from its mean, the posterior)."""
        posterior = self.encode(x)
        return self.decode(posterior.sample() if sample_posterior else posterior.mode()), posterior

    def shared_step(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and what to log."""
        images = batch_images(batch, self.image_key)
        reconstructions, posterior = self(images)
        return self.loss(images, reconstructions, posterior, "train" if self.training else "val")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with `learning_rate` over the autoencoder, and over ``loss.logvar`` with learn_logvar."""
        parts = (self.encoder, self.decoder, self.quant_conv, self.post_quant_conv)
        parameters = [parameter for part in parts for parameter in part.parameters()]
        if self.learn_logvar:
            parameters.append(self.loss.logvar)
        return torch.optim.Adam(parameters, lr=self.learning_rate, betas=(0.5, 0.9))
