"""How much of the picture outside the mask is kept."""

import math
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eval.metrics.base import Metric, Value
from eval.metrics.weights import identity
from hdpainter.models.download import download as fetch

LPIPS_FILE = "alexnet-owt-7be5be79.pth"
LPIPS_SOURCE = "https://download.pytorch.org/models/"


class Fidelity(Metric):
    """Result against original outside the mask; all None where the mask covers the whole picture.

    `psnr`: decibels over the pixels outside, infinite where they are equal; higher is better.
    `max_difference`: the largest difference of a channel outside, in grey levels 0 to 255; lower is better.
    `lpips`: LPIPS (AlexNet) of the whole picture after the original's pixels were put into the mask, so that
    only what is outside counts; lower is better. It needs torchmetrics, which has LPIPS's own weights, and
    torchvision's AlexNet in torch's cache. Without them the column stays empty, and `notes` says why.
    download: fetch the AlexNet if it is missing.
    """

    name = "fidelity"
    columns = ("psnr", "max_difference", "lpips")

    def __init__(
        self,
        label: str = "Fidelity outside the mask",
        device: str | torch.device = "cpu",
        download: bool = False,
    ):
        self.label, self.device = label, torch.device(device)
        self._alexnet = Path(torch.hub.get_dir()) / "checkpoints" / LPIPS_FILE
        if download and not self._alexnet.is_file():
            fetch([LPIPS_SOURCE + LPIPS_FILE], self._alexnet)
        self._has_lpips = self._alexnet.is_file() and find_spec("torchmetrics") is not None

    @property
    def notes(self) -> list[str]:
        if self._has_lpips:
            return []
        return [
            f"LPIPS not run: it needs torchmetrics and torchvision's AlexNet, {LPIPS_SOURCE}{LPIPS_FILE}, which "
            "python -m eval score --metric fidelity --download fetches"
        ]

    @property
    def settings(self) -> dict[str, Any]:
        return {"lpips": identity(self._alexnet) if self._has_lpips else None}

    @cached_property
    def _lpips(self):
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True).to(self.device).eval()

    def __call__(self, images, masks, prompts, originals) -> dict[str, list[Value]]:
        rows = [self._row(*sample) for sample in zip(images, masks, originals, strict=True)]
        return {name: [row[name] for row in rows] for name in self.columns}

    def _row(self, image: np.ndarray, mask: np.ndarray, original: np.ndarray) -> dict[str, Value]:
        if mask.all():
            return dict.fromkeys(self.columns)
        difference = np.abs(image[~mask].astype(np.int16) - original[~mask])
        mse = float(np.square(difference.astype(np.float64)).mean())
        psnr = 10 * math.log10(255**2 / mse) if mse else math.inf
        lpips = self._perceptual(image, mask, original) if self._has_lpips else None
        return {"psnr": psnr, "max_difference": int(difference.max()), "lpips": lpips}

    @torch.no_grad()
    def _perceptual(self, image: np.ndarray, mask: np.ndarray, original: np.ndarray) -> float:
        kept = np.where(mask[..., None], original, image)
        self._lpips.reset()
        return float(self._lpips(self._pixels(kept), self._pixels(original)))

    def _pixels(self, image: np.ndarray) -> Tensor:
        x = torch.from_numpy(np.ascontiguousarray(image)).to(self.device)
        return x.permute(2, 0, 1)[None].contiguous().float() / 255
