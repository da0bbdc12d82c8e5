"""Averages of the weights whose length is chosen after training.

[Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", section 3.] A
power-function average at step T weighs the weights of step t by p(t) = (γ + 1) t^γ / T^(γ + 1), t in 0..T; its
length is the standard deviation of p in units of T. Snapshots of a few of these, written now and then, span
many others: the average of any length at any step is close to a weighted sum of them. `python -m
hdpainter.mini.average` makes it.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from safetensors.torch import save_file
from torch import Tensor

from hdpainter.files import replacing


def exponent(length: float) -> float:
    """γ of the power-function average whose relative standard deviation is `length`, in (0, 0.288].

    length² = (γ + 1) / ((γ + 2)² (γ + 3)), a cubic of which γ is the largest root.
    """
    roots = np.roots([1, 7, 16 - length**-2, 12 - length**-2])
    return float(roots[np.isreal(roots)].real.max())


def products(lengths: Sequence[float], steps: Sequence[float], length: float, step: float) -> np.ndarray:
    """∫ p_i(t) p(t) dt of averages (lengths[i], steps[i]) with the one of `length` at `step`: float64 [n]."""
    g, t = np.array([exponent(value) for value in lengths]), np.array(steps, float)
    h = exponent(length)
    common = np.log(np.minimum(t, step))
    log = (g + h + 1) * common - (g + 1) * np.log(t) - (h + 1) * np.log(step)
    return (g + 1) * (h + 1) / (g + h + 1) * np.exp(log)


def shares(lengths: Sequence[float], steps: Sequence[float], length: float, step: float) -> np.ndarray:
    """Weights of snapshots (lengths[i], steps[i]) whose sum is the average of `length` at `step`: float64 [n].

    That is, the nearest one by the mean square of the difference between the profiles p; the weights sum to 1.
    """
    pairs = zip(lengths, steps, strict=True)
    gram = np.stack([products(lengths, steps, *pair) for pair in pairs])
    weights = np.linalg.lstsq(gram, products(lengths, steps, length, step), rcond=1e-10)[0]
    return weights / weights.sum()


class Snapshots(pl.Callback):
    """Keeps power-function averages of a network, one of each of `lengths`, and writes snapshots of them.

    They come every `minutes` of processor time and at the end, in half precision, into `folder`:
    snapshots/STEP-LENGTH.safetensors.
    """

    def __init__(self, folder: Path, lengths: Sequence[float], minutes: float):
        self.folder, self.minutes = Path(folder) / "snapshots", minutes
        self.averages: dict[float, dict[str, Tensor]] = {float(length): {} for length in lengths}
        self.written = time.process_time()

    def state_dict(self) -> dict[str, Any]:
        return {"averages": self.averages}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.averages = {
            length: state_dict["averages"].get(length, own) for length, own in self.averages.items()
        }

    def on_train_start(self, trainer: pl.Trainer, task: Any) -> None:
        for average in self.averages.values():  # as read from a checkpoint
            average |= {name: p.to(task.device) for name, p in average.items()}

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, task: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        if not trainer.is_global_zero:
            return
        weights = {name: p for name, p in task.network.named_parameters()}
        for length, average in self.averages.items():
            if not average:  # a length that is new, or the first step
                average |= {name: p.detach().clone() for name, p in weights.items()}
            own = [average[name] for name in weights]
            decay = (1 - 1 / task.global_step) ** (exponent(length) + 1)
            torch._foreach_lerp_(own, list(weights.values()), 1 - decay)
        if time.process_time() - self.written > 60 * self.minutes:
            self.write(task.global_step)

    def on_train_end(self, trainer: pl.Trainer, task: Any) -> None:
        if trainer.is_global_zero:
            self.write(task.global_step)

    def write(self, step: int) -> None:
        """Write all averages as they are now."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for length, average in self.averages.items():
            state = {name: p.half().cpu().contiguous() for name, p in average.items()}
            with replacing(self.folder / f"{step:06d}-{length:.3f}.safetensors") as part:
                save_file(state, part, metadata={"step": str(step), "length": str(length)})
        self.written = time.process_time()
