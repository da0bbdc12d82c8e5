"""mmdet on mmcv-lite: the one compiled operator that RTMDet needs, from torchvision.

mmcv's compiled extension has no wheels for current versions of torch; mmcv-lite is mmcv without it.
"""

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NoReturn

import torch
import torchvision
from torch import Tensor


def _nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
    """Indices of the boxes [N, 4] that non-maximum suppression keeps, best first."""
    return torchvision.ops.nms(boxes + torch.tensor([0, 0, offset, offset]).to(boxes), scores, iou_threshold)


def _missing(name: str) -> Callable[..., NoReturn]:
    if name.startswith("__"):
        raise AttributeError(name)

    def operator(*_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(f"mmcv-lite has no {name}; install a compiled mmcv")

    return operator


def enable_mmdet() -> None:
    """Make mmdet importable; call it before the first `import mmdet`. Does nothing with a compiled mmcv."""
    if "mmcv._ext" in sys.modules or find_spec("mmcv._ext") is not None:
        return
    extension = ModuleType("mmcv._ext")
    extension.__spec__ = ModuleSpec("mmcv._ext", None)
    vars(extension).update(nms=_nms, __getattr__=_missing)
    sys.modules["mmcv._ext"] = extension
