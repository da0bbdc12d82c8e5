"""What all trainings share: budget, learning rates, averaged weights, logs, sample sheets."""

import copy
import csv
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from hdpainter.configs import read_model_config
from hdpainter.images import save_png
from hdpainter.mini.training.optim import MuonAdam, split_parameters
from hdpainter.models.devices import computes_in_bfloat16
from ldm.checkpoint import misfit, read_state_dict
from ldm.util import UserError, instantiate_from_config

WARM_UP = 0.02  # of the budget
FINAL_RATE = 0.02  # of the peak learning rate
LONGEST_STEP = 30.0  # seconds that a step may count; a suspended process does not use up its budget


def model_part(path: str, part: str | None = None) -> Any:
    """The model that a YAML file of configs/models/ describes, or the part under one of its `*_config` keys."""
    require_file(path, "model config")
    config = read_model_config(path)
    if part is None:
        return instantiate_from_config(config)
    if part not in config.get("params", {}):
        raise UserError(f"{path}: model: params has no {part!r}")
    return instantiate_from_config(config["params"][part])


def require_file(path: str, what: str) -> None:
    """Raise UserError unless there is a file `path`; the configs' paths begin at the repository's root."""
    if not Path(path).is_file():
        raise UserError(f"there is no {what} {path}; run from the repository's root")


def read_part(model: nn.Module, name: str, path: str | Path) -> dict[str, Tensor]:
    """Give `model`, the part `name` of a latent diffusion model, the weights of a file, and return all of them.

    The file may be that of a whole model. Raises UserError if its weights are those of another part or widths.
    """
    state = read_state_dict(path)
    if any(key.startswith(f"{name}.") for key in state):
        state = {key.removeprefix(f"{name}."): v for key, v in state.items() if key.startswith(f"{name}.")}
    in_place = {f"{name}.{key}": tensor for key, tensor in state.items()}  # as in a whole model's file
    if problem := misfit(nn.ModuleDict({name: model}), in_place):
        raise UserError(f"{path} does not fit the config's {name}: {problem}")
    model.load_state_dict(state, strict=False)  # a CLIP's file also has its image tower
    return state


