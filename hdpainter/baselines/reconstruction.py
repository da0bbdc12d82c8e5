"""Blended Latent Diffusion's background reconstruction.

An autoencoder does not give the known pixels back as they were. Rather than pasting them, one fits the decoder's
weights or the latents to them, for each picture, and holds the fill to what it was; so there is no joint
(`reconstruct_background`). Or one pastes the fill by Poisson blending (`paste_poisson`).
"""

import copy
from collections.abc import Callable, Iterable
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from hdpainter.images import Pixels
from hdpainter.masks import Mask
from hdpainter.tensors import to_image, to_tensor
from ldm.models.diffusion.ddpm import LatentDiffusion

STEPS = 75
KNOWN_WEIGHT = 100.0  # of the known pixels' error beside the fill's
RATES = {"weights": 1e-4, "latents": 0.1}  # Adam's learning rates
FRAME = 2  # pixels around a picture, so that a patch which the program puts one further stays inside


def reconstruct_background(
    model: LatentDiffusion,
    edited: Image.Image,
    source: Pixels,
    mask: Mask,
    mode: Literal["weights", "latents"] = "weights",
    steps: int = STEPS,
) -> Image.Image:
    """The picture `edited` with `source` where it is known, as a decoder that was fitted to both draws it.

    edited: of a size that 8 divides. source, mask: uint8 [H, W, 3] and bool [H, W], True = fill; resized to it.
    mode: what is fitted, the decoder's weights (a copy's; `model` stays as it is) or the latents.
    The start is the posterior's mode of `edited`, where the public program takes a sample. In float32.
    """
    autoencoder = copy.deepcopy(model.first_stage_model).float()
    original, filled = _at_size_of(edited, source, mask)
    fill, known = (to_tensor(picture).to(model.device) for picture in (edited, original))
    unknown = torch.from_numpy(filled).to(fill)[None, None]
    with torch.no_grad():
        latents = model.get_first_stage_encoding(autoencoder.encode(fill).mode())
    fitted = {"weights": autoencoder.decoder.parameters, "latents": lambda: [latents]}
    variables = [variable.requires_grad_() for variable in fitted[mode]()]

    def decode() -> Tensor:
        return autoencoder.decode(latents / model.scale_factor)

    return to_image(fit(decode, variables, RATES[mode], fill, known, unknown, steps)[0][0].cpu())


def fit(
    decode: Callable[[], Tensor],
    variables: Iterable[Tensor],
    rate: float,
    edited: Tensor,
    source: Tensor,
    mask: Tensor,
    steps: int,
) -> tuple[Tensor, list[float]]:
    """Minimise |m (decode() - edited)|² + 100 |(1 - m)(decode() - source)|², means over all elements, by Adam.

    edited, source: [B, 3, H, W] in -1..1. mask: m, [B, 1, H, W], 1 = fill.
    Returns decode() after the last step, and the loss before each.
    """
    losses = []
    with torch.enable_grad():
        optimizer = torch.optim.Adam(variables, lr=rate)
        for _ in range(steps):
            y = decode()
            loss = F.mse_loss(y * mask, edited * mask)
            loss = loss + KNOWN_WEIGHT * F.mse_loss(y * (1 - mask), source * (1 - mask))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    with torch.no_grad():
        return decode(), losses


def paste_poisson(edited: Image.Image, source: Pixels, mask: Mask) -> Image.Image:
    """`source` with the fill of `edited` pasted by Poisson blending, as the public program does it.

    edited, source, mask as in `reconstruct_background`; `edited` may have any size. The patch is the mask's
    bounding box without its last row and column, and lies at most a pixel further than it was. Where OpenCV
    refuses a patch, of a few pixels, the fill is copied.
    """
    original, unknown = _at_size_of(edited, source, mask)
    fill, known = np.array(edited), np.array(original)
    if not unknown.any():
        return original
    (top, bottom), (left, right) = (np.flatnonzero(unknown.any(axis))[[0, -1]].tolist() for axis in (1, 0))
    patch = np.s_[top:bottom, left:right]
    target = np.pad(known, [(FRAME, FRAME), (FRAME, FRAME), (0, 0)], mode="edge")
    centre = (left + right) // 2 + 1 + FRAME, (top + bottom) // 2 + 1 + FRAME
    area = np.where(unknown[patch], np.uint8(255), np.uint8(0))
    try:
        joined = cv2.seamlessClone(np.ascontiguousarray(fill[patch]), target, area, centre, cv2.NORMAL_CLONE)
    except cv2.error:
        return Image.fromarray(np.where(unknown[..., None], fill, known))
    return Image.fromarray(joined[FRAME:-FRAME, FRAME:-FRAME])


def _at_size_of(edited: Image.Image, source: Pixels, mask: Mask) -> tuple[Image.Image, np.ndarray]:
    original = Image.fromarray(source).resize(edited.size, Image.Resampling.BILINEAR)
    return original, np.array(Image.fromarray(mask).resize(edited.size, Image.Resampling.NEAREST))
