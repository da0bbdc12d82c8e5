"""The whole method: a picture, a mask and a prompt in, the finished picture out.

Stage 1 completes the picture at the model's own resolution, stage 2 carries it to four times that, and the result
is brought to the input's exact size and joined with it.
"""

import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import torch
from PIL import Image

from hdpainter.baselines.square import stretch
from hdpainter.blend import blend
from hdpainter.canvas import Canvas, Task
from hdpainter.images import Pixels, Source
from hdpainter.inpaint import Inpainting, Observer
from hdpainter.inputs import parts_of
from hdpainter.jobs.progress import OnStep
from hdpainter.masks import shrink, stage_size
from hdpainter.models.choice import choose
from hdpainter.models.devices import dtype_policy, usable_device
from hdpainter.models.loading import PipelineModels, load
from hdpainter.models.registry import PipelineSpec, check_method
from hdpainter.prompts import words_cut
from hdpainter.settings import Adjustments, Method, Seed, Size
from hdpainter.superres import SCALE, SuperResolution
from hdpainter.tensors import to_image
from hdpainter.values import convert
from hdpainter.version import versions
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.util import UserError

Value = TypeVar("Value")
Several = list[Value] | tuple[Value, ...]


@dataclass(frozen=True)
class Result:
    """image: the finished picture, of the input's size. low_res: stage 1's picture (of the last hole, where they
    are filled one after the other). metadata: all that is needed to make it again, and how long it took."""

    image: Image.Image
    low_res: Image.Image
    metadata: dict[str, Any]


@dataclass(frozen=True)
class _Painted:
    """A task that is done: stage 1's picture, the finished window uint8 [H, W, 3], whether stage 2 made it."""

    task: Task
    low_res: Image.Image
    pixels: Pixels
    stage2: bool
    seconds: dict[str, float]

    @property
    def facts(self) -> dict[str, Any]:
        """What the metadata says of one of several: its window as (left, top, right, bottom)."""
        rows, columns = self.task.window
        return {
            "prompt": self.task.prompt,
            "seed": self.task.seed,
            "window": [columns.start, rows.start, columns.stop, rows.stop],
            "stage1_size": list(self.task.size[::-1]),
            "superres": self.stage2,
        }


