"""Golden tensors of the public reference implementations, and the rules that their inputs follow.

``tests/golden/cases.json`` describes each case: configuration, inputs as rules and seeds, tolerance. The tensors
lie beside it. No weights are stored: rule W makes them from the keys of the state_dict.
"""

import gzip
import json
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ldm.util import UserError

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


def layout(name: str) -> dict[str, list[int]]:
    """Every key and shape of a public checkpoint, or of a golden case's module."""
    return json.loads(gzip.decompress((GOLDEN / "state_dicts" / f"{name}.json.gz").read_bytes()))


def shapes(module: nn.Module) -> dict[str, list[int]]:
    """A module's own, to compare with a `layout`."""
    return {key: list(tensor.shape) for key, tensor in module.state_dict().items()}


def message(function: Callable, *args: Any, **kwargs: Any) -> str:
    """The text of the UserError that a call must raise: one line."""
    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def randn(seed: int, shape) -> Tensor:
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def assert_close(actual: Tensor, expected: Tensor, rel_to_absmax: float) -> None:
    """max|a - b| <= tol max|b|."""
    assert actual.shape == expected.shape
    error = (actual - expected).abs().max() / expected.abs().max()
    assert error <= rel_to_absmax, f"error {error:.2e} of the largest value; at most {rel_to_absmax:.0e}"
