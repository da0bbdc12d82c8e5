"""A results folder: samples, inputs, results of every method, scores.

    RUN/run.json                      what the folder was made with
    RUN/triplets.csv                  one row for each sample
    RUN/inputs/000000.png             image at evaluation size; 000000-mask.png: its mask, black and white
    RUN/METHOD/000000.png             result at evaluation size
    RUN/METHOD/manifest.jsonl         one line for each finished result: index, seed, seconds, sha256, settings,
                                      device, code (the version of it); of networks also dtype and
                                      batch (how many were made at once)
    RUN/METHOD/scores/METRIC.csv      one row for each scored result: index, the metric's columns, and the digest
                                      (SHA-256) of the picture that was scored

Evaluation size: image and mask resized (bicubic) to `size` pixels on the longer side; every pixel of the resized
mask that is not zero counts, as in the authors' release. The same mask is filled, cropped and scored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from eval.rows import read_rows
from hdpainter.files import file_sha256, parse_json, refuse_name
from hdpainter.images import load_image
from ldm.util import UserError, shown

RUN_FILE, TRIPLETS_FILE, INPUTS, MANIFEST = "run.json", "triplets.csv", "inputs", "manifest.jsonl"
DIGEST = "digest"  # column of a score file


@dataclass(frozen=True)
class Sample:
    """A row of triplets.csv: a Triplet with the prompt that the methods get.

    index: counts from 0. category: the true label. prompt: the label to paint, true or another.
    mask_share: share of the image's pixels that the mask covers, in (0, 1], at evaluation size.
    labels: all that the image has, joined by ";"; of older runs the true label alone.
    """

    index: int
    image_id: int
    annotation_id: int
    image_idx: int
    segment_idx: int
    file_name: str
    category: str
    prompt: str
    mask_share: float
    labels: str = ""

    def __post_init__(self) -> None:
        if not self.labels:
            object.__setattr__(self, "labels", self.category)


class Run:
    """A results folder that is there; `eval.generate` makes one.

    path: the folder. info: the content of run.json. triplets: the samples, in order of their index.
    Pictures are RGB uint8 [H, W, 3], masks bool [H, W] with True = filled.
    """

    def __init__(self, path: Path, info: Mapping[str, Any], triplets: Sequence[Sample]):
        self.path, self.info, self.triplets = path, info, list(triplets)

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """The results folder at `path`. Raises UserError if it is none, or damaged."""
        path = Path(path)
        file = path / RUN_FILE
        if not file.is_file():
            raise UserError(
                f"{path} is not a results folder: it has no {RUN_FILE}; python -m eval generate makes one"
            )
        try:
            info = parse_json(file.read_text(encoding="utf-8"))
            _ = info["benchmark"].items()
            if type(info["size"]) is not int or not 0 < info["size"] < 2**31:
                raise TypeError(f"size is {shown(info['size'])}")
            _ = [(entry["label"], entry.items()) for entry in info["methods"].values()]
            for name, entry in info["methods"].items():
                parts = [entry.get("settings"), entry.get("varied")]
                if not (isinstance(entry["label"], str) and all(isinstance(p, dict | None) for p in parts)):
                    raise TypeError(f"the entry of {shown(name)} is none of a method")
                if name != Path(name).name or name in ("", "..") or "\\" in name:
                    raise ValueError(f"{shown(name)} is not the name of a method's folder")
                refuse_name(path / name / TRIPLETS_FILE)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{file} is damaged ({error}): make the results again") from None
        return cls(path, info, read_samples(path / TRIPLETS_FILE))

    @property
    def size(self) -> int:
        """Longer side of all pictures, in pixels."""
        return self.info["size"]

    @property
    def methods(self) -> list[str]:
        """Names of the methods, in the order of tables; also those that were not run (`why_not`)."""
        return list(self.info["methods"])

    def method(self, name: str) -> Mapping[str, Any]:
        """What run.json says of a method: label, kind, base, varied, settings, why_not.

        base: its name without what a grid varies. varied: that, such as {"eta": 0.1} or {"seed": 2}.
        why_not: why there are no results; None otherwise. Raises UserError for an unknown method.
        """
        if name not in self.info["methods"]:
            raise UserError(f"{self.path} has no method {name!r}; it has {', '.join(self.methods)}")
        return self.info["methods"][name]

    def label(self, name: str) -> str:
        """How a table prints the method."""
        return self.method(name)["label"]

    def folder(self, method: str) -> Path:
        """Where a method's results are."""
        return self.path / method

    def result_path(self, method: str, index: int) -> Path:
        """The file of a result, whether it is there or not."""
        return self.folder(method) / f"{index:06d}.png"

    def image_path(self, index: int) -> Path:
        """The file of an input image."""
        return self.path / INPUTS / f"{index:06d}.png"

    def mask_path(self, index: int) -> Path:
        """The file of a mask."""
        return self.path / INPUTS / f"{index:06d}-mask.png"

    def image(self, index: int) -> np.ndarray:
        """The original at evaluation size."""
        return np.array(load_image(self.image_path(index)))

    def mask(self, index: int) -> np.ndarray:
        """What is to be filled, at evaluation size."""
        return np.array(load_image(self.mask_path(index)))[..., 0] > 0

    def result(self, method: str, index: int) -> np.ndarray | None:
        """A method's picture; None if there is none. Raises UserError if the file is damaged."""
        path = self.result_path(method, index)
        return np.array(load_image(path)) if path.is_file() else None

    def manifest(self, method: str) -> dict[int, dict[str, Any]]:
        """The lines of a method's manifest by index. Neither a line that a kill cut short counts, nor one of
        other settings than the method's."""
        path = self.folder(method) / MANIFEST
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        ours = self.info["methods"].get(method, {}).get("hash")
        count = len(self.triplets)
        rows = [row for row in map(_parse, lines) if row is not None and 0 <= row["index"] < count]
        return {row["index"]: row for row in rows if ours is None or row.get("settings", ours) == ours}

    def done(self, method: str) -> list[int]:
        """Indices of the finished results, ascending: listed in the manifest, and the picture is there."""
        return sorted(i for i in self.manifest(method) if self.result_path(method, i).is_file())

    def dtypes(self, method: str) -> set[str]:
        """In what a method's finished results were computed, such as {"bfloat16"}; older results do not say."""
        return self.noted(method, "dtype")

    def noted(self, method: str, key: str) -> set[str]:
        """What the manifest says under `key` of a method's finished results; older results may not say it."""
        rows = self.manifest(method)
        return {str(rows[index][key]) for index in self.done(method) if rows[index].get(key)}

    def numbers_noted(self, method: str) -> dict[str, np.ndarray]:
        """The numbers that the manifest has of a method's results by name, [n] each, nan where there is none."""
        rows = self.manifest(method)
        found: dict[str, np.ndarray] = {}
        for index in self.done(method):
            for key, value in rows[index].items():
                if isinstance(value, float):
                    found.setdefault(key, np.full(len(self.triplets), np.nan))[index] = value
        return found

    @cached_property
    def mask_shares(self) -> np.ndarray:
        """mask_share of every sample, float [n]."""
        return np.array([sample.mask_share for sample in self.triplets])

    def score_path(self, method: str, metric: str) -> Path:
        """The file of a metric's scores."""
        return self.folder(method) / "scores" / f"{metric}.csv"

    def scores(self, method: str, metric: str) -> dict[str, np.ndarray] | None:
        """The columns of a metric, each [n] with the value of sample i at i; None if it was not computed.

        Scores of results that are gone, or were made again since, do not count. Numbers are float64, nan where a
        sample has no score; a column with any other text is an object array of str, "" where a sample has none.
        Raises UserError for a damaged file.
        """
        path = self.score_path(method, metric)
        if not path.is_file():
            return None
        rows = read_rows(path, ["index"])
        columns = [name for name in (rows[0] if rows else {}) if name not in ("index", DIGEST)]
        try:
            places = [int(row["index"]) for row in rows]
            if places and not 0 <= min(places) <= max(places) < len(self.triplets):
                raise ValueError("an index is out of range")
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}): delete it and score again") from None
        made, written = self.manifest(method), path.stat().st_mtime_ns
        valid = [
            (i, row)
            for i, row in zip(places, rows, strict=True)
            if i in made and still_holds(row, digest_of(made[i]), self.result_path(method, i), written)
        ]
        places = [i for i, _ in valid]
        return {
            name: _column([row[name] for _, row in valid], places, len(self.triplets)) for name in columns
        }


