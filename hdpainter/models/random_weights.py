"""Checkpoints of random weights, for tests and benchmarks without the real ones."""

import math
import zlib
from pathlib import Path

import torch
from torch import Tensor

from hdpainter.configs import read_model_config
from hdpainter.models.safetensors import write_safetensors
from ldm.checkpoint import build


def write_random_checkpoint(
    config: str | Path, target: str | Path, dtype: torch.dtype = torch.float32, seed: int = 0
) -> None:
    """Write a .safetensors file with a public checkpoint's layout and random weights.

    config: path of an SD2-style YAML file. dtype: that of the weights; noise schedules are the config's, in
    float32. The same config, seed and key give the same values. Needs the memory of a few tensors.
    """
    model = build(read_model_config(config))
    computed = {name: buffer for name, buffer in model.named_buffers() if not buffer.is_meta}
    layout = {
        name: tensor if name in computed or not tensor.is_floating_point() else tensor.to(dtype)
        for name, tensor in model.state_dict().items()
    }

    def tensor_of(name: str) -> Tensor:
        return computed[name] if name in computed else random_weight(name, layout[name].shape, seed)

    write_safetensors(target, layout, tensor_of, {"content": f"random weights, seed {seed}"})


def random_weight(name: str, shape: torch.Size, seed: int = 0) -> Tensor:
    """A weight of scale 1/sqrt(fan-in), a norm's scale near 1, or a bias near 0: activations stay finite."""
    generator = torch.Generator("cpu").manual_seed(zlib.crc32(name.encode()) + seed)
    values = torch.randn(shape, generator=generator)
    if len(shape) >= 2:
        return values / math.sqrt(math.prod(shape[1:]))
    return 1 + 0.1 * values if len(shape) == 1 and name.endswith("weight") else 0.1 * values