class HDPainter:
    """Text-guided inpainting by HD-Painter and the methods it is compared with.

    One painter can make pictures by any method in any order; nothing of a call stays behind for the next. It is
    not meant for several threads at once: the methods patch the UNet while they run.
    """

    def __init__(self, models: PipelineModels):
        self.models = models

    @classmethod
    def from_config(
        cls,
        name_or_yaml: str | Path | PipelineSpec | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        superres: bool = True,
        trusted: bool = False,
        offload: bool = False,
        **weights: Any,
    ) -> "HDPainter":
        """A painter with the models of a pipeline: "mini", "sd2", "sd15", ... or the path of a pipeline's YAML.

        device: "cuda", "cpu", "mps", ...; the first of these that is there by default.
        dtype: "float32", "bfloat16" or "float16" for the UNets and text encoders; see `dtype_policy`, also for
            the default.
        superres: whether stage 2 will be used; if not, its checkpoint need not be there.
        trusted: whether the models' configs may name classes of other projects, which then run.
        offload: keep only the stage at work on the device, the other in main memory: slower, less GPU memory.
        weights: checkpoint, lora (a list) and what else `ModelChoice` has, for stage 1.
        Raises UserError for an unknown name, device or dtype and for missing or wrong checkpoints.
        """
        device = usable_device(device)
        spec = choose(name_or_yaml, **weights)
        options = {"superres": superres, "trusted": trusted, "offload": offload}
        return cls(load(spec, device, dtype_policy(dtype, device), **options))

    @overload
    def __call__(self, image: Source, mask: Source | None, prompt: str, **settings: Any) -> Result: ...

    @overload
    def __call__(
        self,
        image: Several[Source],
        mask: Source | Several[Source] | None,
        prompt: str | Several[str],
        **settings: Any,
    ) -> list[Result]: ...

    def __call__(
        self,
        image: Source | Several[Source],
        mask: Source | Several[Source] | None,
        prompt: str | Several[str],
        *,
        method: str | Path | Method | None = None,
        seed: int | Several[int] = 0,
        size: int | None = None,
        superres: bool = True,
        progress: OnStep | None = None,
        observer: Observer | None = None,
        **adjustments: Any,
    ) -> Result | list[Result]:
        """Fill the mask with what the prompt says.

        image, mask: paths, PIL images or arrays; the mask is as large as the image, white = fill. It may be None
            where the picture is outpainted.
        prompt: what to paint; words beyond the text encoder's 77 tokens are cut, which the metadata tells.
        method: the name of a method in ``configs/methods``, a YAML file, or a `Method`; the model's by default.
        seed: of all noise; the same seed gives the same picture, alone or in a batch.
        size: longer side of stage 1 in pixels; the model's own by default.
        superres: False enlarges stage 1's result by an ordinary filter instead of stage 2.
        progress: called with (stage, step, steps); an exception it raises cancels the job.
        observer: looks on after each step of stage 1; see `hdpainter.inpaint.Observer`.
        adjustments: steps, guidance_scale, eta, negative_prompt and all else that `Adjustments` has: in place of
            the method's own values.

        Lists give one batch and a list of results: the same pictures as one by one, within rounding. A single
        mask, prompt or seed serves for all.

        Sizes: any. Pictures larger than stage 2's (2048 for SD2) get their fill enlarged to fit, the known part
        stays as it is; pictures no larger than stage 1's need no stage 2.
        Raises UserError for bad input.
        """
        method = self._method(method).adjusted(Adjustments(**adjustments))
        images = image if isinstance(image, list | tuple) else [image]
        masks, prompts, seeds = (_for_all(value, len(images)) for value in (mask, prompt, seed))
        inputs = zip(images, masks, prompts, seeds, strict=True)
        canvases = [self._canvas(*one, method) for one in inputs]
        long_side, multiple = self._long_side(size), self.models.spec.multiple
        painted: list[list[_Painted]] = [[] for _ in canvases]
        for number in range(max((len(canvas.prompts) for canvas in canvases), default=0)):
            left = [index for index, canvas in enumerate(canvases) if number < len(canvas.prompts)]
            tasks = [canvases[index].task(number, long_side, multiple) for index in left]
            done = self._paint(tasks, method, superres, progress or _silent, observer)
            for index, one in zip(left, done, strict=True):
                canvases[index].paste(one.task, one.pixels)
                painted[index].append(one)
        results = [self._result(canvas, parts) for canvas, parts in zip(canvases, painted, strict=True)]
        return results if isinstance(image, list | tuple) else results[0]

    def draft(
        self,
        image: Source,
        mask: Source | None,
        prompt: str,
        *,
        method: str | Path | Method | None = None,
        seed: int = 0,
        size: int | None = None,
        progress: OnStep | None = None,
    ) -> Image.Image:
        """Stage 1 alone: a completion of stage 1's size, `Result.low_res`, for `finish` to go on with.

        Arguments as for a call of the painter; what else may be set is set in the method (`Method.adjusted`).
        Raises UserError for bad input, and where several holes are to be filled one after the other.
        """
        method = self._method(method)
        _, task = self._only_task(image, mask, prompt, seed, method, size)
        return self._inpaint([task], method, progress or _silent, None)[0]

    def finish(
        self,
        image: Source,
        mask: Source | None,
        prompt: str,
        low_res: Image.Image,
        *,
        method: str | Path | Method | None = None,
        seed: int = 0,
        size: int | None = None,
        superres: bool = True,
        progress: OnStep | None = None,
    ) -> Result:
        """The rest of the way: stage 2 of a draft, the input's size, and the joining with the input.

        With the arguments that made the draft, the picture is that of a single call of the painter.
        Raises UserError where `low_res` is not of stage 1's size.
        """
        method = self._method(method)
        canvas, task = self._only_task(image, mask, prompt, seed, method, size)
        if low_res.size != task.size[::-1]:
            wanted = "{} x {}".format(*task.size[::-1])
            raise UserError(
                f"the draft is {low_res.width} x {low_res.height} pixels, stage 1 of this picture {wanted}"
            )
        painted = self._finish(task, low_res, method, superres, {}, progress or _silent)
        canvas.paste(task, painted.pixels)
        return self._result(canvas, [painted])

    def _method(self, method: str | Path | Method | None) -> Method:
        """The method with what it leaves to the model."""
        if not isinstance(method, Method):
            method = Method.load(method or self.models.spec.method)
        check_method(method, self.models.spec.kind, self.models.spec.name)
        method.check_model(self.models.spec.name, self.models.text_to_image)
        if method.superres.crop_margin is None:
            method = method.override({"superres.crop_margin": self.models.spec.crop_margin})
        return method

    def _canvas(self, image: Source, mask: Source | None, prompt: str, seed: int, method: Method) -> Canvas:
        if not isinstance(prompt, str):
            raise UserError(f"prompt must be text, not {prompt!r}")
        return Canvas(image, mask, prompt, convert(Seed, seed, "seed"), method)

    def _only_task(
        self,
        image: Source,
        mask: Source | None,
        prompt: str,
        seed: int,
        method: Method,
        size: int | None,
    ) -> tuple[Canvas, Task]:
        canvas = self._canvas(image, mask, prompt, seed, method)
        if len(canvas.prompts) > 1:
            raise UserError(
                f"the mask has {len(canvas.prompts)} holes to fill one after the other, and a draft is of one: "
                "fill them at once, without each_hole"
            )
        return canvas, canvas.task(0, self._long_side(size), self.models.spec.multiple)

    def _long_side(self, size: int | None) -> int:
        return self.models.spec.size if size is None else convert(Size, size, "size")

    def _paint(
        self,
        tasks: Sequence[Task],
        method: Method,
        superres: bool,
        progress: OnStep,
        observer: Observer | None,
    ) -> list[_Painted]:
        """Stage 1 in one batch for each padded size, stage 2 picture by picture."""
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, task in enumerate(tasks):
            groups[task.fill.shape].append(index)
        results: dict[int, _Painted] = {}
        for indices in groups.values():
            batch = [tasks[index] for index in indices]
            with timed() as inpainting:
                low_res = self._inpaint(batch, method, progress, observer)
            seconds = {"inpainting": inpainting[0] / len(batch)}
            for index, task, picture in zip(indices, batch, low_res, strict=True):
                results[index] = self._finish(task, picture, method, superres, seconds, progress)
        return [results[index] for index in range(len(tasks))]

    def _finish(
        self,
        task: Task,
        low_res: Image.Image,
        method: Method,
        superres: bool,
        seconds: dict[str, float],
        progress: OnStep,
    ) -> _Painted:
        """From stage 1's picture to the finished window; `seconds`: what was spent before."""
        height, width = task.original.shape[:2]
        stage2 = superres and self.models.spec.upscaler is not None and max(height, width) > max(task.size)
        with timed() as finishing:
            generated = self._upscale(task, low_res, method, progress) if stage2 else low_res
            resized = np.array(generated.resize((width, height), Image.Resampling.LANCZOS))
            scale = max(height, width) / max(task.size)
            pixels = blend(task.original, resized, task.mask, method.known_region, scale)
        return _Painted(task, low_res, pixels, stage2, {**seconds, "superres": finishing[0]})

    @torch.no_grad()
    def _inpaint(
        self, tasks: Sequence[Task], method: Method, progress: OnStep, observer: Observer | None
    ) -> list[Image.Image]:
        spec = self.models.spec
        if spec.kind != "ldm":
            return self._paint_squares(tasks, method, progress, observer)
        self.models.begin("inpainting")
        stage = Inpainting(self.models.stage1, spec.painta_levels, spec.rasg_levels)
        decoded = stage(
            [task.image for task in tasks],
            [task.fill for task in tasks],
            [task.prompt for task in tasks],
            method,
            [task.seed for task in tasks],
            lambda step, steps: progress(f"inpainting{tasks[0].label}", step, steps),
            observer,
        )
        pictures = []
        for task, pixels in zip(tasks, decoded, strict=True):
            height, width = task.size
            pictures.append(to_image(pixels, method.rounding).crop((0, 0, width, height)))
        return pictures

    def _paint_squares(
        self, tasks: Sequence[Task], method: Method, progress: OnStep, observer: Observer | None
    ) -> list[Image.Image]:
        """Stage 1 by a baseline, which squeezes the originals itself: its squares stretched to stage 1's size."""
        if observer:
            raise UserError(f"model {self.models.spec.name} is no latent diffusion model to look into")
        squares = self.models.baseline.squares(
            [task.original for task in tasks],
            [task.mask for task in tasks],
            [task.prompt for task in tasks],
            [task.seed for task in tasks],
            method,
            lambda step, steps: progress("inpainting", step, steps),
        )
        return [
            stretch(square, task.size, method.rounding) for square, task in zip(squares, tasks, strict=True)
        ]

    def _upscale(self, task: Task, low_res: Image.Image, method: Method, progress: OnStep) -> Image.Image:
        spec, settings = self.models.spec, method.superres
        longest = spec.max_size // SCALE
        if max(low_res.size) > longest:
            height, width = stage_size(low_res.height, low_res.width, longest)
            low_res = low_res.resize((width, height), Image.Resampling.LANCZOS)
        size = (low_res.width * SCALE, low_res.height * SCALE)
        original = Image.fromarray(task.original).resize(size, Image.Resampling.BICUBIC)
        # All that M touches: otherwise thin strokes over pictures larger than stage 2's count as known there, and
        # what they are to remove comes back.
        mask = shrink(task.mask, size[::-1], "bicubic>0")
        self.models.begin("upscaler")
        assert self.models.upscaler is not None, "no stage 2"
        stage = SuperResolution(self.models.upscaler, spec.multiple)
        high_res = stage(
            np.array(original),
            np.array(low_res),
            mask,
            task.prompt,
            settings,
            task.seed,
            method.rounding,
            lambda step, steps: progress(f"superres{task.label}", step, steps),
        )
        return Image.fromarray(high_res)

    def _result(self, canvas: Canvas, painted: Sequence[_Painted]) -> Result:
        """The finished canvas with its record."""
        image = Image.fromarray(canvas.pixels)
        image.info = dict(canvas.info)
        return Result(image, painted[-1].low_res, self._metadata(canvas, painted))

    def _metadata(self, canvas: Canvas, painted: Sequence[_Painted]) -> dict[str, Any]:
        method, first = canvas.method, painted[0]
        stage2 = any(part.stage2 for part in painted)
        height, width = canvas.mask.shape
        if self.models.spec.kind == "ldm":
            count_cut: Callable[[str], int] = words_cut
            device, dtype = self.models.device, _dtype_of(self.models.stage1)
        else:
            baseline = self.models.baseline
            count_cut, device, dtype = baseline.words_cut, baseline.device, baseline.dtype
        dtypes = {"inpainting": dtype}
        if stage2 and self.models.upscaler is not None:
            dtypes["superres"] = _dtype_of(self.models.upscaler)
        seconds: dict[str, float] = defaultdict(float)
        for part in painted:
            for stage, spent in part.seconds.items():
                seconds[stage] += spent
        facts = {
            "prompt": canvas.prompt,
            "words_cut": sum(count_cut(part.task.prompt) for part in painted),
            "negative_words_cut": count_cut(method.prompts.negative),
            "seed": canvas.seed,
            "method": dataclasses.asdict(method),
            "size": [width, height],
            "stage1_size": list(first.task.size[::-1]),
            "superres": stage2,
            "mask_share": float(canvas.mask.mean()),
            "mask_parts": parts_of(canvas.mask),
            "models": self.models.info,
            "device": str(device),
            "dtype": {stage: str(dtype).removeprefix("torch.") for stage, dtype in dtypes.items()},
            "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
            "versions": versions(),
        }
        if method.input.only_masked is not None or len(painted) > 1:
            facts["holes"] = [part.facts for part in painted]
        return facts


def _silent(stage: str, step: int, steps: int) -> None:
    """The progress of a call that wants none."""


def _dtype_of(model: LatentDiffusion) -> torch.dtype:
    return next(model.model.parameters()).dtype


@contextmanager
def timed() -> Iterator[list[float]]:
    """A list that holds the seconds the block took, once it is over."""
    seconds: list[float] = []
    start = time.perf_counter()
    yield seconds
    seconds.append(time.perf_counter() - start)


def _for_all(value: Any, count: int) -> list[Any]:
    """One value for each of `count` images: a list as it is, a single value repeated."""
    if not isinstance(value, list | tuple):
        return [value] * count
    if len(value) != count:
        raise UserError(f"{len(value)} masks, prompts or seeds for {count} images; give one for each, or one")
    return list(value)
