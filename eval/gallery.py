"""Samples with their pictures for the report: which ones, as small as they need to be, and the failures."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
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
AS_LISTED = "In the benchmark's order."
THUMBNAIL, QUALITY = 224, 78  # pixels on the longer side, of WebP


@dataclass(frozen=True)
class Failures:
    """Samples that went wrong in one way, the worst first."""

    title: str
    note: str
    indices: list[int]


class Gallery:
    """The samples that a run's tables count, with their scores for every method that has results; of several
    seeds, the first's. mini: the keys of `SHOWN` whose scores a miniature made.
    """

    def __init__(self, summary: Summary):
        self.run, self.bins, self.indices = summary.run, summary.bins, summary.counted
        self.rows = summary.measured
        self.ours, self.baseline = summary.ours, summary.baseline
        self._done = {row.name: set(self.run.done(row.members[0])) for row in self.rows}
        self._scores: dict[str, dict[str, np.ndarray]] = {}
        for row in self.rows:
            found = self._scores[row.name] = {}
            scores = cache(self.run.scores)
            for key, (metric, column, _) in SHOWN.items():
                columns = scores(row.members[0], metric or summary.preferences or "") or {}
                if column in columns:
                    found[key] = columns[column]
        self.mini = [key for key, (metric, *_) in SHOWN.items() if summary.mini(metric or "pickscore")]

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
        acc, clip = self._word("acc", "acc"), self._word("clip", "CLIP")
        kinds = []
        if "acc" in ours and "acc" in theirs:
            lost = (ours["acc"] == 0) & (theirs["acc"] == 1)
            gap = ours["clip"] - theirs["clip"] if "clip" in ours and "clip" in theirs else None
            note = AS_LISTED if gap is None else f"Largest loss of {clip} first."
            kinds.append(Failures(f"{name} fails, {base} succeeds, by {acc}", note, self._worst(lost, gap)))
        if "acc" in ours:
            methods = [self._scores[row.name] for row in self.rows if row.group == "method"]
            none = np.all([scores["acc"] == 0 for scores in methods if "acc" in scores], axis=0)
            note = f"Lowest {clip} of {name} first." if "clip" in ours else AS_LISTED
            worst = self._worst(none, ours.get("clip"))
            kinds.append(Failures(f"No method succeeds, by {acc}", note, worst))
        if "logit" in ours and "logit" in theirs:
            gap = ours["logit"] - theirs["logit"]
            judge = "preference (mini)" if "logit" in self.mini else "PickScore"
            kinds.append(
                Failures(
                    f"{base} preferred to {name}, by {judge}", "Clearest first.", self._worst(gap < 0, gap)
                )
            )
        if "seam" in ours:
            seam = ours["seam"]
            worst = self._worst(~np.isnan(seam), -seam)
            kinds.append(Failures(f"Most visible seams of {name}", "Strongest first.", worst))
        return [kind for kind in kinds if kind.indices]

    def _word(self, key: str, word: str) -> str:
        return f"{word} (mini)" if key in self.mini else word

    def _worst(self, among: np.ndarray, score: np.ndarray | None = None) -> list[int]:
        """Indices of samples `among` these, the lowest scores first and those without one last."""
        indices = np.array([index for index in self.indices if among[index]], dtype=int)
        if score is not None:
            indices = indices[np.argsort(score[indices], kind="stable")]
        return indices[:OF_A_KIND].tolist()

    def choose(self, failures: Sequence[Failures], seed: int = 0) -> Iterable[int]:
        """All samples in the order of their claim to the page's space: the failures, then at random."""
        first = [index for kind in failures for index in kind.indices]
        rest = np.random.default_rng(seed).permutation(np.array(self.indices, dtype=int)).tolist()
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
        assert picture is not None, f"result {index} of {row.members[0]} went away"
        values = {
            key: _for_page(column[index], SHOWN[key][2]) for key, column in self._scores[row.name].items()
        }
        return {
            "src": thumbnail(picture),
            **{key: value for key, value in values.items() if value is not None},
        }


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


def thumbnail(picture: np.ndarray, size: int = THUMBNAIL, quality: int = QUALITY) -> str:
    """RGB uint8 [H, W, 3] as a data URI of a WebP, at most `size` pixels on the longer side."""
    image = Image.fromarray(picture)
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    image.save(data, "WEBP", quality=quality)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"
