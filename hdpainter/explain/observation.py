"""One sample made by several methods under observation: all that is known of it before anything is drawn."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from hdpainter.explain.trace import Recorder, Trace
from hdpainter.inpaint import FACTOR
from hdpainter.jobs.progress import OnStep
from hdpainter.masks import prepare, stage_size
from hdpainter.pipeline import HDPainter, Result
from hdpainter.prompts import CONTEXT_LENGTH, token_indices, word_spans
from hdpainter.settings import Method
from hdpainter.tensors import pyramid, to_image


@dataclass(frozen=True)
class Explained:
    """One method's part. frames: numbers of the steps that the figures show, from 0; predictions: the predicted
    x_0 at these steps, decoded, of stage 1's size. fills: {level: bool [h, w]}, what is to be filled on PAIntA's
    grids."""

    method: Method
    result: Result
    trace: Trace
    frames: list[int]
    predictions: list[Image.Image]
    fills: dict[int, np.ndarray]


@dataclass(frozen=True)
class Observation:
    """What the methods did to one sample.

    image: the input at stage 1's size; mask: bool [h, w] of that size, True = fill.
    columns: what the columns of `Trace.attention` stand for: "<start>", the prompt's words, "<end>" and "<rest>",
        that is the method's own quality words and the padding behind the end of text.
    level: the downsampling factor of the latent whose maps stand for all where there is room for one: RASG's.
    pixel: (x, y) of the pixel, at stage 1's size, whose self-attention was recorded; None: that of all to fill.
    """

    prompt: str
    seed: int
    image: Image.Image
    mask: np.ndarray
    columns: list[str]
    level: int
    pixel: tuple[int, int] | None
    methods: dict[str, Explained]


def observe(
    painter: HDPainter,
    picture: Image.Image,
    grey: np.ndarray,
    prompt: str,
    method: Method,
    seed: int,
    size: int,
    frames: int,
    pixel: tuple[int, int] | None,
    progress: OnStep | None,
) -> Explained:
    """Make the picture by one method, without stage 2, and record how.

    grey: the mask's grey values, of the picture's size. size: longer side of stage 1 in pixels. pixel: as in
    `Observation`.
    """
    spec, model = painter.models.spec, painter.models.stage1
    tokens = token_indices(prompt, method.prompts.positive)
    words = [indices for _, indices in word_spans(prompt)]
    rest = sorted(set(range(1, CONTEXT_LENGTH)) - set(tokens))
    height, width = stage_size(picture.height, picture.width, size)
    fill = prepare(grey, (height, width), spec.multiple, method.masks)
    levels = {*spec.rasg_levels, *spec.painta_levels}
    masks = pyramid([fill], [FACTOR * level for level in levels], method.masks.levels)
    target = {level: masks[FACTOR * level] for level in spec.rasg_levels}
    fills = {level: masks[FACTOR * level][0, 0] > 0.5 for level in spec.painta_levels}
    listeners = fills
    if pixel is not None:
        listeners = {level: _nearest(cells, pixel, FACTOR * level) for level, cells in fills.items()}
    columns = [[0], *words, tokens[-1:], rest]
    with Recorder(model.model.diffusion_model, columns, tokens, target, listeners) as recorder:
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
    arrays = {level: cells.numpy() for level, cells in fills.items()}
    return Explained(method, result, trace, shown, predictions, arrays)


def _nearest(fill: torch.Tensor, pixel: tuple[int, int], side: int) -> torch.Tensor:
    """The cell to fill nearest to a pixel (x, y), where a cell has `side` pixels: bool like `fill` [h, w]."""
    cells = fill.nonzero()
    centre = (torch.tensor(pixel[::-1]) + 0.5) / side - 0.5
    row, column = cells[(cells - centre).square().sum(1).argmin()].tolist()
    chosen = torch.zeros_like(fill)
    chosen[row, column] = True
    return chosen
