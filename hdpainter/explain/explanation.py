"""What the methods did to one sample, with its figures, its numbers and a page that shows them all."""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from hdpainter.explain.observation import Observation, observe
from hdpainter.files import make_folder, replacing, write_text
from hdpainter.images import Source, save_png
from hdpainter.inputs import InputSettings, read
from hdpainter.jobs.progress import OnStep
from hdpainter.masks import Grey, Mask, binarize, prepare, stage_size
from hdpainter.pipeline import HDPainter
from hdpainter.prompts import word_spans
from hdpainter.settings import COMPARED, Adjustments, Method, Size
from hdpainter.values import convert
from hdpainter.windows import holes, window
from ldm.util import UserError

if TYPE_CHECKING:
    from hdpainter.explain.figures import Plate

START, END, REST = "<start>", "<end>", "<rest>"


class Explanation(Observation):
    """An observation, and everything that is made of it; matplotlib is needed only where figures are."""

    @cached_property
    def plates(self) -> "dict[str, Plate]":
        """The figures with their titles and captions, drawn when first asked for."""
        from hdpainter.explain.figures import draw

        return draw(self)

    @property
    def figures(self) -> dict[str, Image.Image]:
        """The figures by their names, which are also the names of their files."""
        return {name: plate.image for name, plate in self.plates.items()}

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Every number behind the figures: "mask", "columns", and those of each `Trace` as "hd-painter/c-2"."""
        arrays = {"mask": self.mask, "columns": np.array(self.columns)}
        for name, explained in self.methods.items():
            arrays |= {f"{name}/{key}": values for key, values in explained.trace.arrays().items()}
        return arrays

    def save(self, folder: str | Path) -> Path:
        """Write the figures, x0.gif, each method's picture, arrays.npz and, last, index.html, which shows them.

        Every file appears whole or not at all. Returns the path of index.html.
        """
        from hdpainter.explain.animation import animate, save_gif
        from hdpainter.explain.page import render

        folder = Path(folder)
        make_folder(folder)
        for name, image in self.figures.items():
            save_png(image, folder / f"{name}.png")
        save_gif(animate(self), folder / "x0.gif")
        for name, explained in self.methods.items():
            save_png(explained.result.image, folder / f"picture-{name}.png", explained.result.metadata)
        with replacing(folder / "arrays.npz") as path:
            np.savez_compressed(path, **self.arrays)  # type: ignore[arg-type]  # none is called allow_pickle
        return write_text(folder / "index.html", render(self, self.plates))


def explain(
    painter: HDPainter,
    image: Source,
    mask: Source | None,
    prompt: str,
    methods: Sequence[str | Path | Method] = COMPARED,
    seed: int = 0,
    *,
    frames: int = 6,
    size: int | None = None,
    pixel: tuple[int, int] | None = None,
    progress: OnStep | None = None,
    **adjustments: Any,
) -> Explanation:
    """Fill the mask by each of the methods, with the same noise, and record how.

    image, mask, prompt, seed: as for `HDPainter`. methods: names, YAML files or `Method`s.
    frames: how many steps, evenly spaced from first to last, the figures show.
    size: longer side of stage 1 in pixels; the model's own by default.
    pixel: (x, y) in the picture of one to fill, whose self-attention is shown; by default the mean of all.
    progress: called with (method, step, steps).
    adjustments: fields of `Adjustments` that concern stage 1, for all methods.

    What is explained is stage 1: the pictures are made without stage 2, and are otherwise those that the painter
    makes unobserved. Raises UserError for bad input.
    """
    size = painter.models.spec.size if size is None else convert(Size, size, "size")
    settings = Adjustments(**adjustments)
    loaded = (method if isinstance(method, Method) else Method.load(method) for method in methods)
    chosen = by_name([method.adjusted(settings) for method in loaded])
    if frames < 1:
        raise UserError(f"frames is {frames}: give a number of steps to show, 1 or more")
    masks = next(iter(chosen.values())).masks
    picture, grey, (left, top) = _looked_at(image, mask, next(iter(chosen.values())))
    chosen = {name: replace(method, input=InputSettings()) for name, method in chosen.items()}
    height, width = stage_size(picture.height, picture.width, size)
    if pixel is not None:
        pixel = pixel[0] - left, pixel[1] - top
        check_pixel(pixel, binarize(grey, masks.threshold))
        pixel = pixel[0] * width // picture.width, pixel[1] * height // picture.height
    explained = {
        name: observe(painter, picture, grey, prompt, method, seed, size, frames, pixel, progress)
        for name, method in chosen.items()
    }
    return Explanation(
        prompt,
        seed,
        picture.resize((width, height), Image.Resampling.BICUBIC),
        prepare(grey, (height, width), 1, masks),
        [START, *(word for word, _ in word_spans(prompt)), END, REST],
        painter.models.spec.rasg_levels[0],
        pixel,
        explained,
    )


def _looked_at(
    image: Source, mask: Source | None, method: Method
) -> tuple[Image.Image, Grey, tuple[int, int]]:
    """The picture and the mask as stage 1 is to see them, in a window of their own where the method has one, and
    where that is: (left, top)."""
    picture, grey = read(image, mask, method.input, method.masks.threshold)
    filled = binarize(grey, method.masks.threshold)
    if method.input.each_hole and (count := holes(filled)[1]) > 1:
        raise UserError(f"the mask has {count} holes to fill one after the other: explain them one by one")
    where = window(filled, method.input.only_masked)
    rows, columns = where
    return Image.fromarray(np.asarray(picture)[where]), grey[where], (columns.start, rows.start)


def by_name(methods: Sequence[Method]) -> dict[str, Method]:
    """Methods by their names, which are to be names of files. Raises UserError if they cannot be."""
    names = [method.name for method in methods]
    if not names or len(set(names)) < len(names):
        raise UserError(f"methods are {', '.join(names) or 'none'}: give at least one, and none twice")
    if unfit := [name for name in names if not re.fullmatch(r"[\w.,=+-]+", name)]:
        raise UserError(f"the method's name {unfit[0]!r} does not fit in a file name: rename it")
    return dict(zip(names, methods, strict=True))


def with_objectives(methods: Sequence[Method], objectives: Sequence[str]) -> list[Method]:
    """Methods with RASG, or the guidance of Eq. 6, once for each objective and named after it, "rasg-l1"; the
    others as they are. Raises UserError where an objective is unknown, and where no method has any."""
    if objectives and all(method.rasg is None for method in methods):
        names = ", ".join(method.name for method in methods)
        raise UserError(f"there is no objective in {names}: add a method with RASG")
    varied = []
    for method in methods:
        if method.rasg is None or not objectives:
            varied.append(method)
            continue
        for name in objectives:
            changed = method.override({"rasg.objective": name})
            varied.append(replace(changed, name=f"{method.name}-{name}"))
    return varied


def check_pixel(pixel: tuple[int, int], fill: Mask) -> None:
    """Raise UserError where the pixel (x, y) is not one that the mask fills."""
    x, y = pixel
    height, width = fill.shape
    if not (0 <= x < width and 0 <= y < height):
        raise UserError(f"pixel {x},{y} is outside the picture, whose last is {width - 1},{height - 1}")
    if not fill[y, x]:
        raise UserError(f"pixel {x},{y} is not in the mask: give one that is to be filled")
