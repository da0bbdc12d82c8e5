"""Training of the autoencoders: sharp reconstructions without a discriminator or a perceptual network."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from hdpainter.configs import read_model_config
from hdpainter.mini.scenes import SceneCache, scene_cache
from hdpainter.mini.training.base import (
    Training,
    model_part,
    most_detailed,
    psnr,
    read_part,
    tile,
    to_images,
    to_tensor,
)
from ldm.models.autoencoder import AutoencoderKL


def reconstruction_loss(x: Tensor, y: Tensor) -> Tensor:
    """Mean |x - y| of the pixels, half that of their differences to the right and lower neighbours, four times
    the squares, and twice those of the pictures pooled 4x: values, edges, large errors, and those of colour.
    x, y [B, 3, H, W]."""
    d = x - y
    edges = d.diff(dim=2).abs().mean() + d.diff(dim=3).abs().mean()
    return d.abs().mean() + 0.5 * edges + 4 * d.square().mean() + 2 * F.avg_pool2d(d, 4).square().mean()


class Crops(IterableDataset):
    """Endless batches [B, 3, s, s] of about `pixels` pixels; the crops' sizes s are drawn with `weights`."""

    def __init__(
        self,
        cache: SceneCache,
        sizes: tuple[int, ...],
        weights: tuple[float, ...],
        pixels: int,
        candidates: int,
        seed: int,
    ):
        self.images, self.sizes, self.weights = cache.images, sizes, weights
        self.pixels, self.candidates, self.seed = pixels, candidates, seed

    def __iter__(self) -> Iterator[Tensor]:
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng((self.seed, worker.id if worker else 0))
        while True:
            size = int(rng.choice(self.sizes, p=self.weights))
            yield to_tensor(self.batch(rng, size, max(self.pixels // size**2, 1)))

    def batch(self, rng: np.random.Generator, size: int, count: int) -> np.ndarray:
        """`count` crops, RGB uint8 [count, size, size, 3], each the most detailed of some random ones."""
        return np.stack(
            [most_detailed(self.crop(rng, size) for _ in range(self.candidates)) for _ in range(count)]
        )

    def crop(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """A random crop."""
        image = self.images[rng.integers(len(self.images))]
        y, x = rng.integers(len(image) - size + 1, size=2)
        return image[y : y + size, x : x + size]


class Parts(nn.Module):
    """What is trained: the autoencoder, and the head that reads the mean colour off a latent pixel."""

    def __init__(self, autoencoder: AutoencoderKL):
        super().__init__()
        self.autoencoder = autoencoder
        self.colours = nn.Conv2d(autoencoder.post_quant_conv.in_channels, 3, 1)


class AutoencoderTraining(Training):
    """Trains the first stage of the model `config` (a YAML file) on crops of toy scenes drawn at `size` pixels.

    Batches have about `pixels` pixels, whatever their crops' size. `held_out` scenes are for the figures.
    candidates: a crop is the most detailed of so many: flat areas teach little, and most of a large drawing is
    flat. start: weights to begin with instead of random ones.

    decoder_noise: None trains everything; with a number only the decoder is trained, so that diffusion models of
    these latents stay as they are. It sees latents with noise of any std up to that number (their own is 1),
    small ones more often, and learns to draw clean pictures from what a diffusion model leaves imperfect.

    An autoencoder this small gives up a channel early if it may, and a dimension of colour with it, and never
    gets them back (`weakest_std` in the figures). Hence a weak KL term, and a linear head, thrown away
    afterwards, that must read a latent pixel's mean colour off it, as one can with Stable Diffusion's latents.
    """

    network: Parts
    average: Parts

    def __init__(
        self,
        config: str,
        cache: str | Path,
        size: int = 256,
        scenes: int = 6000,
        held_out: int = 16,
        crop_sizes: tuple[int, ...] = (64, 128, 256),
        crop_weights: tuple[float, ...] = (0.45, 0.43, 0.12),
        pixels: int = 131072,
        candidates: int = 1,
        kl_weight: float = 1e-5,
        start: str | None = None,
        decoder_noise: float | None = None,
        seed: int = 0,
        **budget: Any,
    ):
        model: AutoencoderKL = model_part(config, "first_stage_config")
        logvar = model.quant_conv.state_dict()["bias"][model.quant_conv.out_channels // 2 :]
        logvar.fill_(-5.0)  # small posterior variances from the start
        if start is not None:
            read_part(model, "first_stage_model", start)
        if decoder_noise is not None:
            model.encoder.requires_grad_(False)
            model.quant_conv.requires_grad_(False)
        super().__init__(Parts(model), **budget)
        self.scale_factor = read_model_config(config)["params"].get("scale_factor", 1.0)
        self.kl_weight, self.decoder_noise = kl_weight, decoder_noise
        drawn = scene_cache(cache, "train", scenes, size, self.workers)
        self.data = Crops(drawn, crop_sizes, crop_weights, pixels, candidates, seed)
        self.held_out = to_tensor(np.array(scene_cache(cache, "val", held_out, size).images))

    def train_dataloader(self) -> DataLoader:
        # a resumed run must not see the same crops again
        self.data.seed = hash((self.data.seed, self.global_step)) % 2**32
        return self.loader(self.data)

    def loss(self, x: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        if self.decoder_noise is not None:
            return self.decoder_loss(x), {}
        posterior = self.network.autoencoder.encode(x)
        y = self.network.autoencoder.decode(posterior.sample())
        kl = posterior.kl().sum() / posterior.mean.numel()
        reconstruction = reconstruction_loss(x, y.float())
        h, w = posterior.mean.shape[-2:]
        means = F.adaptive_avg_pool2d(x, (h, w))
        colours = (self.network.colours(posterior.mean) - means).square().mean()
        logs = {"reconstruction": reconstruction, "colours": colours, "kl": kl}
        return reconstruction + colours + self.kl_weight * kl, logs

    def decoder_loss(self, x: Tensor) -> Tensor:
        """The reconstruction loss of pictures x [B, 3, H, W] from noised latents."""
        model = self.network.autoencoder
        z = model.encode(x).mode()
        std = self.decoder_noise / self.scale_factor * torch.rand(len(z), 1, 1, 1, device=z.device).square()
        return reconstruction_loss(x, model.decode(z + std * torch.randn_like(z)).float())

    def reconstruct(self) -> tuple[Tensor, Tensor]:
        """Latent means and reconstructions of the held-out pictures by the averaged weights."""
        model = self.average.autoencoder.eval()
        latents = [model.encode(x[None].to(self.device)).mean for x in self.held_out]
        return torch.cat(latents), torch.cat([model.decode(z).float().cpu() for z in latents])

    def weights(self) -> dict[str, Tensor]:
        """The averaged autoencoder, its latents scaled to a std of 1 / scale_factor of the model's config, unless
        only the decoder was trained."""
        state = {name: tensor.clone() for name, tensor in self.average.autoencoder.state_dict().items()}
        if self.decoder_noise is not None:
            return state
        latents, _ = self.reconstruct()
        factor = 1 / (float(latents.std()) * self.scale_factor)
        half = len(state["quant_conv.bias"]) // 2  # means, then logarithms of variances
        state["quant_conv.weight"][:half] *= factor
        state["quant_conv.bias"][:half] *= factor
        state["quant_conv.bias"][half:] += 2 * math.log(factor)
        state["post_quant_conv.weight"] /= factor
        return state

    def evaluate(self) -> dict[str, float]:
        latents, y = self.reconstruct()
        return {
            "psnr": float(psnr(y, self.held_out)),
            "latent_std": float(latents.std()),
            "weakest_std": float(latents.std((0, 2, 3)).min()),
        }

    def sheet(self) -> np.ndarray:
        _, y = self.reconstruct()
        pairs = torch.stack([self.held_out[:6], y[:6]]).flatten(0, 1)
        return tile(to_images(pairs), 6)
