"""One sample made by several methods under observation, and what is kept of it."""

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from hdpainter.explain import METHODS
from hdpainter.explain.page import render
from hdpainter.explain.trace import Recorder, Trace
from hdpainter.files import make_folder
from hdpainter.images import Source, load_image, load_mask, save_png
from hdpainter.inpaint import FACTOR
from hdpainter.masks import prepare, stage_size
from hdpainter.pipeline import HDPainter, Result
from hdpainter.prompts import CONTEXT_LENGTH, token_indices, word_spans
from hdpainter.settings import Method, whole_number
from hdpainter.tensors import pyramid, to_image
from ldm.util import UserError

if TYPE_CHECKING:
    from hdpainter.explain.figures import Plate

START, END, REST = "<start>", "<end>", "<rest>"


@dataclass(frozen=True)
class Explained:
    """One method's part. frames: numbers of the steps that the figures show, from 0; predictions: the predicted
    x_0 at these steps, decoded, of stage 1's size."""

    method: Method
    result: Result
    trace: Trace
    frames: list[int]
    predictions: list[Image.Image]


@dataclass(frozen=True)
class Explanation:
    """What the methods did to one sample.

    image: the input at stage 1's size; mask: bool [h, w] of that size, True = fill.
    columns: what the columns of `Trace.attention` stand for: "<start>", the prompt's words, "<end>" and "<rest>",
        that is the method's own quality words and the padding behind the end of text.
    level: the downsampling factor of the latent whose maps stand for all where there is room for one: RASG's.
    """

    prompt: str
    seed: int
    image: Image.Image
    mask: np.ndarray
    columns: list[str]
    level: int
    methods: dict[str, Explained]

    @cached_property
    def plates(self) -> "dict[str, Plate]":
        """The figures with their titles and captions, drawn when first asked for."""
        from hdpainter.explain.figures import draw  # matplotlib is needed here only, and slow to import

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
        """Write the figures, each method's picture, arrays.npz and, last, index.html, which shows them all.

        Every file appears whole or not at all. Returns the path of index.html.
        """
        folder = Path(folder)
        make_folder(folder)
        for name, image in self.figures.items():
            save_png(image, folder / f"{name}.png")
        for name, explained in self.methods.items():
            save_png(explained.result.image, folder / f"picture-{name}.png", explained.result.metadata)
        with _replacing(folder / "arrays.npz") as path:
            np.savez_compressed(path, **self.arrays)
        page = folder / "index.html"
        with _replacing(page) as path:
            path.write_text(render(self), encoding="utf-8")
        return page


def explain(
    painter: HDPainter,
    image: Source,
    mask: Source,
    prompt: str,
    methods: Sequence[str | Path | Method] = METHODS,
    seed: int = 0,
    *,
    frames: int = 6,
    progress: Callable[[str, int, int], None] | None = None,
    **settings: Any,
) -> Explanation:
    """Fill the mask by each of the methods, with the same noise, and record how.

    image, mask, prompt, seed: as for `HDPainter`. methods: names, YAML files or `Method`s.
    frames: how many steps, evenly spaced from first to last, the figures show.
    progress: called with (method, step, steps).
    settings: `steps`, `guidance_scale`, `eta`, `negative_prompt` and `size` of `HDPainter`, for all methods.

    What is explained is stage 1: the pictures are made without stage 2, and are otherwise those that the painter
    makes unobserved. Raises UserError for bad input.
    """
    size = settings.pop("size", None)
    size = painter.models.spec.size if size is None else whole_number("size", size)
    chosen = by_name(
        [
            (method if isinstance(method, Method) else Method.load(method)).adjusted(**settings)
            for method in methods
        ]
    )
    if frames < 1:
        raise UserError(f"frames is {frames}: give a number of steps to show, 1 or more")
    picture = load_image(image)
    grey = load_mask(mask, picture.size)
    height, width = stage_size(picture.height, picture.width, size)
    explained = {
        name: _observe(painter, picture, grey, prompt, method, seed, size, frames, progress)
        for name, method in chosen.items()
    }
    return Explanation(
        prompt,
        seed,
        picture.resize((width, height), Image.Resampling.BICUBIC),
        prepare(grey, (height, width), 1, next(iter(chosen.values())).masks),
        [START, *(word for word, _ in word_spans(prompt)), END, REST],
        painter.models.spec.rasg_levels[0],
        explained,
    )


def _observe(
    painter: HDPainter,
    picture: Image.Image,
    grey: np.ndarray,
    prompt: str,
    method: Method,
    seed: int,
    size: int,
    frames: int,
    progress: Callable[[str, int, int], None] | None,
) -> Explained:
    spec, model = painter.models.spec, painter.models.inpainting
    tokens = token_indices(prompt, method.prompts.positive)
    words = [indices for _, indices in word_spans(prompt)]
    rest = sorted(set(range(1, CONTEXT_LENGTH)) - set(tokens))
    height, width = stage_size(picture.height, picture.width, size)
    fill = prepare(grey, (height, width), spec.multiple, method.masks)
    masks = pyramid([fill], [FACTOR * level for level in spec.rasg_levels], method.masks.levels)
    target = {level: masks[FACTOR * level] for level in spec.rasg_levels}
    with Recorder(model.model.diffusion_model, [[0], *words, tokens[-1:], rest], tokens, target) as recorder:
        result = painter(
            picture,
            grey,
            prompt,
            method=method,
            seed=seed,
            size=size,
            superres=False,
            progress=progress and (lambda _, step, steps: progress(method.name, step, steps)),
            observer=recorder,
        )
    trace = recorder.trace()
    shown = sorted({round(i) for i in np.linspace(0, len(trace.timesteps) - 1, frames)})
    with torch.no_grad():
        decoded = [
            to_image(model.decode_first_stage(torch.from_numpy(trace.pred_x0[i : i + 1]).to(model.device)))
            for i in shown
        ]
    predictions = [image.crop((0, 0, width, height)) for image in decoded]
    return Explained(method, result, trace, shown, predictions)


def by_name(methods: Sequence[Method]) -> dict[str, Method]:
    """Methods by their names, which are to be names of files. Raises UserError if they cannot be."""
    names = [method.name for method in methods]
    if not names or len(set(names)) < len(names):
        raise UserError(f"methods are {', '.join(names) or 'none'}: give at least one, and none twice")
    if unfit := [name for name in names if not re.fullmatch(r"[\w.,=+-]+", name)]:
        raise UserError(f"the method's name {unfit[0]!r} does not fit in a file name: rename it")
    return dict(zip(names, methods, strict=True))


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary path of the same suffix, which takes the place of `path` once the block is done."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".hdpainter") as scratch:
        temporary = Path(scratch) / path.name
        yield temporary
        temporary.replace(path)
