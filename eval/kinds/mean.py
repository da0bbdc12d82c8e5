"""The mean colour."""

from dataclasses import dataclass

import numpy as np

from eval.kinds.base import Input, Kind


@dataclass(frozen=True)
class Mean(Kind):
    """The mask filled with the mean colour of the known pixels: a lower bound."""

    def paint(self, one: Input) -> np.ndarray:
        known = one.image[~one.mask]
        result = one.image.copy()
        result[one.mask] = np.rint(known.mean(axis=0)) if len(known) else 128
        return result
