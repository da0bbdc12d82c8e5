"""The benchmark's samples: (image, convex hull of an instance, label) from MSCOCO 2017 or toy COCO.

    python -m eval triplets --coco DIR --samples 10000 --seed 0 --out FILE
    python -m eval triplets --coco DIR --list configs/eval/mscoco_testset_10000.csv --out FILE

Bookkeeping as in the authors' release. `image_idx` counts the images of the annotation file by ascending id,
those without annotations too. `segment_idx` counts an image's annotations in the file's order, without those
whose segmentation is not a list of polygons (RLE, that is crowds). The mask is the filled convex hull of all
polygon points of an annotation together, their coordinates truncated to whole pixels.

Filters. A triplet that is drawn (`sample`) is not

- a crowd or any other annotation in RLE,
- an annotation without polygon points,
- one whose hull is degenerate: fewer than three points, or all on one line,
- one whose hull lies outside its picture,
- one of an image whose categories are all there are, so that no other label is left.

Nothing else is filtered, neither small nor large masks. A list that is read (`read_list`) is taken as it is.
"""

import argparse
import contextlib
import hashlib
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from eval.rows import read_rows, write_rows
from hdpainter.files import parse_json
from hdpainter.images import MAX_PIXELS, load_image
from ldm.util import UserError, cut, refuse_device, shown

KEYS = ("image_idx", "segment_idx")


@dataclass(frozen=True)
class Triplet:
    """One sample.

    index: its place in the list. image_id, annotation_id: MSCOCO's. image_idx, segment_idx: see the module.
    category: the true label. other: a label of nothing in this image.
    """

    index: int
    image_id: int
    annotation_id: int
    image_idx: int
    segment_idx: int
    file_name: str
    category: str
    other: str


