"""What the autoencoder and the diffusion models share in training: logging, moving averages, starting weights."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from ldm.checkpoint import read_state_dict
from ldm.modules.ema import LitEma
from ldm.util import UserError


def batch_images(batch: Mapping[str, Any], key: str) -> Tensor:
    """The images ``batch[key]``, [B, H, W, C] or [B, H, W], as contiguous fp32 [B, C, H, W].

    Contiguous, because torch's CPU GroupNorm loses precision on channels_last images with flat areas.
    """
    images = batch_entry(batch, key)
    images = images[..., None] if images.ndim == 3 else images
    return images.movedim(-1, 1).to(torch.float32).contiguous()


def batch_entry(batch: Mapping[str, Any], key: str) -> Any:
    """``batch[key]``; UserError if there is none."""
    if key not in batch:
        raise UserError(f"the batch has no {key!r}; it has {', '.join(batch)}")
    return batch[key]


class TrainedModule(pl.LightningModule):
    """A LightningModule whose loss is `shared_step`, with an optional moving average of its weights."""

    model_ema: LitEma | None

    def __init__(self) -> None:
        super().__init__()
        self.model_ema = None

    @property
    def averaged(self) -> nn.Module:
        """The module whose weights `model_ema` averages."""
        return self

    def shared_step(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and what to log under ``train/...`` or ``val/...``."""
        raise NotImplementedError

    def augment(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """Hook: the batch as training sees it."""
        return batch

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """The loss of a batch."""
        loss, logs = self.shared_step(self.augment(batch))
        self.log_dict(logs, prog_bar=True, on_step=True, on_epoch=True, batch_size=_batch_size(batch))
        return loss

    @torch.no_grad()
    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Log the loss under the weights, and under their moving averages (``..._ema``) if there are any."""
        _, logs = self.shared_step(batch)
        if self.model_ema is not None:
            with self.ema_scope():
                _, ema_logs = self.shared_step(batch)
            logs |= {f"{key}_ema": value for key, value in ema_logs.items()}
        self.log_dict(logs, on_step=False, on_epoch=True, batch_size=_batch_size(batch))

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Update the moving averages."""
        if self.model_ema is not None:
            self.model_ema(self.averaged)

    @contextmanager
    def ema_scope(self, context: str | None = None) -> Iterator[None]:
        """Within it the weights are their moving averages, if there are any. `context` is SD2's, and ignored."""
        if self.model_ema is None:
            yield
            return
        self.model_ema.store(self.averaged.parameters())
        self.model_ema.copy_to(self.averaged)
        try:
            yield
        finally:
            self.model_ema.restore(self.averaged.parameters())

    def init_from_ckpt(self, path: str | Path, ignore_keys: Sequence[str] = ()) -> None:
        """Start from the weights in a checkpoint, leaving out the keys that start with one of `ignore_keys`.

        Keys that are missing or unexpected are reported on stderr, not refused.
        """
        state = read_state_dict(path)
        state = {key: value for key, value in state.items() if not key.startswith(tuple(ignore_keys))}
        missing, unexpected = self.load_state_dict(self.adapt_state_dict(state), strict=False)
        if missing or unexpected:
            first = ", ".join([*missing[:3], *unexpected[:3]])
            counts = f"{len(missing)} keys missing, {len(unexpected)} unexpected"
            print(f"{path}: {counts}; the first: {first}", file=sys.stderr)

    def adapt_state_dict(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Hook: change the tensors of a checkpoint before `init_from_ckpt` loads them."""
        return state


def _batch_size(batch: Mapping[str, Any]) -> int:
    return len(next(iter(batch.values())))
