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

from ldm.checkpoint import misfit, read_state_dict
from ldm.data.cache import SceneCache, names, scene_cache
from ldm.data.masks import random_mask
from ldm.data.objects import CATEGORIES
from ldm.data.toycoco import describe_scene
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.util import UserError

from .base import Training, model_part, most_detailed, psnr, read_part, tile, to_images, to_tensor

Batch = dict
FROZEN = ("first_stage_model", "cond_stage_model")


class Pool:
    """Ready samples of one crop size, a part of which is replaced whenever a batch is drawn.

    Encoding pictures costs as much as a training step, so a sample is used about `reuse` times, each time with
    other noise and another timestep.
    """

    def __init__(self, make, size: int, capacity: int, reuse: float):
        self.make, self.size, self.capacity, self.reuse = make, size, capacity, reuse
        self.samples: list[dict] = []
        self.next = 0

    def draw(self, rng: np.random.Generator, count: int) -> list[dict]:
        """`count` random samples, after some have been replaced by new ones."""
        if not self.samples:
            while len(self.samples) < self.capacity:
                self.samples += self.make(rng, self.size, min(32, self.capacity - len(self.samples)))
        fresh = int(count / self.reuse + rng.random())
        for sample in self.make(rng, self.size, fresh) if fresh else []:
            self.samples[self.next] = sample
            self.next = (self.next + 1) % self.capacity
        return [self.samples[i] for i in rng.integers(self.capacity, size=count)]


class DiffusionTraining(Training):
    """Trains the UNet of a latent diffusion model `config` (a YAML file); its other parts are frozen.

    parts: for each frozen part the weights that a previous stage has exported, {"first_stage_model": file, ...}.
    crops: {crop size in pixels: [weight, batch size, pool capacity]}. reuse: see `Pool`.
    suffixes: one of these follows each caption, "" for none: the words that the methods' prompts add.
    dropped: probability that a caption is replaced by one of `nulls`, for classifier-free guidance.
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
        self.pools = {s: Pool(self.make, s, int(v[2]), reuse) for s, v in self.crops.items()}
        self.suffixes, self.dropped, self.nulls, self.seed = suffixes, dropped, nulls, seed

    def on_load_checkpoint(self, checkpoint):
        """The frozen parts are the config's, also where the checkpoint was trained with others."""
        frozen = tuple(f"ldm.{name}." for name in FROZEN)
        checkpoint["state_dict"] |= {k: v for k, v in self.state_dict().items() if k.startswith(frozen)}

    def make(self, rng: np.random.Generator, size: int, count: int) -> list[dict]:
        """`count` samples from crops of `size` pixels: latents and conditions without their batch axis."""
        raise NotImplementedError

    def crop(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, list[str]]:
        """A crop of a random scene, more often than not around one of its objects, and the scene's captions."""
        i = int(rng.integers(len(self.scenes.images)))
        image, objects = self.scenes.images[i], self.scenes.records[i]["objects"]
        room = len(image) - size
        x, y = rng.integers(room + 1, size=2)
        if objects and rng.random() < 0.6:
            x0, y0, x1, y1 = np.array(objects[rng.integers(len(objects))]["box"]) * len(image)
            x, y = (np.array([x0 + x1, y0 + y1]) - size) / 2 + rng.uniform(-0.25, 0.25, 2) * size
            x, y = int(np.clip(x, 0, room)), int(np.clip(y, 0, room))
        return image[y : y + size, x : x + size], self.scenes.records[i]["captions"]

    def caption(self, rng: np.random.Generator, captions: Sequence[str]) -> str:
        """One of `captions`, or one that says nothing."""
        if rng.random() < self.dropped:
            return pick(rng, self.nulls)
        suffix = pick(rng, self.suffixes)
        caption = pick(rng, captions)
        return f"{caption}, {suffix}" if suffix else caption

    def train_dataloader(self):
        return torch.utils.data.DataLoader(Endless(self), batch_size=None)

    def batches(self) -> Iterator[Batch]:
        """Endless training batches, each of one crop size, which is the same in all processes."""
        cv2.setNumThreads(1)
        # steps already done must not come again
        order = np.random.default_rng((self.seed, self.global_step))
        rng = np.random.default_rng((self.seed, self.global_step, self.global_rank))
        sizes = list(self.crops)
        weights = np.array([self.crops[s][0] for s in sizes], float)
        while True:
            size = sizes[order.choice(len(sizes), p=weights / weights.sum())]
            samples = self.pools[size].draw(rng, self.crops[size][1])
            yield collate(samples) | {"txt": [self.caption(rng, s["captions"]) for s in samples]}

    def transfer_batch_to_device(self, batch, device, index):
        return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}

    def loss(self, batch):
        z, cond = self.ldm.get_input(batch, "jpg")
        return self.ldm.p_losses(z, cond, self.timesteps(len(z)))[0], {}

    def timesteps(self, count: int) -> Tensor:
        """`count` random timesteps."""
        return torch.randint(self.ldm.num_timesteps, (count,), device=self.device)

    def result(self) -> nn.Module:
        """The averaged UNet, or its mean with that of `start`."""
        if not self.start_share:
            return self.average.module
        mean = copy.deepcopy(self.average.module)
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


