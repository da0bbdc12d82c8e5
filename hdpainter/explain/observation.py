"""One sample made by several methods under observation: all that is known of it before anything is drawn."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from hdpainter.explain.trace import Recorder, Trace
from hdpainter.inpaint import FACTOR
from hdpainter.masks import prepare, stage_size
from hdpainter.pipeline import HDPainter, OnStep, Result
from hdpainter.prompts import CONTEXT_LENGTH, token_indices, word_spans
from hdpainter.settings import Method
from hdpainter.tensors import pyramid, to_image


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
class Observation:
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


def observe(
    painter: HDPainter,
    picture: Image.Image,
    grey: np.ndarray,
    prompt: str,
    method: Method,
    seed: int,
    size: int,
    frames: int,
    progress: OnStep | None,
) -> Explained:
    """Make the picture by one method, without stage 2, and record how.

    grey: the mask's grey values, of the picture's size. size: longer side of stage 1 in pixels.
    """
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