class Coco:
    """An MSCOCO 2017 folder: ``annotations/instances_*.json`` and the images that it lists.

    root: the folder. split: "val" for ``instances_val2017.json``; None where there is only one such file.
    `sha256` is that of the annotation file's content as it was read.
    Raises UserError when the annotation file is missing, ambiguous or damaged.
    """

    def __init__(self, root: str | Path, split: str | None = None):
        self.root = Path(root)
        self.file = _annotation_file(self.root, split)
        self._coco, self.sha256 = _read_annotations(self.file)
        self.image_ids: list[int] = sorted(self._coco.imgs)

    @property
    def categories(self) -> list[str]:
        """All labels, in the order of their ids."""
        return [self._coco.cats[number]["name"] for number in sorted(self._coco.cats)]

    def segments(self, image_id: int) -> list[Mapping[str, Any]]:
        """The annotations of an image that `segment_idx` counts."""
        return [a for a in self._coco.imgToAnns.get(image_id, []) if isinstance(a["segmentation"], list)]

    def triplet(self, index: int, image_idx: int, segment_idx: int) -> Triplet:
        """The triplet at these indices. Raises UserError if the dataset has none."""
        where = f"{self.file} has no"
        if not 0 <= image_idx < len(self.image_ids):
            raise UserError(f"{where} image {image_idx}, only 0 to {len(self.image_ids) - 1}")
        image_id = self.image_ids[image_idx]
        segments = self.segments(image_id)
        if not 0 <= segment_idx < len(segments):
            raise UserError(
                f"{where} segment {segment_idx} in image {image_idx} (id {image_id}), which has {len(segments)}"
            )
        annotation = segments[segment_idx]
        return Triplet(
            index,
            image_id,
            annotation["id"],
            image_idx,
            segment_idx,
            self._coco.imgs[image_id]["file_name"],
            self._coco.cats[annotation["category_id"]]["name"],
            self._other(image_id, annotation["id"]),
        )

    def image(self, triplet: Triplet) -> np.ndarray:
        """The picture as RGB uint8 [H, W, 3]. Raises UserError if it is missing, damaged or of another size."""
        picture = load_image(self.image_path(triplet))
        if picture.size != (size := self.size(triplet.image_id)):
            (w, h), (width, height) = picture.size, size
            raise UserError(
                f"{self.image_path(triplet)} is {w} x {h} pixels, but {self.file.name} says {width} x {height}: "
                "these annotations are not of these images"
            )
        return np.array(picture)

    def mask(self, triplet: Triplet, precise: bool = False) -> np.ndarray:
        """The filled convex hull as bool [H, W], at the image's size. Raises UserError if there is none in it.

        precise: the object itself instead, all that its polygons cover.
        """
        annotation = self._coco.anns[triplet.annotation_id]
        points = self._points(annotation)
        if len(points) == 0:
            raise UserError(f"annotation {triplet.annotation_id} in {self.file} has no polygon points")
        size = self.size(triplet.image_id)
        mask = self._outline(annotation, size) if precise else self._hull(points, size)
        if not mask.any():
            raise UserError(
                f"annotation {triplet.annotation_id} in {self.file} lies outside its picture: take it out"
            )
        return mask

    @staticmethod
    def _hull(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """The filled convex hull within a picture of (width, height), bool."""
        mask = np.zeros(size[::-1], np.uint8)
        cv2.fillPoly(mask, [cv2.convexHull(points)], 1)
        return mask.astype(bool)

    @staticmethod
    def _outline(annotation: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
        """The union of an annotation's filled polygons within a picture of (width, height), bool."""
        mask = np.zeros(size[::-1], np.uint8)
        for polygon in filter(
            None, annotation["segmentation"]
        ):  # one by one: together, overlaps would be holes
            cv2.fillPoly(mask, [np.reshape(polygon, (-1, 2)).astype(np.int32)], 1)
        return mask.astype(bool)

    def usable(self, annotation: Mapping[str, Any]) -> bool:
        """Whether an annotation with polygons passes the filters of the module."""
        if annotation.get("iscrowd"):
            return False
        points = self._points(annotation)
        if len(points) < 3 or cv2.contourArea(cv2.convexHull(points)) == 0:
            return False
        size = self.size(annotation["image_id"])
        inside = (points >= 0).all() and (points < size).all()
        if not inside and not self._hull(points, size).any():
            return False
        return len(self._absent(annotation["image_id"])) > 0

    def _points(self, annotation: Mapping[str, Any]) -> np.ndarray:
        """All polygon points of an annotation, int32 [N, 2] (x, y), truncated."""
        polygons = annotation["segmentation"]
        if not all(isinstance(p, list) and len(p) % 2 == 0 and all(map(_is_coordinate, p)) for p in polygons):
            raise UserError(
                f"{self.file}: the segmentation of annotation {annotation['id']} is no list of polygons "
                "[x, y, x, y, ...]: mend it or take the annotation out"
            )
        return np.reshape([value for p in polygons for value in p], (-1, 2)).astype(np.int32)

    def image_path(self, triplet: Triplet) -> Path:
        """Where the picture lies: in the folder named like the annotation file, or else in ``images``."""
        return self._images / triplet.file_name

    @cached_property
    def _images(self) -> Path:
        named = self.root / self.file.stem.removeprefix("instances_")
        return named if named.is_dir() or not (self.root / "images").is_dir() else self.root / "images"

    def size(self, image_id: int) -> tuple[int, int]:
        """(width, height) of an image, as the annotation file says."""
        return self._coco.imgs[image_id]["width"], self._coco.imgs[image_id]["height"]

    def labels(self, image_id: int) -> list[str]:
        """The labels of all that is in the image, crowds counted too, in the order of their ids."""
        there = self._coco.imgToAnns.get(image_id, [])
        present = {self._coco.cats[annotation["category_id"]]["name"] for annotation in there}
        return [name for name in dict.fromkeys(self.categories) if name in present]

    def _absent(self, image_id: int) -> list[str]:
        """The labels of nothing in the image."""
        present = self.labels(image_id)
        return [name for name in dict.fromkeys(self.categories) if name not in present]

    def _other(self, image_id: int, annotation_id: int) -> str:
        """Depends on the annotation alone, so that it is the same in every list."""
        absent = self._absent(image_id)
        return str(np.random.default_rng((image_id, annotation_id)).choice(absent)) if absent else ""


def sample(coco: Coco, n: int, seed: int = 0) -> list[Triplet]:
    """`n` different triplets drawn evenly from all that pass the filters of the module, in random order.

    The same dataset and seed give the same list, and its beginning is the list for a smaller `n`. Raises
    UserError if there are fewer than `n`.
    """
    if seed < 0:
        raise UserError(f"seed is {seed}: give a whole number from 0 up")
    candidates = [
        (image_idx, segment_idx)
        for image_idx, image_id in enumerate(coco.image_ids)
        for segment_idx, annotation in enumerate(coco.segments(image_id))
        if coco.usable(annotation)
    ]
    if not 1 <= n <= len(candidates):
        raise UserError(f"samples is {shown(n)}: {coco.file} has {len(candidates)} usable triplets")
    order = np.random.default_rng(seed).permutation(len(candidates))[:n]
    return [coco.triplet(index, *candidates[place]) for index, place in enumerate(order)]


def read_list(coco: Coco, path: str | Path) -> list[Triplet]:
    """The triplets of a CSV file with the columns image_idx and segment_idx, in its order, without filters.

    Columns that `write_list` adds are compared with the dataset. Raises UserError, naming the line, for what is
    no such list and for one that does not match the dataset.
    """
    path = Path(path)
    triplets: list[Triplet] = []
    for number, row in enumerate(read_rows(path, KEYS), start=2):
        try:
            triplet = coco.triplet(len(triplets), *(int(row[key]) for key in KEYS))
        except UserError as error:
            raise UserError(f"{path} line {number} does not match the dataset: {error}") from None
        except ValueError:
            raise UserError(
                f"{path} line {number}: image_idx and segment_idx must be whole numbers"
            ) from None
        for key in ("image_id", "annotation_id", "file_name", "category", "other"):
            if key in row and row[key] != str(getattr(triplet, key)):
                raise UserError(
                    f"{path} line {number} does not match the dataset: {key} is {row[key]!r} in the list, "
                    f"{str(getattr(triplet, key))!r} in {coco.file}"
                )
        triplets.append(triplet)
    if not triplets:
        raise UserError(f"{path} lists no samples")
    return triplets


def write_list(triplets: Sequence[Triplet], path: str | Path) -> None:
    """Write triplets as a CSV file that `read_list` reads; its index is the row."""
    columns = [field.name for field in fields(Triplet) if field.name != "index"]
    write_rows(Path(path), [*KEYS, *(c for c in columns if c not in KEYS)], map(asdict, triplets))


def add_parser(subparsers: Any) -> None:
    """The command ``triplets``."""
    parser = subparsers.add_parser(
        "triplets",
        help="draw the benchmark's samples from MSCOCO or toy COCO",
        description="Draw triplets (image, convex hull of an instance, label) and write them as CSV.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("--coco", type=Path, required=True, help="folder with annotations/ and the images")
    parser.add_argument("--split", help="val for instances_val2017.json (default: the only such file)")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--samples", type=int, help="how many to draw")
    source.add_argument(
        "--list", type=Path, help="a CSV with image_idx and segment_idx, such as the authors'"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the drawing (default: 0)")
    parser.add_argument("--out", type=Path, required=True, help="the CSV file to write")


def run(args: argparse.Namespace) -> int:
    """Write the list that the command line asks for."""
    coco = Coco(args.coco, args.split)
    triplets = read_list(coco, args.list) if args.list else sample(coco, args.samples, args.seed)
    write_list(triplets, args.out)
    images = len({triplet.image_id for triplet in triplets})
    print(f"{len(triplets)} triplets of {images} images in {args.out}")
    return 0


def _annotation_file(root: Path, split: str | None) -> Path:
    folder = root / "annotations"
    if split is not None:
        file = folder / f"instances_{split}2017.json"
        if not file.is_file():
            raise UserError(f"{file} is not there: give the folder of MSCOCO 2017, or of toy COCO")
        return file
    found = sorted(folder.glob("instances_*.json"))
    if not found:
        raise UserError(
            f"{folder} has no instances_*.json: give the folder of MSCOCO 2017, or make toy COCO with "
            "python -m hdpainter.mini.world.toycoco"
        )
    if len(found) > 1:
        raise UserError(f"{folder} has {', '.join(file.name for file in found)}: say which with --split")
    return found[0]


def _read_annotations(file: Path) -> tuple[Any, str]:
    """(the annotations as pycocotools has them, the SHA-256 of the file)."""
    try:
        from pycocotools.coco import COCO
    except ImportError:
        raise UserError("pycocotools is not installed: pip install -e '.[eval]'") from None
    try:
        refuse_device(file)
        content = file.read_bytes()
        coco = COCO()
        coco.dataset = parse_json(content)
        if not isinstance(coco.dataset, dict):
            raise TypeError(f"it holds a {type(coco.dataset).__name__}")
        with contextlib.redirect_stdout(io.StringIO()):  # it reports its timings there
            coco.createIndex()
        _check(coco)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{file} is damaged or not MSCOCO's instances: {cut(reason, 200)}") from None
    if not coco.imgs:
        raise UserError(f"{file} lists no images")
    return coco, hashlib.sha256(content).hexdigest()


def _check(coco: Any) -> None:
    """Raise TypeError, KeyError or ValueError for annotations that could give a sample another object's mask."""
    for kind in ("images", "annotations", "categories"):
        for number, count in Counter(entry["id"] for entry in coco.dataset.get(kind, ())).items():
            if type(number) is not int or not 0 <= number < 2**63:
                raise TypeError(f"{kind}: the id {shown(number)} is no whole number from 0 up")
            if count > 1:
                raise ValueError(
                    f"{kind}: the id {number} stands {count} times, so it does not tell which is meant"
                )
    for image in coco.imgs.values():
        size, file = [image["width"], image["height"]], image["file_name"]
        if not all(type(side) is int and side > 0 for side in size) or math.prod(size) > MAX_PIXELS:
            raise TypeError(f"image {image['id']} has the size {shown(size)}")
        if not isinstance(file, str) or not file or Path(file).is_absolute() or ".." in Path(file).parts:
            raise TypeError(f"image {image['id']} has the file_name {shown(file)}, which is none in a folder")
    for category in coco.cats.values():
        if not isinstance(category["name"], str) or not category["name"].strip():
            raise TypeError(
                f"category {category['id']} has the name {shown(category['name'])}, which is no text"
            )
    for annotation in coco.anns.values():
        _ = coco.cats[annotation["category_id"]], coco.imgs[annotation["image_id"]]
        if not isinstance(annotation["segmentation"], list | dict):
            raise TypeError(f"annotation {annotation['id']} has no segmentation")


def _is_coordinate(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e6  # neither NaN nor infinite
