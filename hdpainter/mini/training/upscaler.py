"""Training of the miniature x4 upscaler."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hdpainter.mini.scenes import scene_cache
from hdpainter.mini.training.base import psnr, tile, to_images, to_tensor
from hdpainter.mini.training.crops import DetailedCrops, Drawn
from hdpainter.mini.training.diffusion import Batch, DiffusionTraining
from hdpainter.mini.world.toycoco import describe_scene
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.models.diffusion.ddpm import LatentUpscaleDiffusion


class UpscalerTraining(DiffusionTraining):
    """Trains the x4 upscaler on crops of scenes drawn at 1024 pixels and their 4x reduced versions."""

    ldm: LatentUpscaleDiffusion

    def __init__(
        self,
        config: str,
        parts: dict[str, str],
        cache: str | Path,
        size: int,
        scenes: int,
        held_out: int = 4,
        **kwargs: Any,
    ):
        super().__init__(config, parts, **kwargs)
        self.scenes = scene_cache(cache, "train", scenes, size, self.workers)
        probes = [describe_scene("val", i) for i in range(held_out)]
        full, size = self.scenes.images.shape[1], max(self.crops)
        middle = slice((full - size) // 2, (full + size) // 2)
        self.probe_images = np.stack([scene.render(full)[middle, middle] for scene in probes])
        self.probe_captions = [scene.captions[0] for scene in probes]

    def conditions(self, images: np.ndarray | Tensor) -> Batch:
        """Latents of images [B, H, W, 3] uint8 and the images reduced 4x."""
        x = to_tensor(images, self.ldm.device)
        with torch.no_grad(), self.half_precision():
            z = self.ldm.encode_first_stage(x).mode().float()
        return {"jpg_latent": z, "lr": F.avg_pool2d(x, 4).movedim(1, -1)}

    def source(self) -> DetailedCrops:
        return DetailedCrops(self.scenes, self.texts)

    def encode(self, drawn: Drawn) -> Batch:
        return self.conditions(drawn["images"])

    def upscale(
        self, images: np.ndarray, texts: Sequence[str], steps: int = 10, level: int = 20, seed: int = 0
    ) -> Tensor:
        """Images [B, H, W, 3] uint8 reduced 4x and enlarged again by the averaged model."""
        batch = self.conditions(images)
        generator = torch.Generator().manual_seed(seed)
        with self.averaged() as ldm:
            z, cond = ldm.get_input(batch | {"txt": list(texts)}, "jpg")
            levels = torch.full((len(z),), level, device=z.device)
            low = batch["lr"].movedim(-1, 1).contiguous()
            noise = torch.randn(low.shape, generator=generator).to(low)
            noised, levels = self.ldm.low_scale_model(low, levels, noise)
            cond |= {"c_concat": [noised], "c_adm": levels}
            start = torch.randn(z.shape, generator=generator).to(z)
            samples, _ = DDIMSampler(ldm).sample(
                steps, len(z), z.shape[1:], cond, eta=0.0, x_T=start, verbose=False, generator=generator
            )
            return ldm.decode_first_stage(samples)

    def evaluate(self) -> dict[str, float]:
        """PSNR in dB against the drawing: of the model, of bicubic enlargement, of the autoencoder alone."""
        truth = to_tensor(self.probe_images)
        y = self.upscale(self.probe_images, self.probe_captions).float().cpu()
        small = F.avg_pool2d(truth, 4)
        bicubic = F.interpolate(small, scale_factor=4, mode="bicubic", align_corners=False)
        z = self.ldm.encode_first_stage(truth.to(self.ldm.device)).mode()
        limit = self.ldm.first_stage_model.decode(z).float().cpu()
        figures = {"psnr": psnr(y, truth), "bicubic": psnr(bicubic, truth), "autoencoder": psnr(limit, truth)}
        figures["latent_std"] = z.std() * self.ldm.scale_factor
        return {name: float(value) for name, value in figures.items()}

    def sheet(self) -> np.ndarray:
        """Rows: bicubic, the model, the drawing."""
        truth = to_tensor(self.probe_images)
        y = self.upscale(self.probe_images, self.probe_captions).float().cpu()
        bicubic = F.interpolate(F.avg_pool2d(truth, 4), scale_factor=4, mode="bicubic", align_corners=False)
        return tile(to_images(torch.cat([bicubic, y, truth])), len(truth))
