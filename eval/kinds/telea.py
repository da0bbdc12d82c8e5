"""Telea's inpainting."""

from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from eval.kinds.base import Input, Kind
from ldm.util import UserError


@dataclass(frozen=True)
class Telea(Kind):
    """``cv2.inpaint`` by Telea's fast marching, with the radius in pixels: a lower bound that knows no text."""

    radius: float = 3.0
    steps_of_network: ClassVar[float] = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.radius <= 100:
            raise UserError(f"radius is {self.radius:g}: give pixels, more than 0 and at most 100")

    def paint(self, one: Input) -> np.ndarray:
        return cv2.inpaint(one.image, one.mask.astype(np.uint8), self.radius, cv2.INPAINT_TELEA)
