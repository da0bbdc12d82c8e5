"""Exponential moving average of a model's weights."""

from collections.abc import Iterable, Iterator

import torch
import torch.nn as nn
from torch import Tensor


class LitEma(nn.Module):
    """Shadow copies of the trainable parameters of a model, as buffers that travel with its checkpoint.

    Calling it with the model moves each copy towards its parameter: shadow = d shadow + (1 - d) parameter,
    with d = min(decay, (1 + n) / (10 + n)) at call n, so that the first values are forgotten soon; without
    `use_num_updates`, d = decay.
    """

    decay: Tensor
    num_updates: Tensor

    def __init__(self, model: nn.Module, decay: float = 0.9999, use_num_updates: bool = True):
        super().__init__()
        if not 0.0 <= decay <= 1.0:
            raise ValueError(f"decay {decay} is not between 0 and 1")
        self.register_buffer("decay", torch.tensor(decay, dtype=torch.float32))
        self.register_buffer("num_updates", torch.tensor(0 if use_num_updates else -1, dtype=torch.int64))
        for name, parameter in self._trainable(model):
            self.register_buffer(name, parameter.detach().clone())
        self._stored: list[Tensor] = []

    @staticmethod
    def _trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
        """The trainable parameters under the names that checkpoints use: buffer names cannot have dots."""
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                yield name.replace(".", ""), parameter

    def reset_num_updates(self) -> None:
        """Start counting anew, for instance after the weights were replaced."""
        self.num_updates.zero_()

    @torch.no_grad()
    def forward(self, model: nn.Module) -> None:
        """Move every shadow towards the parameter of `model`."""
        decay = self.decay
        if self.num_updates >= 0:
            self.num_updates += 1
            decay = torch.minimum(decay, (1 + self.num_updates) / (10 + self.num_updates))
        for name, parameter in self._trainable(model):
            self.get_buffer(name).lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Give `model` the averaged weights."""
        for name, parameter in self._trainable(model):
            parameter.copy_(self.get_buffer(name))

    def store(self, parameters: Iterable[nn.Parameter]) -> None:
        """Remember the current parameters, for `restore`."""
        self._stored = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def restore(self, parameters: Iterable[nn.Parameter]) -> None:
        """Put the parameters that `store` remembered back."""
        for parameter, stored in zip(parameters, self._stored, strict=True):
            parameter.copy_(stored)
        self._stored = []
