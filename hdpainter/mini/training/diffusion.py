"""Training of the miniature diffusion models on toy scenes."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from hdpainter.mini.training.base import Training, model_part, read_part
from hdpainter.mini.training.crops import Blocks, Drawn, Source, Texts
from ldm.checkpoint import misfit, read_state_dict
from ldm.models.diffusion.base import DiffusionWrapper
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.modules.encoders.modules import TextEncoder
from ldm.util import UserError

Batch = dict[str, Any]
FROZEN = ("first_stage_model", "cond_stage_model")
BLOCK = 64  # crops that are drawn and encoded at a time
BY_TEXT = ("txt_features", "slots")  # of which a sample has one for each of its texts


class Pool:
    """Encoded samples of one crop size, a part of which is replaced whenever a batch is drawn.

    Drawing and encoding a picture costs as much as a training step, so a sample is used about `reuse` times,
    each time with other noise, another timestep and one of its texts; if `reuse` is infinite, all are drawn once.
    `blocks` gives new samples.
    """

    def __init__(self, blocks: Iterator[Batch], capacity: int, reuse: float):
        self.blocks, self.capacity, self.reuse = blocks, capacity, reuse
        self.tensors: Batch = {}
        self.next = 0
        self.due = float(capacity)  # samples that should have been replaced by now

    def draw(self, count: int, generator: torch.Generator) -> Batch:
        """`count` random samples, after some have been replaced by new ones; the generator is of their device."""
        while self.due > 0:
            self.due -= self._put(next(self.blocks))
        self.due += count / self.reuse
        texts = self.tensors["txt_features"]
        chosen, variant = (
            torch.randint(n, (count,), generator=generator, device=texts.device) for n in texts.shape[:2]
        )
        return {k: v[chosen, variant] if k in BY_TEXT else v[chosen] for k, v in self.tensors.items()}

    def _put(self, block: Batch) -> int:
        """Put samples in the place of the oldest ones; returns how many."""
        if not self.tensors:
            self.tensors = {k: v.new_empty(self.capacity, *v.shape[1:]) for k, v in block.items()}
        count = min(len(block["txt_features"]), self.capacity - self.next)
        for name, tensor in block.items():
            self.tensors[name][self.next : self.next + count] = tensor[:count]
        self.next = (self.next + count) % self.capacity
        return count


class DiffusionTraining(Training):
    """Trains the UNet of a latent diffusion model `config` (a YAML file); its other parts are frozen.

    parts: for each frozen part the weights that a previous stage has exported, or a whole model with such a
    part, {"first_stage_model": file, ...}.
    crops: {crop size in pixels: [weight, batch size, pool capacity]}. reuse: see `Pool`.
    suffixes, dropped, nulls: see `Texts`; the words that the methods' prompts add, and what classifier-free
    guidance needs.
    start: a file of a whole model, whose UNet the training begins with instead of random weights.
    start_share: weight of `start` in the mean of both UNets that samples and exports use. Half and half is better
    than either where training has gone on at a high rate: the mean of two minima of one basin lies in its flat
    middle [Wortsman et al. 2022].
    compiled: compile the UNet, in channels_last; for a GPU.
    """

    parallel = True
    average: DiffusionWrapper

    def __init__(
        self,
        config: str,
        parts: dict[str, str],
        crops: dict[int, list[float]],
        reuse: float = 6,
        suffixes: Sequence[str] = ("",),
        dropped: float = 0.1,
        nulls: Sequence[str] = ("",),
        start: str | None = None,
        start_share: float = 0.0,
        compiled: bool = False,
        seed: int = 0,
        **budget: Any,
    ):
        if not 0 <= start_share < 1 or (start_share and start is None):
            raise UserError(f"start_share: {start_share} must be from 0 to below 1, and needs a `start`")
        ldm: LatentDiffusion = model_part(config)
        if unknown := sorted(set(parts) - set(FROZEN)):
            raise UserError(f"parts: {unknown[0]!r} is not one of {', '.join(FROZEN)}")
        loaded = {name: read_part(getattr(ldm, name), name, file) for name, file in parts.items()}
        if start is not None:
            read_unet(ldm, start)
        super().__init__(ldm.model, **budget)
        self.ldm, self.parts = ldm, loaded
        self.start_share, self.compiled = start_share, compiled
        self.start = copy.deepcopy(ldm.model.state_dict()) if start_share else {}
        self.crops = {int(size): values for size, values in crops.items()}
        self.reuse, self.seed = reuse, seed
        self.texts = Texts(self.tokenize, suffixes, dropped, nulls)

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.compiled:
            self.network.to(memory_format=torch.channels_last)
            self.ldm.model.diffusion_model.compile()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The frozen parts are the config's, also where the checkpoint was trained with others."""
        super().on_load_checkpoint(checkpoint)
        frozen = tuple(f"ldm.{name}." for name in FROZEN)
        checkpoint["state_dict"] |= {k: v for k, v in self.state_dict().items() if k.startswith(frozen)}

    @property
    def text_encoder(self) -> TextEncoder:
        """The model's own, frozen."""
        encoder = self.ldm.cond_stage_model
        assert isinstance(encoder, TextEncoder)
        return encoder

    def tokenize(self, texts: list[str]) -> np.ndarray:
        """Tokens [B, T] for the model's text encoder."""
        return self.text_encoder.tokenize(texts).numpy()

    def source(self) -> Source:
        """What draws the crops."""
        raise NotImplementedError

    def encode(self, drawn: Drawn) -> Batch:
        """Latents and conditions of drawn crops."""
        raise NotImplementedError

    def encode_all(self, drawn: Drawn) -> Batch:
        """Latents, conditions and text features [B, VARIANTS, T, d] of drawn crops."""
        tokens = torch.as_tensor(drawn["tokens"]).to(self.device, non_blocking=True)
        with torch.no_grad(), self.half_precision():
            features = self.text_encoder.encode_tokens(tokens.flatten(0, 1))
        return self.encode(drawn) | {"txt_features": features.unflatten(0, tokens.shape[:2])}

    def pool(self, size: int, capacity: int) -> Pool:
        """Encoded crops of `size` pixels; other ones in every process and after a resume."""
        seed = (self.seed, self.global_step, self.global_rank)
        blocks = self.loader(Blocks(self.source(), size, min(BLOCK, capacity), seed))
        encoded = (
            {k: v.half() if v.is_floating_point() else v for k, v in sample.items()}
            for sample in map(self.encode_all, blocks)
        )
        return Pool(encoded, capacity, self.reuse)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Endless(self), batch_size=None)

    def batches(self) -> Iterator[Batch]:
        """Endless training batches, each of one crop size, which is the same in all processes."""
        # steps already done must not come again
        order = np.random.default_rng((self.seed, self.global_step))
        own = hash((self.seed, self.global_step, self.global_rank)) % 2**63
        generator = torch.Generator(self.device).manual_seed(own)
        sizes = list(self.crops)
        weights = np.array([self.crops[s][0] for s in sizes], float)
        pools = {size: self.pool(size, int(self.crops[size][2])) for size in sizes}
        while True:
            size = sizes[order.choice(len(sizes), p=weights / weights.sum())]
            yield pools[size].draw(int(self.crops[size][1]), generator)

    def loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        batch = {k: v.float() if v.is_floating_point() else v for k, v in batch.items()}
        z, cond = self.ldm.get_input(batch, "jpg")
        return self.ldm.p_losses(z, cond, self.timesteps(len(z)))[0], {}

    def timesteps(self, count: int) -> Tensor:
        """`count` random timesteps."""
        return torch.randint(self.ldm.num_timesteps, (count,), device=self.device)

    def result(self) -> DiffusionWrapper:
        """The averaged UNet, or its mean with that of `start`."""
        if not self.start_share:
            return self.average
        mean = copy.deepcopy(self.average)
        for name, tensor in mean.state_dict().items():
            tensor.lerp_(self.start[name].to(tensor), self.start_share)
        return mean

    def weights(self) -> dict[str, Tensor]:
        """The whole model with the resulting UNet."""
        modules = {"model": self.result()} | {name: getattr(self.ldm, name) for name in FROZEN}
        return {
            f"{part}.{name}": v for part, module in modules.items() for name, v in module.state_dict().items()
        }

    @contextmanager
    def averaged(self) -> Iterator[LatentDiffusion]:
        """Within it the model has the weights of `result`."""
        own, training = self.ldm.model, self.training
        self.ldm.model = self.result()
        self.ldm.eval()
        try:
            yield self.ldm
        finally:
            self.ldm.model = own
            self.ldm.train(training)

    def denoising_loss(self, batch: Batch, t: int, seed: int = 0) -> float:
        """The averaged model's loss at timestep t, with fixed noise."""
        z, cond = self.ldm.get_input(batch, "jpg")
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(seed)).to(z)
        return float(self.ldm.p_losses(z, cond, torch.full((len(z),), t, device=z.device), noise)[0])


def read_unet(ldm: LatentDiffusion, path: str | Path) -> None:
    """Give the diffusion model `ldm` the UNet of a whole model's file. Raises UserError if it has another one."""
    state = {name: tensor for name, tensor in read_state_dict(path).items() if name.startswith("model.")}
    if problem := misfit(nn.ModuleDict({"model": ldm.model}), state):
        raise UserError(f"{path} does not fit the config's UNet: {problem}")
    ldm.model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in state.items()})


class Endless(IterableDataset):
    """The training's own endless batches, drawn in its process: encoding needs the model."""

    def __init__(self, training: DiffusionTraining):
        self.training = training

    def __iter__(self) -> Iterator[Batch]:
        return self.training.batches()
