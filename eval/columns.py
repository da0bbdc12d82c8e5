"""The numbers that tables have of each sample: their names, how they are averaged, and how they are compared."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np


def _same(value: np.ndarray) -> np.ndarray:
    return value


def _percent(value: np.ndarray) -> np.ndarray:
    return 100 * value


def _to_squared_error(psnr: np.ndarray) -> np.ndarray:
    return np.power(10.0, -psnr / 10)


def _to_psnr(error: float) -> float:
    return float("inf") if error == 0 else float(-10 * np.log10(error))


GUIDANCE = "guidance"  # no metric: what `eval.effect` left in the manifest


@dataclass(frozen=True)
class Column:
    """A number of each sample. key: its name in the score file of `metric`. head: as tables print it;
    `better` says with ↑ or ↓ which way is good. test: how it is compared with the baseline, None if it is
    not. inward, outward: into the scale that is averaged, and back.
    """

    key: str
    metric: str
    head: str
    better: str = ""
    digits: int = 2
    unit: str = ""
    test: Literal["bootstrap", "mcnemar", None] = "bootstrap"
    inward: Callable[[np.ndarray], np.ndarray] = _same
    outward: Callable[[float], float] = float

    @property
    def title(self) -> str:
        """Head, unit and arrow: "acc % ↑"."""
        return " ".join(part for part in (self.head, self.unit, self.better) if part)


COLUMNS = (
    Column("clip", "clip", "CLIP", "↑"),
    Column("acc", "accuracy", "acc", "↑", 1, "%", "mcnemar", _percent),
    Column("acc_release", "accuracy", "acc_release", "↑", 1, "%", "mcnemar", _percent),
    Column("probability", "pickscore", "PickScore, ours over it, mean", "↓", 1, "%", None, _percent),
    Column("win_rate", "pickscore", "PickScore, ours over it, wins", "↓", 1, "%", None, _percent),
    Column("psnr", "fidelity", "PSNR outside", "↑", 1, "dB", None, _to_squared_error, _to_psnr),
    Column("lpips", "fidelity", "LPIPS outside", "↓", 4),
    Column("max_difference", "fidelity", "largest change outside, mean", "↓", 1),
    Column("seam", "seam", "seam", "", 3),
    Column("seam_original", "seam", "seam before", "", 3, "", None),
    Column("saturation_shift", "saturation", "saturation shift", "", 1),
    # not compared: from the baseline it differs by what the shift does, as the original is the same for both
    Column("saturation_contrast", "saturation", "saturation contrast", "", 1, "", None),
    Column("S", GUIDANCE, "S", "↓", 4),
    Column("spread", GUIDANCE, "spread", "", 2),
)
COLUMN = {column.key: column for column in COLUMNS}
PAPER_COLUMNS = ("clip", "acc", "acc_release", "probability", "win_rate")
EXTRA_COLUMNS = (
    "psnr",
    "lpips",
    "max_difference",
    "seam",
    "seam_original",
    "saturation_shift",
    "saturation_contrast",
    "S",
    "spread",
)


def number(value: float, digits: int) -> str:
    """A number for people: a true minus, ∞, and no negative zero."""
    if value in (float("inf"), float("-inf")):
        return "∞" if value > 0 else "−∞"
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")
