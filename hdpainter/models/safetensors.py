"""Writing .safetensors files larger than memory."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hdpainter.files import replacing

_SAFETENSORS_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip


def write_safetensors(
    path: str | Path,
    layout: Mapping[str, Tensor],
    tensor_of: Callable[[str], Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a .safetensors file of any size with one tensor in memory at a time.

    `layout` gives names, shapes and dtypes (meta tensors will do), `tensor_of(name)` the values. Raises
    CannotWrite where it cannot be written.
    """
    path = Path(path)
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    names = sorted(layout, key=lambda name: -layout[name].itemsize)  # keeps every tensor aligned
    for name in names:
        start, end = end, end + layout[name].numel() * layout[name].itemsize
        kind = _SAFETENSORS_NAMES[layout[name].dtype]
        header[name] = {"dtype": kind, "shape": list(layout[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as part, part.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            value = tensor_of(name).to(layout[name].dtype)
            assert value.shape == layout[name].shape, f"{name}: {value.shape}"
            file.write(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            del value  # before the next one is made
