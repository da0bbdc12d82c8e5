"""The original at the resolution of the baselines that paint squares."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from eval.kinds.base import Input, Kind
from eval.kinds.square import SIDE, joined


@dataclass(frozen=True)
class Squeezed(Kind):
    """The original squeezed to a square of 256 px and back within the mask, both bicubically: the best that GLIDE
    and NUWA-LIP can do.

    known_region: as theirs.
    """

    known_region: Literal["exact", "blended", "decoded"] = "exact"

    def paint(self, one: Input) -> np.ndarray:
        from hdpainter.baselines.square import squeeze, stretch

        picture = stretch(squeeze(one.image, SIDE)[0], one.mask.shape)
        return joined(one, np.array(picture), self.known_region)
