"""Samples with their pictures for the report: which ones, as small as they need to be, and the failures."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image

from eval.grids import bin_name
from eval.runs import Run, Sample
from eval.summary import Row, Summary

SHOWN = {  # of each picture: key on the page -> metric, column, digits
    "clip": ("clip", "clip", 2),
    "acc": ("accuracy", "acc", 0),
    "release": ("accuracy", "acc_release", 0),
    "label": ("accuracy", "best_label", None),
    "score": ("accuracy", "best_score", 2),
    "logit": (None, "logit", 2),
    "seam": ("seam", "seam", 2),
    "psnr": ("fidelity", "psnr", 1),
    "change": ("fidelity", "max_difference", 0),
    "lpips": ("fidelity", "lpips", 4),
    "shift": ("saturation", "saturation_shift", 1),
    "contrast": ("saturation", "saturation_contrast", 1),
}
OF_A_KIND = 12  # failures
THUMBNAIL, QUALITY = 224, 78  # pixels on the longer side, of WebP


@dataclass(frozen=True)
class Failures:
    """Samples that went wrong in one way, the worst first."""

    title: str
    note: str
    indices: list[int]


class Gallery:
    """The samples of a run with their scores for every method that has results; of several seeds, the first's."""

    def __init__(self, summary: Summary):
        self.run, self.bins = summary.run, summary.bins
        self.rows = summary.measured
        self.ours, self.baseline = summary.ours, summary.baseline
        self._done = {row.name: set(self.run.done(row.members[0])) for row in self.rows}
        self._scores: dict[str, dict[str, np.ndarray]] = {}
        for row in self.rows:
            found = self._scores[row.name] = {}
            for key, (metric, column, _) in SHOWN.items():
                columns = self.run.scores(row.members[0], metric or summary.preferences or "") or {}
                if column in columns:
                    found[key] = columns[column]

    def label(self, row: Row) -> str:
        """What stands under the row's pictures: with the seed that is shown, where there are several."""
        if len(row.members) == 1:
            return row.label
        info = self.run.method(row.members[0])
        seed = info["settings"].get("seed", (info.get("varied") or {}).get("seed"))
        return f"{row.label}: picture and scores of seed {seed}"

    def failures(self) -> list[Failures]:
        """Where ours does worst, in every way that there are scores for; empty without results of it."""
        if self.ours not in self._scores:
            return []
        ours, theirs = self._scores[self.ours], self._scores.get(self.baseline or "", {})
        label = {row.name: self.label(row) for row in self.rows}
        name, base = label[self.ours], label.get(self.baseline or "")
        gap = ours.get("clip", 0) - theirs.get("clip", np.zeros(len(self.run.triplets)))
        kinds = []
        if "acc" in ours and "acc" in theirs:
            lost = (ours["acc"] == 0) & (theirs["acc"] == 1)
            kinds.append(
                Failures(f"{name} fails, {base} succeeds", "Largest loss of CLIP first.", _worst(gap, lost))
            )
        if "acc" in ours:
            methods = [self._scores[row.name] for row in self.rows if row.group == "method"]
            none = np.all([scores["acc"] == 0 for scores in methods if "acc" in scores], axis=0)
            score = ours.get("clip", ours["acc"])
            kinds.append(Failures("No method succeeds", f"Lowest CLIP of {name} first.", _worst(score, none)))
        if "logit" in ours and "logit" in theirs:
            worse = ours["logit"] - theirs["logit"]
            kinds.append(Failures(f"{base} preferred to {name}", "Clearest first.", _worst(worse, worse < 0)))
        if "seam" in ours:
            kinds.append(Failures(f"Most visible seams of {name}", "Strongest first.", _worst(-ours["seam"])))
        return [kind for kind in kinds if kind.indices]

    def choose(self, failures: Sequence[Failures], seed: int = 0) -> Iterable[int]:
        """All samples in the order of their claim to the page's space: the failures, then at random."""
        first = [index for kind in failures for index in kind.indices]
        rest = np.random.default_rng(seed).permutation(len(self.run.triplets)).tolist()
        return dict.fromkeys([*first, *rest])

    def sample(self, index: int) -> dict[str, Any]:
        """A sample for the page: words, scores, and pictures as data URIs."""
        triplet = self.run.triplets[index]
        return {
            "index": index,
            "prompt": triplet.prompt,
            "category": triplet.category,
            "file": triplet.file_name,
            "share": round(100 * triplet.mask_share, 1),
            "bin": bin_name(int(self.bins[index])),
            "input": thumbnail(outlined(self.run, triplet)),
            "results": [self._result(row, index) for row in self.rows],
        }

    def _result(self, row: Row, index: int) -> dict[str, Any] | None:
        if index not in self._done[row.name]:
            return None
        picture = self.run.result(row.members[0], index)
        values = {
            key: _for_page(column[index], SHOWN[key][2]) for key, column in self._scores[row.name].items()
        }
        return {
            "src": thumbnail(picture),
            **{key: value for key, value in values.items() if value is not None},
        }


def _worst(score: np.ndarray, among: np.ndarray | None = None) -> list[int]:
    """Indices with the lowest scores, in order."""
    score = np.where(among, score, np.nan) if among is not None else score
    order = np.argsort(score, kind="stable")
    return [int(i) for i in order[:OF_A_KIND] if not np.isnan(score[i])]


def _for_page(value: Any, digits: int | None) -> Any:
    if digits is None:
        return str(value) if isinstance(value, str) and value else None  # nan: no sample has any
    return None if not np.isfinite(value) else round(float(value), digits)


def outlined(run: Run, triplet: Sample) -> np.ndarray:
    """The input picture with the mask's outline, white on black so that it shows on anything."""
    picture, mask = run.image(triplet.index).copy(), run.mask(triplet.index).astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    width = max(1, round(max(mask.shape) / THUMBNAIL))
    cv2.drawContours(picture, contours, -1, (0, 0, 0), 3 * width)
    cv2.drawContours(picture, contours, -1, (255, 255, 255), width)
    return picture


def thumbnail(picture: np.ndarray, size: int = THUMBNAIL) -> str:
    """RGB uint8 [H, W, 3] as a data URI of a WebP, at most `size` pixels on the longer side."""
    image = Image.fromarray(picture)
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    image.save(data, "WEBP", quality=QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"
