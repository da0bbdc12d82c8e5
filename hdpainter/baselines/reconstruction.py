"""Blended Latent Diffusion's background reconstruction: the known pixels through the decoder itself.

An autoencoder does not give the known pixels back as they were. Rather than pasting them, one fits the decoder's
weights or the latents to them, for each picture, and holds the fill to what it was; so there is no joint.
"""

import copy
from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from hdpainter.images import to_image, to_tensor
from ldm.models.diffusion.ddpm import LatentDiffusion

STEPS = 75
KNOWN_WEIGHT = 100.0  # of the known pixels' error beside the fill's
RATES = {"weights": 1e-4, "latents": 0.1}  # Adam's learning rates


def reconstruct_background(
    model: LatentDiffusion,
    edited: Image.Image,
    source: np.ndarray,
    mask: np.ndarray,
    mode: Literal["weights", "latents"] = "weights",
    steps: int = STEPS,
) -> Image.Image:
    """The picture `edited` with `source` where it is known, as a decoder that was fitted to both draws it.

    edited: of a size that 8 divides. source, mask: uint8 [H, W, 3] and bool [H, W], True = fill; resized to it.
    mode: what is fitted, the decoder's weights (a copy's; `model` stays as it is) or the latents.
    The start is the posterior's mode of `edited`, where the public program takes a sample. In float32.
    """
    autoencoder = copy.deepcopy(model.first_stage_model).float()
    original = Image.fromarray(source).resize(edited.size, Image.Resampling.BILINEAR)
    fill, known = (to_tensor(picture).to(model.device) for picture in (edited, original))
    unknown = Image.fromarray(mask).resize(edited.size, Image.Resampling.NEAREST)
    unknown = torch.from_numpy(np.array(unknown)).to(fill)[None, None]
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
