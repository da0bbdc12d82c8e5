"""What RASG minimises: how badly the prompt's cross-attention scores fit the mask.

All take the mean scores of Eq. 8 and give S(x_t) [B], lower where the prompt's words look at M:

    scores   [B, pixels, tokens], before the softmax
    mask     [B, pixels], 1 = fill; in [0, 1]
    weights  [B, tokens], 1 for ind(τ), else 0

`bce` is the paper's (Eq. 9). `l1` and `softmax` are alternatives in the authors' code, `max` is the objective of
Attend-and-Excite [Chefer et al. 2023], here for scores of a mask.
"""

import torch.nn.functional as F
from torch import Tensor

from hdpainter.painta import smooth
from hdpainter.settings import RASGSettings

MAX_SMOOTHING = 0.5  # of Attend-and-Excite's 3x3 Gaussian


def objective(
    scores: Tensor, mask: Tensor, weights: Tensor, grid: tuple[int, int], settings: RASGSettings
) -> Tensor:
    """S(x_t) [B] of one level, whose pixels are a grid (h, w), as the settings say."""
    scores = scores - settings.logit_shift
    match settings.objective:
        case "bce":
            return bce(scores, mask, weights, settings.reduction)
        case "l1":
            return l1(scores, mask, weights, settings.reduction)
        case "softmax":
            return softmax_share(scores, mask, weights)
    return max_inside(scores, mask, weights, grid)


def bce(scores: Tensor, mask: Tensor, weights: Tensor, reduction: str = "sum") -> Tensor:
    """Eq. 9: sum over tokens of the cross entropy between σ(A) and M, the `sum` or the `mean` over pixels."""
    target = mask[..., None].expand_as(scores)
    distance = F.binary_cross_entropy_with_logits(scores, target, reduction="none")
    return _over_pixels(distance, weights, reduction)


def l1(scores: Tensor, mask: Tensor, weights: Tensor, reduction: str = "sum") -> Tensor:
    """Sum over tokens of |σ(A) - M|, the `sum` or the `mean` over pixels."""
    return _over_pixels((scores.sigmoid() - mask[..., None]).abs(), weights, reduction)


def softmax_share(scores: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    """Sum over tokens of 1 - (M's share of the softmax of A over pixels)."""
    share = (scores.softmax(1) * mask[..., None]).sum(1)
    return ((1 - share) * weights).sum(1)


def max_inside(scores: Tensor, mask: Tensor, weights: Tensor, grid: tuple[int, int]) -> Tensor:
    """1 - the largest value of σ(A), smoothed, inside M, for the token where that is least.

    Where M has no pixel, or ind(τ) no token, there is nothing to look for: S is 0.
    """
    batch, _, tokens = scores.shape
    maps = scores.sigmoid().mT.reshape(batch * tokens, 1, *grid)
    maps = smooth(maps, MAX_SMOOTHING).view(batch, tokens, -1)
    best = maps.masked_fill((mask <= 0.5)[:, None], 0).amax(-1)
    worst = (1 - best).masked_fill(weights == 0, 0).amax(1)
    return worst * (mask > 0.5).any(1)


def _over_pixels(distance: Tensor, weights: Tensor, reduction: str) -> Tensor:
    pixels = distance.sum(1) if reduction == "sum" else distance.mean(1)
    return (pixels * weights).sum(1)
