"""A baseline's network from its checkpoint."""

from pathlib import Path
from typing import Any

import torch

from hdpainter.configs import read_model_config
from hdpainter.models.registry import MODELS
from ldm.checkpoint import build, load_into


def load_network(path: Path, config: str, device: str | torch.device, dtype: torch.dtype | None) -> Any:
    """The network of a config in ``configs/models`` with the weights of a file, in eval mode, without gradients.

    dtype: of what the network's `dtype_policy` casts; None: float16 on a GPU, else float32.
    Raises UserError where the file is damaged or another model's.
    """
    device = torch.device(device)
    dtype = dtype or (torch.float16 if device.type == "cuda" else torch.float32)
    network: Any = build(read_model_config(MODELS / config))
    load_into(network, path, config, dtype=network.dtype_policy(dtype), device=device)
    return network.eval().requires_grad_(False)
