"""The metrics that compare pixels: what is kept outside the mask, whether its border shows, what is colourful."""

from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import kornia
import numpy as np
import torch
from torch import Tensor

from eval.metrics.base import Arrays, Metric, Value
from eval.metrics.weights import identity
from hdpainter.masks import bbox
from hdpainter.models.download import download as fetch

LPIPS_FILE = "alexnet-owt-7be5be79.pth"
LPIPS_SOURCE = "https://download.pytorch.org/models/"
NEAR, FAR = 3, 8  # pixels between the border and the curves that the seam is compared with


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
    def _lpips(self) -> Any:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True).to(self.device).eval()

    def __call__(
        self, images: Arrays, masks: Arrays, prompts: Sequence[str], originals: Arrays
    ) -> dict[str, list[Value]]:
        rows = [self._row(*sample) for sample in zip(images, masks, originals, strict=True)]
        return {name: [row[name] for row in rows] for name in self.columns}

    def _row(self, image: np.ndarray, mask: np.ndarray, original: np.ndarray) -> dict[str, Value]:
        if mask.all():
            return dict.fromkeys(self.columns)
        kept, known = (torch.from_numpy(picture[~mask]).double() for picture in (image, original))
        lpips = self._perceptual(image, mask, original) if self._has_lpips else None
        return {
            "psnr": float(kornia.metrics.psnr(kept, known, 255.0)),
            "max_difference": int((kept - known).abs().max()),
            "lpips": lpips,
        }

    @torch.no_grad()
    def _perceptual(self, image: np.ndarray, mask: np.ndarray, original: np.ndarray) -> float:
        kept = np.where(mask[..., None], original, image)
        self._lpips.reset()
        return float(self._lpips(self._pixels(kept), self._pixels(original)))

    def _pixels(self, image: np.ndarray) -> Tensor:
        x = torch.from_numpy(np.ascontiguousarray(image)).to(self.device)
        return x.permute(2, 0, 1)[None].contiguous().float() / 255


class Seam(Metric):
    """`seam`: gradient across the mask's border over that across parallel curves in the result; 1 means that
    nothing marks the border. `seam_original`: the same of the original, which is what the place itself reads.

    Let d(p) be the signed distance in pixels from the mask's border, positive inside. The curve at distance s
    separates the pairs of horizontally or vertically adjacent pixels with d on both sides of s, so s = 0 is the
    border. With g(s) the mean over these pairs of |difference| in grey levels, averaged over R, G and B,

        seam = (1 + g(0)) / (1 + (mean of g(s), s = 3 .. 8 + mean of g(s), s = -8 .. -3) / 2)

    where g is averaged over pairs, and a side without pairs is left out. One level is added to both, so that the
    ratio is 1 and not 0/0 where all is flat: a seam of k levels in a flat picture reads 1 + k. The curves lie
    within the same picture and run in the same directions as the border, so that texture and contrast cancel out.
    Photographs read 1.0 with masks drawn anywhere (measured: mean 1.00, 80% within 0.85 and 1.14). A mask that
    follows an object's outline reads more, as the outline is an edge at the mask's border; hence the second
    column. None where the mask has no border, or nothing at the distances it is compared with.
    """

    name = "seam"
    columns = ("seam", "seam_original")

    def __init__(self, label: str = "Seam (1 = none)", device: object = None):
        self.label = label  # computed on the CPU, whatever the device

    @property
    def settings(self) -> dict[str, int]:
        return {"near": NEAR, "far": FAR}

    def __call__(
        self, images: Arrays, masks: Arrays, prompts: Sequence[str], originals: Arrays
    ) -> dict[str, list[Value]]:
        pictures = {"seam": images, "seam_original": originals}
        return {
            column: [seam(picture, mask) for picture, mask in zip(batch, masks, strict=True)]
            for column, batch in pictures.items()
        }