class Training(pl.LightningModule):
    """Trains the weights in `network` for `steps` updates or `minutes`, whichever ends first.

    Learning rates stay at their peaks for the share `hold` of the budget and follow a cosine over the rest.
    `average` holds an exponential moving average of the weights, which samples and exports use. `workers`
    processes draw scenes and, for a GPU, batches. Subclasses define `loss`, and `sheet` and `evaluate` for the
    logs. `parallel` ones draw other batches in each of several processes.
    """

    parallel = False
    latest: dict[str, Tensor]  # losses of the last step

    def __init__(
        self,
        network: nn.Module,
        steps: int,
        minutes: float,
        matrix_lr: float,
        vector_lr: float = 2e-3,
        attention_lr: float = 5e-4,
        average_decay: float = 0.999,
        hold: float = 0.0,
        workers: int = 2,
    ):
        super().__init__()
        self.network = network
        self.steps, self.minutes, self.workers = steps, minutes, workers
        self.rates, self.hold = (matrix_lr, vector_lr, attention_lr), hold
        self.elapsed = 0.0  # seconds, over all resumes
        self.average_decay = average_decay
        self.average = copy.deepcopy(network).requires_grad_(False)
        self._last: float | None = None

    def loss(self, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of a batch and what else is worth logging."""
        raise NotImplementedError

    def evaluate(self) -> dict[str, float]:
        """Figures of the averaged weights on fixed held-out data."""
        return {}

    def sheet(self) -> np.ndarray | None:
        """A picture of what the averaged weights do, RGB uint8 [H, W, 3]."""
        return None

    def half_precision(self) -> torch.autocast:
        """Within it, parts that are not trained compute in bfloat16, where the device does that fast."""
        device = self.device.type
        return torch.autocast(device, torch.bfloat16, enabled=device == "cuda" or computes_in_bfloat16())

    def loader(self, dataset: IterableDataset) -> DataLoader:
        """Batches of an endless dataset; in this process on a CPU, whose cores are busy anyway."""
        if self.device.type != "cuda":
            return DataLoader(dataset, batch_size=None)
        # forked: the cached scenes are shared, not copied, and nothing has to be picklable
        return DataLoader(
            dataset,
            batch_size=None,
            num_workers=self.workers,
            pin_memory=True,
            multiprocessing_context="fork",
        )

    def weights(self) -> dict[str, Tensor]:
        """What `hdpainter.mini.train` exports: the averaged weights under the names of the finished model."""
        return self.average.state_dict()

    @property
    def progress(self) -> float:
        """How much of the budget is used, 0 to 1."""
        return min(max(self.global_step / self.steps, self.elapsed / 60 / self.minutes), 1.0)

    def configure_optimizers(self) -> MuonAdam:
        optimizer = MuonAdam(split_parameters([self.network], *self.rates))
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
        return optimizer

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["elapsed"] = self.elapsed

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.elapsed = checkpoint["elapsed"]

    def on_train_start(self) -> None:
        # other noise in every process, and after a resume none that there was before
        torch.manual_seed(hash((torch.initial_seed(), self.global_step, self.global_rank)) % 2**63)

    def training_step(self, batch: Any, index: int) -> Tensor:
        loss, logs = self.loss(batch)
        self.latest = {"loss": loss.detach(), **{k: torch.as_tensor(v).detach() for k, v in logs.items()}}
        return loss

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        progress = self.progress
        falling = max(progress - self.hold, 0.0) / (1 - self.hold)
        cosine = FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * falling))
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)  # there is one
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * cosine * min(1.0, (progress + 1e-3) / WARM_UP)

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the averaged weights towards the trained ones, further while there have been few steps."""
        decay = min(self.average_decay, (1 + self.global_step) / (10 + self.global_step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)
        for average, own in zip(self.average.buffers(), self.network.buffers(), strict=True):
            average.copy_(own)

    def on_train_batch_end(self, outputs: Any, batch: Any, index: int) -> None:
        self.update_average()
        now = time.monotonic()
        if self._last is not None:
            self.elapsed += min(now - self._last, LONGEST_STEP)
        self._last = now
        if self.trainer.world_size > 1:  # learning rates and the end follow one clock
            self.elapsed = self.trainer.strategy.broadcast(self.elapsed)
        if self.progress >= 1:
            self.trainer.should_stop = True


class Report(pl.Callback):
    """Writes `losses.csv` every `every` steps, and `evaluate` and `sheet` every `minutes` and at the end.

    The minutes are the processor's: a training that gets little of a busy machine shall not spend it on
    reports.
    """

    def __init__(self, folder: Path, every: int = 20, minutes: float = 5):
        self.folder, self.every, self.minutes = Path(folder), every, minutes
        self.sums: dict[str, Tensor | float] = defaultdict(float)
        self.count, self.shown = 0, time.process_time()
        self.losses: dict[str, float] = {}
        self.figures: dict[str, float] = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        if not trainer.is_global_zero:
            return
        for name, value in task.latest.items():
            self.sums[name] += value  # on the device: reading it out would wait for it
        self.count += 1
        if self.count >= self.every:
            self.losses = {name: float(total) / self.count for name, total in self.sums.items()}
            self._row("losses.csv", task, self.losses)
            self.sums.clear()
            self.count = 0
        if time.process_time() - self.shown > 60 * self.minutes:
            self.show(task)

    def on_train_end(self, trainer: pl.Trainer, task: Any) -> None:
        if trainer.is_global_zero:
            self.show(task)

    def show(self, task: Training) -> None:
        """Evaluate the averaged weights and draw their sheet now."""
        with torch.no_grad():
            self.figures = task.evaluate()
            if self.figures:
                self._row("evaluation.csv", task, self.figures)
            picture = task.sheet()
        if picture is not None:
            save_png(Image.fromarray(picture), self.folder / f"sheet-{task.global_step:06d}.png")
        self.shown, task._last = time.process_time(), time.monotonic()

    def _row(self, name: str, task: Training, figures: Mapping[str, float]) -> None:
        minutes = task.elapsed / 60
        values = {key: f"{value:.5g}" for key, value in figures.items()}
        row = {"step": task.global_step, "minutes": round(minutes, 2)} | values
        path = self.folder / name
        # A death may come between the file's making and its head.
        new = not path.exists() or path.stat().st_size == 0
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
            writer.writerow(row)
        shown = ", ".join(f"{key} {value}" for key, value in values.items())
        print(
            f"{self.folder.name}, step {task.global_step}, minute {minutes:.1f} of {task.minutes:g}: {shown}",
            flush=True,
        )


class Rate(pl.Callback):
    """Measures how many crops of 128 pixels a second a diffusion training does after `skipped` steps."""

    def __init__(self, skipped: int):
        self.skipped, self.crops, self.start, self.rate = skipped, 0.0, 0.0, float("nan")

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        if task.global_step > self.skipped:
            self.crops += batch["jpg_latent"][:, 0].numel() / 16**2
        elif task.global_step == self.skipped:
            self.start = self._now(task)

    def on_train_end(self, trainer: pl.Trainer, task: Any) -> None:
        self.rate = self.crops / (self._now(task) - self.start)

    def _now(self, task: Training) -> float:
        if task.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def most_detailed(images: Iterable[np.ndarray]) -> np.ndarray:
    """The picture [H, W, 3] with the strongest edges."""
    return max(images, key=lambda image: cv2.Laplacian(image, cv2.CV_16S).std())


def to_tensor(images: np.ndarray | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """RGB uint8 [..., H, W, 3] to float [..., 3, H, W] in -1..1 on `device`, contiguous."""
    levels = torch.as_tensor(images).to(device, non_blocking=True)
    return levels.movedim(-1, -3).contiguous().float() / 127.5 - 1


def to_images(tensor: Tensor) -> np.ndarray:
    """[..., 3, H, W] in -1..1 to RGB uint8 [..., H, W, 3]."""
    levels = ((tensor.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return np.ascontiguousarray(np.moveaxis(levels.cpu().numpy(), -3, -1))


def tile(images: np.ndarray, columns: int, gap: int = 3) -> np.ndarray:
    """Pictures [N, H, W, 3] side by side in rows of `columns`."""
    count, height, width, _ = images.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[y : y + height, x : x + width] = image
    return sheet


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of pictures in -1..1, mean over the first axis."""
    error = (a.clamp(-1, 1) - b).float().square().flatten(1).mean(1).clamp_min(1e-10)
    return (10 * torch.log10(4 / error)).mean()
