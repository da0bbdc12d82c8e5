"""Training of the miniature diffusion models on toy scenes."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hdpainter.mini.scenes import SceneCache, scene_cache
from hdpainter.mini.training.base import Training, model_part, psnr, read_part, tile, to_images, to_tensor
from hdpainter.mini.training.crops import Blocks, DetailedCrops, InpaintingCrops, SceneCrops, Texts
from hdpainter.mini.world.objects import CATEGORIES
from hdpainter.mini.world.toycoco import describe_scene
from ldm.checkpoint import misfit, read_state_dict
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.util import UserError

Batch = dict
FROZEN = ("first_stage_model", "cond_stage_model")
BLOCK = 64  # crops that are drawn and encoded at a time


class Pool:
    """Encoded samples of one crop size, a part of which is replaced whenever a batch is drawn.

    Drawing and encoding a picture costs as much as a training step, so a sample is used about `reuse` times, each
    time with other noise, another timestep and one of its texts. `blocks` gives new samples.
    """

    def __init__(self, blocks: Iterator[Batch], capacity: int, reuse: float):
        self.blocks, self.capacity, self.reuse = blocks, capacity, reuse
        self.tensors: Batch = {}
        self.next = 0
        self.due = float(capacity)  # samples that should have been replaced by now

    def draw(self, rng: np.random.Generator, count: int) -> Batch:
        """`count` random samples, after some have been replaced by new ones."""
        while self.due > 0:
            self.due -= self._put(next(self.blocks))
        self.due += count / self.reuse
        texts = self.tensors["txt"]
        chosen, variant = (
            torch.from_numpy(rng.integers(n, size=count)).to(texts.device) for n in texts.shape[:2]
        )
        return {k: v[chosen] for k, v in self.tensors.items()} | {"txt": texts[chosen, variant]}

    def _put(self, block: Batch) -> int:
        """Put samples in the place of the oldest ones; returns how many."""
        if not self.tensors:
            self.tensors = {k: v.new_empty(self.capacity, *v.shape[1:]) for k, v in block.items()}
        count = min(len(block["txt"]), self.capacity - self.next)
        for name, tensor in block.items():
            self.tensors[name][self.next : self.next + count] = tensor[:count]
        self.next = (self.next + count) % self.capacity
        return count


class DiffusionTraining(Training):
    """Trains the UNet of a latent diffusion model `config` (a YAML file); its other parts are frozen.

    parts: for each frozen part the weights that a previous stage has exported, {"first_stage_model": file, ...}.
    crops: {crop size in pixels: [weight, batch size, pool capacity]}. reuse: see `Pool`.
    suffixes, dropped, nulls: see `Texts`; the words that the methods' prompts add, and what classifier-free
    guidance needs.
    start: a file of a whole model, whose UNet the training begins with instead of random weights.
    start_share: weight of `start` in the mean of both UNets that samples and exports use. Half and half is better
    than either where training has gone on at a high rate: the mean of two minima of one basin lies in its flat
    middle [Wortsman et al. 2022].
    """

    parallel = True

    def __init__(
        self,
        config: str,
        parts: dict[str, str],
        cache: str | Path,
        size: int,
        scenes: int,
        crops: dict[int, list],
        reuse: float = 6,
        suffixes: Sequence[str] = ("",),
        dropped: float = 0.1,
        nulls: Sequence[str] = ("",),
        start: str | None = None,
        start_share: float = 0.0,
        seed: int = 0,
        **budget,
    ):
        if not 0 <= start_share < 1 or (start_share and start is None):
            raise UserError(f"start_share: {start_share} must be from 0 to below 1, and needs a `start`")
        ldm = model_part(config)
        if unknown := sorted(set(parts) - set(FROZEN)):
            raise UserError(f"parts: {unknown[0]!r} is not one of {', '.join(FROZEN)}")
        loaded = {name: read_part(getattr(ldm, name), name, file) for name, file in parts.items()}
        if start is not None:
            read_unet(ldm, start)
        super().__init__(ldm.model, **budget)
        self.ldm, self.parts = ldm, loaded
        self.start_share = start_share
        self.start = copy.deepcopy(ldm.model.state_dict()) if start_share else {}
        self.scenes: SceneCache = scene_cache(cache, "train", scenes, size, self.workers)
        self.crops = {int(size): values for size, values in crops.items()}
        self.reuse, self.seed = reuse, seed
        self.texts = Texts(self.tokenize, suffixes, dropped, nulls)

    def on_load_checkpoint(self, checkpoint):
        """The frozen parts are the config's, also where the checkpoint was trained with others."""
        super().on_load_checkpoint(checkpoint)
        frozen = tuple(f"ldm.{name}." for name in FROZEN)
        checkpoint["state_dict"] |= {k: v for k, v in self.state_dict().items() if k.startswith(frozen)}

    def tokenize(self, texts: list[str]) -> np.ndarray:
        """Tokens [B, T] for the model's text encoder."""
        return self.ldm.cond_stage_model.tokenize(texts).numpy()

    def source(self) -> SceneCrops:
        """What draws the crops."""
        return SceneCrops(self.scenes, self.texts)

    def encode(self, drawn: Batch) -> Batch:
        """Latents and conditions of drawn crops."""
        raise NotImplementedError

    def pool(self, size: int, capacity: int) -> Pool:
        """Encoded crops of `size` pixels; other ones in every process and after a resume."""
        seed = (self.seed, self.global_step, self.global_rank)
        blocks = self.loader(Blocks(self.source(), size, min(BLOCK, capacity), seed))
        encoded = (
            {k: v.half() for k, v in self.encode(drawn).items()}
            | {"txt": drawn["tokens"].to(self.device, non_blocking=True)}
            for drawn in blocks
        )
        return Pool(encoded, capacity, self.reuse)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(Endless(self), batch_size=None)

    def batches(self) -> Iterator[Batch]:
        """Endless training batches, each of one crop size, which is the same in all processes."""
        # steps already done must not come again
        order = np.random.default_rng((self.seed, self.global_step))
        rng = np.random.default_rng((self.seed, self.global_step, self.global_rank))
        sizes = list(self.crops)
        weights = np.array([self.crops[s][0] for s in sizes], float)
        pools = {size: self.pool(size, int(self.crops[size][2])) for size in sizes}
        while True:
            size = sizes[order.choice(len(sizes), p=weights / weights.sum())]
            yield pools[size].draw(rng, self.crops[size][1])

    def loss(self, batch):
        batch = {k: v.float() if v.is_floating_point() else v for k, v in batch.items()}
        z, cond = self.ldm.get_input(batch, "jpg")
        return self.ldm.p_losses(z, cond, self.timesteps(len(z)))[0], {}

    def timesteps(self, count: int) -> Tensor:
        """`count` random timesteps."""
        return torch.randint(self.ldm.num_timesteps, (count,), device=self.device)

    def result(self) -> nn.Module:
        """The averaged UNet, or its mean with that of `start`."""
        if not self.start_share:
            return self.average
        mean = copy.deepcopy(self.average)
        for name, tensor in mean.state_dict().items():
            tensor.lerp_(self.start[name].to(tensor), self.start_share)
        return mean

    def weights(self):
        """The whole model with the resulting UNet."""
        modules = {"model": self.result()} | {name: getattr(self.ldm, name) for name in FROZEN}
        return {
            f"{part}.{name}": v for part, module in modules.items() for name, v in module.state_dict().items()
        }

    @contextmanager
    def averaged(self):
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


