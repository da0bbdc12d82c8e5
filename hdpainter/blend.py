"""The last step: the generated picture and the original joined without a seam.

`blend(..., "exact")` moves only pixels of M; `blend(..., "blended")` is the authors' release's Poisson blending,
which also moves known pixels around M (`poisson_blend`).
"""

import math
from typing import Literal

import cv2
import numpy as np

from hdpainter.images import Pixels
from hdpainter.masks import Mask, bbox

KnownRegion = Literal["exact", "blended"]

REACH = 8  # pixels of stage 1's picture: it paints whole latents
PAD, DILATION = 32, 48  # pixels of `poisson_blend`, as the authors' release has them
_JACOBI = 0.8 / 4  # the damping that best smooths a 5-point Laplacian's error, over its diagonal


def blend(
    original: Pixels,
    generated: Pixels,
    mask: Mask,
    known_region: KnownRegion = "exact",
    scale: float = 1,
) -> Pixels:
    """The final picture I^c, uint8 [H, W, 3], from I and the generated picture (alike) and M (bool [H, W]).

    "exact": outside M bit-identical to I; "blended": the release's Poisson blending over a dilated M.
    scale: how much larger these pictures are than stage 1's; "exact" wants to know.
    """
    if known_region == "exact":
        return membrane_blend(original, generated, mask, math.ceil(REACH * scale))
    return poisson_blend(original, generated, mask)