def seam(image: np.ndarray, mask: np.ndarray) -> float | None:
    """The statistic of one picture, RGB uint8 [H, W, 3], and its mask, bool [H, W]; see `Seam`."""
    if mask.all() or not mask.any():
        return None
    top, bottom, left, right = bbox(mask, margin=FAR + 1)  # nothing farther than FAR from the mask matters
    image, mask = image[top:bottom, left:right], mask[top:bottom, left:right]
    totals, counts = np.zeros(2 * FAR + 1), np.zeros(2 * FAR + 1)  # of the curves at -FAR .. FAR
    level = np.floor(_signed_distance(mask)).astype(int)
    pixels = image.astype(np.float32)
    for axis in (0, 1):
        ahead, behind = (np.s_[1:], np.s_[:-1]) if axis == 0 else (np.s_[:, 1:], np.s_[:, :-1])
        curve = np.maximum(level[ahead], level[behind])
        crossed = (level[ahead] != level[behind]) & (np.abs(curve) <= FAR)
        steps = np.abs(pixels[ahead] - pixels[behind]).mean(-1)[crossed]
        totals += np.bincount(curve[crossed] + FAR, steps, 2 * FAR + 1)
        counts += np.bincount(curve[crossed] + FAR, minlength=2 * FAR + 1)
    sides = [np.s_[: FAR - NEAR + 1], np.s_[FAR + NEAR :]]
    own = [totals[side].sum() / counts[side].sum() for side in sides if counts[side].any()]
    return float((1 + totals[FAR] / counts[FAR]) / (1 + np.mean(own))) if own else None


def _signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distance of every pixel's centre from the border, half a pixel for those beside it; positive inside."""
    inside = mask.astype(np.uint8)
    to_outside, to_inside = (
        cv2.distanceTransform(m, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for m in (inside, 1 - inside)
    )
    return np.where(mask, to_outside - 0.5, 0.5 - to_inside)


class Saturation(Metric):
    """Shifts of the mean chroma sqrt(a*^2 + b*^2) of CIE L*a*b* (sRGB, D65; grey is 0, pure colours about 100).

    Chroma, unlike HSV's saturation, does not call dark, nearly grey pixels saturated.
    `saturation_shift`: inside the mask, result minus original; 0 is as colourful as what was there.
    `saturation_contrast`: result inside the mask minus the original outside it; 0 is as colourful as the
    surroundings. None where there is nothing inside or outside.
    """

    name = "saturation"
    columns = ("saturation_shift", "saturation_contrast")

    def __init__(self, label: str = "Saturation shift (Lab chroma)", device: object = None):
        self.label = label  # computed on the CPU, whatever the device

    @property
    def settings(self) -> dict[str, str]:
        return {
            "lab": "kornia"
        }  # older scores are by OpenCV's approximation, which is off by up to half a unit

    def __call__(
        self, images: Arrays, masks: Arrays, prompts: Sequence[str], originals: Arrays
    ) -> dict[str, list[Value]]:
        rows = [shifts(*sample) for sample in zip(images, masks, originals, strict=True)]
        return {name: [row[i] for row in rows] for i, name in enumerate(self.columns)}


def shifts(image: np.ndarray, mask: np.ndarray, original: np.ndarray) -> tuple[float | None, float | None]:
    """(`saturation_shift`, `saturation_contrast`) of one result; see `Saturation`."""
    if not mask.any():
        return None, None
    filled, before = mean_chroma(image[mask]), mean_chroma(original[mask])
    return filled - before, None if mask.all() else filled - mean_chroma(original[~mask])


def mean_chroma(pixels: np.ndarray) -> float:
    """The mean chroma of RGB uint8 pixels [N, 3]."""
    rgb = torch.from_numpy(pixels).T[..., None].float() / 255  # [3, N, 1], as kornia takes a picture
    _, a, b = kornia.color.rgb_to_lab(rgb)
    return float(torch.hypot(a, b).mean())