def digest_of(row: Mapping[str, Any]) -> str:
    """The SHA-256 of a result by its row of the manifest; empty where that has none."""
    return str(row.get("sha256") or "")


def still_holds(row: Mapping[str, Any], digest: str, picture: Path, written: int) -> bool:
    """Whether a row of scores is of what is there now: of the same digest, and of a picture that is not newer.

    written: when the scores were, in ns. A row without a digest is of an older version. A picture that is newer
    and yet the same, by its contents, is a copy.
    """
    stored = row.get(DIGEST)
    if stored and digest and stored != digest:
        return False
    try:
        newer = picture.stat().st_mtime_ns > written
        return not newer or (bool(stored) and file_sha256(picture) == stored)
    except OSError:
        return False


def read_samples(path: Path) -> list[Sample]:
    """The samples in a triplets.csv. Raises UserError if it is damaged."""
    hints = get_type_hints(Sample)
    rows = read_rows(path, [name for name in hints if name != "labels"])
    try:
        samples = [
            Sample(**{name: kind(row[name]) for name, kind in hints.items() if name in row}) for row in rows
        ]
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if not all(0 < sample.mask_share <= 1 for sample in samples):
        raise UserError(f"{path} is damaged: mask_share is no share from 0 to 1")
    if [sample.index for sample in samples] != list(range(len(samples))):
        raise UserError(f"{path} is damaged: its index does not count from 0")
    return samples


def _parse(line: str) -> dict[str, Any] | None:
    try:
        row = parse_json(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and type(row.get("index")) is int else None


def _column(values: Sequence[str], places: Sequence[int], count: int) -> np.ndarray:
    try:
        numbers = [float(value) if value else np.nan for value in values]
    except ValueError:
        column = np.full(count, "", dtype=object)
        column[places] = values
        return column
    column = np.full(count, np.nan)
    column[places] = numbers
    return column