def pick(rng: np.random.Generator, items: Sequence[str]) -> str:
    """One of `items`."""
    return items[rng.integers(len(items))]


def collate(samples: list[dict]) -> Batch:
    """Tensors of the samples stacked; `captions` are left out."""
    return {k: torch.stack([s[k] for s in samples]).float() for k in samples[0] if k != "captions"}


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

    def crop(self, rng, size):
        """Anything from such a crop to the whole scene, reduced to `size`: what is in it, its caption tells."""
        window = int(rng.integers(size, self.scenes.images.shape[1] + 1))
        image, captions = super().crop(rng, window)
        return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), captions

    def object(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, list[str]]:
        """A random object with what is around it, in about its own resolution, and its names."""
        i = int(rng.integers(len(self.scenes.images)))
        image, objects = self.scenes.images[i], self.scenes.records[i]["objects"]
        found = pick(rng, objects)
        x0, y0, x1, y1 = np.array(found["box"]) * len(image)
        side = max(x1 - x0, y1 - y0) * rng.uniform(1.05, 2)
        side = int(np.clip(side, 0.875 * size, len(image)))
        x, y = (np.array([x0 + x1, y0 + y1]) - side) / 2 + rng.uniform(-0.1, 0.1, 2) * side
        x, y = np.clip((x, y), 0, len(image) - side).astype(int)
        window = image[y : y + side, x : x + side]
        return cv2.resize(window, (size, size), interpolation=cv2.INTER_AREA), names(found)

    def blank(self, size: int) -> Tensor:
        """The latent [1, C, h, w] of a grey picture, which is all that a full mask leaves."""
        if size not in self.blanks:
            grey = torch.zeros(1, 3, size, size, device=self.ldm.device)
            self.blanks[size] = self.ldm.encode_first_stage(grey).mode().float()
        return self.blanks[size]

    def conditions(self, images: np.ndarray, masks: np.ndarray) -> Batch:
        """Latents of images [B, H, W, 3] uint8 and of the same with `masks` [B, H, W] set to grey, and masks."""
        x = to_tensor(images).to(self.ldm.device)
        m = torch.from_numpy(masks).to(x)[:, None]
        with torch.no_grad(), torch.autocast(x.device.type, torch.bfloat16):
            z = self.ldm.encode_first_stage(x).mode().float()
            masked = self.blank(x.shape[-1]).repeat(len(x), 1, 1, 1)
            partial = ~torch.from_numpy(masks).all(-1).all(-1).to(x.device)
            if partial.any():
                kept = (x * (1 - m))[partial]
                masked[partial] = self.ldm.encode_first_stage(kept).mode().float()
        small = F.interpolate(m, size=z.shape[-2:])
        return {"jpg_latent": z, "masked_image_latent": masked, "mask": small.movedim(1, -1)}

    def make(self, rng, size, count):
        full = 1.0 if self.progress < self.text_to_image else self.full
        crops = [(self.object if rng.random() < self.single else self.crop)(rng, size) for _ in range(count)]
        masks = np.stack([random_mask(rng, size, full) for _ in range(count)])
        batch = self.conditions(np.stack([c for c, _ in crops]), masks)
        half = {k: v.half().cpu() for k, v in batch.items()}
        return [{k: v[i] for k, v in half.items()} | {"captions": crops[i][1]} for i in range(count)]

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
    layers = [
        layer
        for stage, at in zip(unet.stages, unet.stage_factors, strict=True)
        for name, layer in stage.named_modules()
        if at == factor and name.endswith("attn2")
    ]
    if not layers:
        raise UserError(f"the UNet has no cross-attention at downsampling factor {factor}")

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

    def conditions(self, images: np.ndarray) -> Batch:
        """Latents of images [B, H, W, 3] uint8 and the images reduced 4x."""
        x = to_tensor(images).to(self.ldm.device)
        with torch.no_grad(), torch.autocast(x.device.type, torch.bfloat16):
            z = self.ldm.encode_first_stage(x).mode().float()
        return {"jpg_latent": z, "lr": F.avg_pool2d(x, 4).movedim(1, -1)}

    def crop(self, rng, size):
        """The most detailed of three crops: flat areas teach little."""
        crops = [super(UpscalerTraining, self).crop(rng, size) for _ in range(3)]
        chosen = most_detailed(image for image, _ in crops)
        return next(crop for crop in crops if crop[0] is chosen)

    def make(self, rng, size, count):
        crops = [self.crop(rng, size) for _ in range(count)]
        batch = {k: v.half().cpu() for k, v in self.conditions(np.stack([c for c, _ in crops])).items()}
        return [{k: v[i] for k, v in batch.items()} | {"captions": crops[i][1]} for i in range(count)]

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
