"""Golden tensors of the public reference implementations, and the rules that their inputs follow.

``tests/golden/cases.json`` describes each case: configuration, inputs as rules and seeds, tolerance. The tensors
lie beside it. No weights are stored: rule W makes them from the keys of the state_dict.
"""

import json
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

GOLDEN = Path(__file__).parent / "golden"


@cache
def cases() -> dict[str, dict[str, Any]]:
    return json.loads((GOLDEN / "cases.json").read_text(encoding="utf-8"))


def golden(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and tensors of a case."""
    return cases()[name], load_file(GOLDEN / f"{name}.safetensors")


def rule_w(module: nn.Module) -> nn.Module:
    """Fill a module's weights by rule W (reproducible from the names of its tensors); in eval mode."""
    with torch.no_grad():
        for key, tensor in module.state_dict().items():
            if not tensor.is_floating_point():
                continue
            r = randn(zlib.crc32(key.encode()), tensor.shape)
            if tensor.ndim >= 2:
                r = r / tensor[0].numel() ** 0.5
            elif tensor.ndim == 1 and key.endswith("weight"):
                r = 1 + 0.1 * r
            else:
                r = 0.1 * r
            tensor.copy_(r)
    return module.eval()


def randn(seed: int, shape) -> Tensor:
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def assert_close(actual: Tensor, expected: Tensor, rel_to_absmax: float) -> None:
    """max|a - b| <= tol max|b|."""
    assert actual.shape == expected.shape
    error = (actual - expected).abs().max() / expected.abs().max()
    assert error <= rel_to_absmax, f"error {error:.2e} of the largest value; at most {rel_to_absmax:.0e}"
