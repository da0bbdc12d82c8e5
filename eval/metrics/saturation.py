"""Whether fills are more colourful than what they replace and what is around them."""

import cv2
import numpy as np

from eval.metrics.base import Metric, Value


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
        self.label = label  # computed with NumPy, on any device's host

    def __call__(self, images, masks, prompts, originals) -> dict[str, list[Value]]:
        rows = [shifts(*sample) for sample in zip(images, masks, originals, strict=True)]
        return {name: [row[i] for row in rows] for i, name in enumerate(self.columns)}


def shifts(image: np.ndarray, mask: np.ndarray, original: np.ndarray) -> tuple[float | None, float | None]:
    """(`saturation_shift`, `saturation_contrast`) of one result; see `Saturation`."""
    if not mask.any():
        return None, None
    before, filled = chroma(original), float(chroma(image)[mask].mean())
    outside = None if mask.all() else filled - float(before[~mask].mean())
    return filled - float(before[mask].mean()), outside


def chroma(image: np.ndarray) -> np.ndarray:
    """Chroma [H, W] of an RGB uint8 picture [H, W, 3]."""
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return np.hypot(lab[..., 1], lab[..., 2])
