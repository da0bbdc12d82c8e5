"""The original image."""

from dataclasses import dataclass

import numpy as np

from eval.kinds.base import Input, Kind


@dataclass(frozen=True)
class Original(Kind):
    """The original image: an upper bound where the prompt is the true label."""

    def paint(self, one: Input) -> np.ndarray:
        return one.image