def read_unet(ldm: nn.Module, path: str | Path) -> None:
    """Give the diffusion model `ldm` the UNet of a whole model's file. Raises UserError if it has another one."""
    state = {name: tensor for name, tensor in read_state_dict(path).items() if name.startswith("model.")}
    if problem := misfit(nn.ModuleDict({"model": ldm.model}), state):
        raise UserError(f"{path} does not fit the config's UNet: {problem}")
    ldm.model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in state.items()})


class Endless(torch.utils.data.IterableDataset):
    """The training's own endless batches, drawn in its process: encoding needs the model."""

    def __init__(self, training: DiffusionTraining):
        self.training = training

    def __iter__(self):
        return self.training.batches()


def hull(mask: np.ndarray) -> np.ndarray:
    """The filled convex hull of a boolean mask [H, W]."""
    points = np.argwhere(mask)[:, ::-1].astype(np.int32)
    filled = np.zeros(mask.shape, np.uint8)
    cv2.fillConvexPoly(filled, cv2.convexHull(points), 1)
    return filled.astype(bool)


class InpaintingTraining(DiffusionTraining):
    """Trains the inpainting model as Stable Inpainting was: first text-to-image, then random masks with the
    caption of the whole scene.

    text_to_image: share of the budget in which everything is masked; it teaches the words. full: share of such
    masks in the rest. single: share of pictures that show one object and are captioned with its name. Much of
    what a caption names lies outside the mask or the crop; this teaches the model to neglect prompts.
    """

    def __init__(
        self,
        *args,
        text_to_image: float = 0.6,
        single: float = 0.5,
        full: float = 0.25,
        held_out: int = 8,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.text_to_image, self.single, self.full = text_to_image, single, full
        self.blanks: dict[int, Tensor] = {}
        scenes = [describe_scene("val", i) for i in range(held_out)]
        size = self.scenes.images.shape[1]
        self.probe_images = np.stack([scene.render(size) for scene in scenes])
        self.probe_masks = np.stack([hull(scene.visible_masks(size)[-1]) for scene in scenes])
        self.probe_captions = [scene.captions[0] for scene in scenes]
        own = [CATEGORIES.index(scene.objects[-1].category) for scene in scenes]
        self.probe_labels = [
            [CATEGORIES[(i + shift) % len(CATEGORIES)].name for i in own] for shift in (0, 7)
        ]

    def weights(self):
        """Also the rest of the CLIP, for the CLIP score."""
        clip = self.parts.get("cond_stage_model", {})
        return {f"cond_stage_model.{name}": tensor for name, tensor in clip.items()} | super().weights()

    def timesteps(self, count):
        """High noise more often, in proportion to t: there the shapes are decided, which take long to learn."""
        t = (self.ldm.num_timesteps * torch.rand(count, device=self.device).sqrt()).long()
        return t.clamp_max(self.ldm.num_timesteps - 1)  # the product may be rounded up

    def source(self):
        return InpaintingCrops(self.scenes, self.texts, self.single, self.full)

    def blank(self, size: int) -> Tensor:
        """The latent [1, C, h, w] of a grey picture, which is all that a full mask leaves."""
        if size not in self.blanks:
            grey = torch.zeros(1, 3, size, size, device=self.ldm.device)
            self.blanks[size] = self.ldm.encode_first_stage(grey).mode().float()
        return self.blanks[size]

    def conditions(self, images: np.ndarray | Tensor, masks: np.ndarray | Tensor) -> Batch:
        """Latents of images [B, H, W, 3] uint8 and of the same with `masks` [B, H, W] set to grey, and masks."""
        masks = torch.as_tensor(masks)
        partial = (~masks.flatten(1).all(1)).nonzero().flatten()
        x = to_tensor(images, self.ldm.device)
        m = masks.to(x.device, non_blocking=True).to(x)[:, None]
        with torch.no_grad(), torch.autocast(x.device.type, torch.bfloat16):
            z = self.ldm.encode_first_stage(x).mode().float()
            masked = self.blank(x.shape[-1]).repeat(len(x), 1, 1, 1)
            if len(partial):
                partial = partial.to(x.device)
                kept = (x * (1 - m))[partial]
                masked[partial] = self.ldm.encode_first_stage(kept).mode().float()
        small = F.interpolate(m, size=z.shape[-2:])
        return {"jpg_latent": z, "masked_image_latent": masked, "mask": small.movedim(1, -1)}

    def encode(self, drawn):
        masks = drawn["masks"]
        return self.conditions(drawn["images"], masks | (self.progress < self.text_to_image))

    def evaluate(self):
        """Held-out losses at t = 900 under the right, the empty and wrong captions, everything masked; the
        latents' std; the share of the 16x16 cross-attention that the start token takes."""
        everything = np.ones_like(self.probe_masks)
        batch = self.conditions(self.probe_images, everything)
        captions = self.probe_captions
        texts = {"right": captions, "empty": [""] * len(captions), "wrong": captions[1:] + captions[:1]}
        with self.averaged() as ldm, start_token_share(ldm.model.diffusion_model, factor=2) as share:
            losses = {k: self.denoising_loss(batch | {"txt": text}, 900) for k, text in texts.items()}
            figures = {
                "start_share": float(np.mean(share)),
                "mid": self.denoising_loss(batch | {"txt": captions}, 500),
            }
        return losses | figures | {"latent_std": float(batch["jpg_latent"].std() * self.ldm.scale_factor)}

    def sheet(self):
        """Held-out scenes with a hole; filled for the true label, for another one; everything for a caption."""
        rows = [self.probe_images * ~self.probe_masks[..., None]]
        everything = np.ones_like(self.probe_masks)
        jobs = [(self.probe_masks, label) for label in self.probe_labels] + [
            (everything, self.probe_captions)
        ]
        for masks, texts in jobs:
            rows.append(to_images(self.inpaint(self.probe_images, masks, texts)))
        return tile(np.concatenate(rows), len(self.probe_images))

    def inpaint(self, images, masks, texts, steps: int = 25, scale: float = 5.0, seed: int = 0) -> Tensor:
        """Plain inpainting of images [B, H, W, 3] by the averaged model: [B, 3, H, W] in -1..1."""
        batch = self.conditions(images, masks)
        with self.averaged() as ldm:
            z, cond = ldm.get_input(batch | {"txt": list(texts)}, "jpg")
            uncond = cond | {"c_crossattn": [ldm.get_unconditional_conditioning(len(z), "")]}
            generator = torch.Generator().manual_seed(seed)
            start = torch.randn(z.shape, generator=generator).to(z)
            samples, _ = DDIMSampler(ldm).sample(
                steps, len(z), z.shape[1:], cond, eta=0.0, x_T=start, verbose=False,
                unconditional_guidance_scale=scale, unconditional_conditioning=uncond, generator=generator,
            )  # fmt: skip
            return ldm.decode_first_stage(samples)


@contextmanager
def start_token_share(unet, factor: int) -> Iterator[list[float]]:
    """Collects, for every cross-attention at a downsampling factor, the mean probability of the start token."""
    shares: list[float] = []
    layers = [block.attn2 for _, _, block in unet.transformer_blocks([factor])]

    def watch(layer):
        def attend(q, k, v):
            split = (x.unflatten(-1, (layer.heads, -1)).transpose(1, 2).float() for x in (q, k))
            queries, keys = split
            shares.append(float((queries @ keys.mT * layer.scale).softmax(-1)[..., 0].mean()))
            return type(layer).attend(layer, q, k, v)

        return attend

    for layer in layers:
        layer.attend = watch(layer)
    try:
        yield shares
    finally:
        for layer in layers:
            del layer.attend


class UpscalerTraining(DiffusionTraining):
    """Trains the x4 upscaler on crops of scenes drawn at 1024 pixels and their 4x reduced versions."""

    def __init__(self, *args, held_out: int = 4, **kwargs):
        super().__init__(*args, **kwargs)
        scenes = [describe_scene("val", i) for i in range(held_out)]
        full, size = self.scenes.images.shape[1], max(self.crops)
        middle = slice((full - size) // 2, (full + size) // 2)
        self.probe_images = np.stack([scene.render(full)[middle, middle] for scene in scenes])
        self.probe_captions = [scene.captions[0] for scene in scenes]

    def conditions(self, images: np.ndarray | Tensor) -> Batch:
        """Latents of images [B, H, W, 3] uint8 and the images reduced 4x."""
        x = to_tensor(images, self.ldm.device)
        with torch.no_grad(), torch.autocast(x.device.type, torch.bfloat16):
            z = self.ldm.encode_first_stage(x).mode().float()
        return {"jpg_latent": z, "lr": F.avg_pool2d(x, 4).movedim(1, -1)}

    def source(self):
        return DetailedCrops(self.scenes, self.texts)

    def encode(self, drawn):
        return self.conditions(drawn["images"])

    def upscale(self, images: np.ndarray, texts, steps: int = 10, level: int = 20, seed: int = 0) -> Tensor:
        """Images [B, H, W, 3] uint8 reduced 4x and enlarged again by the averaged model."""
        batch = self.conditions(images)
        generator = torch.Generator().manual_seed(seed)
        with self.averaged() as ldm:
            z, cond = ldm.get_input(batch | {"txt": list(texts)}, "jpg")
            levels = torch.full((len(z),), level, device=z.device)
            low = batch["lr"].movedim(-1, 1).contiguous()
            noise = torch.randn(low.shape, generator=generator).to(low)
            noised, levels = ldm.low_scale_model(low, levels, noise)
            cond |= {"c_concat": [noised], "c_adm": levels}
            start = torch.randn(z.shape, generator=generator).to(z)
            samples, _ = DDIMSampler(ldm).sample(
                steps, len(z), z.shape[1:], cond, eta=0.0, x_T=start, verbose=False, generator=generator
            )
            return ldm.decode_first_stage(samples)

    def evaluate(self):
        """PSNR in dB against the drawing: of the model, of bicubic enlargement, of the autoencoder alone."""
        truth = to_tensor(self.probe_images)
        y = self.upscale(self.probe_images, self.probe_captions).float().cpu()
        small = F.avg_pool2d(truth, 4)
        bicubic = F.interpolate(small, scale_factor=4, mode="bicubic", align_corners=False)
        z = self.ldm.encode_first_stage(truth.to(self.ldm.device)).mode()
        limit = self.ldm.first_stage_model.decode(z).float().cpu()
        figures = {"psnr": psnr(y, truth), "bicubic": psnr(bicubic, truth), "autoencoder": psnr(limit, truth)}
        figures["latent_std"] = z.std() * self.ldm.scale_factor
        return {name: float(value) for name, value in figures.items()}

    def sheet(self):
        """Rows: bicubic, the model, the drawing."""
        truth = to_tensor(self.probe_images)
        y = self.upscale(self.probe_images, self.probe_captions).float().cpu()
        bicubic = F.interpolate(F.avg_pool2d(truth, 4), scale_factor=4, mode="bicubic", align_corners=False)
        return tile(to_images(torch.cat([bicubic, y, truth])), len(truth))