def poisson_blend(
    original: Pixels, generated: Pixels, mask: Mask, pad: int = PAD, dilation: int = DILATION
) -> Pixels:
    """Poisson blending (Pérez et al.) of the generated picture over M dilated by a square of `dilation` pixels.

    Both pictures are first extended by `pad` reflected pixels (more than half of `dilation`), those of the
    generated one around both, so that M may touch the picture's border.
    """
    frame = [(pad, pad), (pad, pad), (0, 0)]
    source = np.pad(generated, frame, mode="reflect")
    target = source.copy()
    target[pad:-pad, pad:-pad] = original
    region = np.pad(np.where(mask, np.uint8(255), np.uint8(0)), pad)
    region = cv2.dilate(region, np.ones((dilation, dilation), np.uint8))
    if not region.any():
        return original.copy()
    x, y, w, h = cv2.boundingRect(region)
    result = cv2.seamlessClone(source, target, region, (x + w // 2, y + h // 2), cv2.NORMAL_CLONE)
    return np.ascontiguousarray(result[pad:-pad, pad:-pad])


def membrane_blend(original: Pixels, generated: Pixels, mask: Mask, reach: int = REACH) -> Pixels:
    """The generated picture in M, shifted smoothly to match the original; the original, untouched, elsewhere.

    Poisson blending over M widened by `reach` pixels, of which only M is kept: generated + u, where u is harmonic
    in the wider region and equals original - generated at the known pixels beside it. Right beside M the
    generated picture shows what the model painted over M's border, and the difference would tint an object with
    the colour of its surroundings. Where M reaches the picture's border there is nothing to match, and no
    condition.
    """
    mask = np.asarray(mask, dtype=bool)
    if mask.all() or not mask.any():
        return (generated if mask.any() else original).copy()
    wide = _widened(mask, reach)
    # Beyond the first known pixel around it the original has no influence; multiples of 64 halve without a rest.
    top, bottom, left, right = bbox(wide, margin=1, multiple=64)
    crop = np.s_[top:bottom, left:right]
    inside = mask[crop]
    result = original.copy()
    for channel in range(original.shape[2]):
        new = generated[crop][..., channel].astype(np.float32)
        u = membrane(original[crop][..., channel] - new, wide[crop])
        filled = np.clip(np.rint(new + u), 0, 255).astype(np.uint8)
        result[crop][..., channel][inside] = filled[inside]
    return result


def _widened(mask: Mask, reach: int) -> Mask:
    """M dilated by a square, by less than `reach` pixels where else nothing would be left outside."""
    while reach > 0:
        wide = cv2.dilate(mask.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) > 0
        if not wide.all():
            return wide
        reach //= 2
    return mask


def membrane(values: np.ndarray, inside: Mask, tolerance: float = 0.1) -> np.ndarray:
    """The discrete harmonic function in `inside` that equals `values` outside it; both [H, W], float32 and bool.

    Every inside pixel is the mean of its four neighbours; neighbours beyond the border of the array do not
    exist. At least one pixel must be outside. Solved from coarse to fine, at each size by conjugate gradients
    with a multigrid cycle as preconditioner, until a step moves no pixel by more than `tolerance`; each step
    leaves about a quarter of the error of the one before.
    """
    levels = [inside.astype(np.float32)]
    while levels[-1].any() and max(levels[-1].shape) > 1:
        levels.append(_coarser(levels[-1]))
    return _solve(values.astype(np.float32), levels, tolerance)


def _solve(values: np.ndarray, levels: list[np.ndarray], tolerance: float) -> np.ndarray:
    inside = levels[0]
    known = 1 - inside
    u = values * known
    if len(levels) > 1:
        # A coarse pixel that holds any known pixel is known; its value is their mean.
        weight = _half_mean(known)
        guess = _solve(_half_mean(u) / np.maximum(weight, 0.25), levels[1:], tolerance)
        u += _prolong(guess, inside)
    residual = -_laplacian(u, inside)
    direction, slope, change = np.zeros_like(u), 1.0, math.inf
    while change > tolerance and np.abs(residual).max() > 1e-12:  # below, its square could vanish in float32
        step = _cycle(residual, levels)
        slope, previous = float(np.vdot(residual, step)), slope
        direction = step + (slope / previous) * direction
        image = _laplacian(direction, inside)
        length = slope / float(np.vdot(direction, image))
        u += length * direction
        residual -= length * image
        change = length * float(np.abs(direction).max())
    return u


def _cycle(residual: np.ndarray, levels: list[np.ndarray]) -> np.ndarray:
    """A multigrid V-cycle, symmetric and positive: roughly the solution of -Δu = residual, zero outside."""
    inside = levels[0]
    u = _JACOBI * residual
    if len(levels) > 1:
        coarse = _restrict(_remaining(u, residual, inside), levels[1])
        u += _prolong(_cycle(coarse, levels[1:]), inside)
    return cv2.scaleAdd(_remaining(u, residual, inside), _JACOBI, u)


def _remaining(u: np.ndarray, residual: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """What u leaves of the residual, residual + Δu."""
    image = _laplacian(u, inside)
    return np.subtract(residual, image, out=image)


def _laplacian(u: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """-Δu in `inside`, zero elsewhere. A replicated border adds no slope: the pixels beyond it do not exist."""
    image = cv2.Laplacian(u, cv2.CV_32F, ksize=1, scale=-1, borderType=cv2.BORDER_REPLICATE)
    return np.multiply(image, inside, out=image)


def _even(array: np.ndarray, border: int) -> np.ndarray:
    """The array with an even number of rows and columns, the added ones zero or replicated."""
    height, width = array.shape
    if height % 2 == width % 2 == 0:
        return array
    return cv2.copyMakeBorder(array, 0, height % 2, 0, width % 2, border)


def _coarser(inside: np.ndarray) -> np.ndarray:
    """Half the size: inside where all four pixels are."""
    cells = _even(inside, cv2.BORDER_REPLICATE)
    rows = np.minimum(cells[::2], cells[1::2])
    return np.minimum(rows[:, ::2], rows[:, 1::2])


def _half_mean(array: np.ndarray) -> np.ndarray:
    cells = _even(array, cv2.BORDER_REPLICATE)
    return cv2.resize(cells, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def _prolong(coarse: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Bilinear doubling to the size of `inside`, zero outside."""
    height, width = inside.shape
    doubled = cv2.resize(coarse, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    return doubled[:height, :width] * inside


def _restrict(residual: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The adjoint of `_prolong`: the right-hand side of the coarse equation, whose pixels are twice as wide."""
    cells = cv2.GaussianBlur(_even(residual, cv2.BORDER_CONSTANT), (3, 3), 0, borderType=cv2.BORDER_REPLICATE)
    return 4 * cv2.resize(cells, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) * inside
