"""HDPainter with the habits of diffusers, so that a script moves over by changing the name of its pipeline.

    pipe = HDPainterInpaintPipeline.from_pretrained("stabilityai/stable-diffusion-2-inpainting").to("cuda")
    pipe("a boat", image, mask_image, num_inference_steps=50, generator=torch.manual_seed(0)).images[0]

What is other than there: pictures keep their size, whatever it is, and pixels outside the mask stay as they are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hdpainter.images import Source
from hdpainter.pipeline import HDPainter, Several
from hdpainter.settings import Method
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.util import UserError

HUB = {
    "stabilityai/stable-diffusion-2-inpainting": "sd2",
    "runwayml/stable-diffusion-inpainting": "sd15",
    "stable-diffusion-v1-5/stable-diffusion-inpainting": "sd15",
    "Lykon/dreamshaper-8-inpainting": "dreamshaper8",
}
"""Names on the hub of what are models here."""

# Called after each step of stage 1 with (pipeline, step from 0, timestep, {"latents": predicted x_0}); what it
# returns changes nothing.
Callback = Callable[["HDPainterInpaintPipeline", int, int, dict[str, Any]], Any]


@dataclass(frozen=True)
class Output:
    """images: PIL pictures, or an array [N, H, W, 3] in [0, 1]; metadata: `Result.metadata` of each."""

    images: list[Image.Image] | np.ndarray
    metadata: list[dict[str, Any]]
    nsfw_content_detected: None = None  # nobody looks


class HDPainterInpaintPipeline:
    """An `HDPainter` that is called as diffusers' inpainting pipelines are; `painter` is the one behind it.

    Args: as for `HDPainter.from_config`. It is loaded when it is first used.
    """

    def __init__(
        self,
        model: str | Path,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        superres: bool = True,
    ):
        self.model, self.device, self.dtype, self.superres = model, device, dtype, superres

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        torch_dtype: torch.dtype | None = None,
        superres: bool = True,
        safety_checker: None = None,
    ) -> "HDPainterInpaintPipeline":
        """The pipeline of a model: a name of ours, of HUB, or the path of a pipeline's YAML."""
        return cls(HUB.get(str(name_or_path), name_or_path), dtype=torch_dtype, superres=superres)

    def to(
        self, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> "HDPainterInpaintPipeline":
        """The pipeline on another device, in another dtype, or both; None leaves one as it is."""
        return type(self)(self.model, device or self.device, dtype or self.dtype, self.superres)

    def enable_attention_slicing(self, *_: Any) -> None:
        """Of no effect: attention is computed in bounded memory anyway."""

    enable_xformers_memory_efficient_attention = enable_attention_slicing

    @cached_property
    def painter(self) -> HDPainter:
        return HDPainter.from_config(self.model, device=self.device, dtype=self.dtype, superres=self.superres)

    def __call__(
        self,
        prompt: str | Several[str],
        image: Source | Several[Source],
        mask_image: Source | Several[Source] | None = None,
        height: int | None = None,
        width: int | None = None,
        padding_mask_crop: int | None = None,
        strength: float = 1.0,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | None = None,
        num_images_per_prompt: int = 1,
        eta: float | None = None,
        generator: torch.Generator | Several[torch.Generator] | None = None,
        output_type: Literal["pil", "np"] = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        method: str | Path | Method | None = None,
        **settings: Any,
    ) -> Output | tuple:
        """Fill the white part of the mask with what the prompt says.

        height, width: of the result, to which image and mask are resized before; by default the image's own.
        padding_mask_crop: our `only_masked`. None stands for the method's own value, or the model's.
        generator: one for all or one for each picture; each picture's seed is drawn from it, so that it goes on
            from call to call. None: torch's default generator.
        method, settings: as for `HDPainter`.

        An exception that the callback raises cancels the call. Raises UserError for bad input, and for a strength
        below 1: what is filled is always painted anew.
        """
        if strength != 1.0:
            raise UserError(f"strength is {strength}: what is filled is painted anew, so give 1")
        if output_type not in ("pil", "np"):
            raise UserError(f"output_type is {output_type!r}: give pil or np")
        images: list[Source] = list(image) if isinstance(image, list | tuple) else [image]
        prompts = [prompt] * len(images) if isinstance(prompt, str) else list(prompt)
        masks: list[Any] = (
            list(mask_image) if isinstance(mask_image, list | tuple) else [mask_image] * len(images)
        )
        if not len(images) == len(prompts) == len(masks):
            raise UserError(f"{len(prompts)} prompts and {len(masks)} masks for {len(images)} images")
        if height or width:
            images = [_resized(one, height, width, Image.Resampling.BICUBIC) for one in images]
            masks = [
                None if one is None else _resized(one, height, width, Image.Resampling.NEAREST)
                for one in masks
            ]
        each = range(num_images_per_prompt)
        images, masks = [one for one in images for _ in each], [one for one in masks for _ in each]
        prompts = [one for one in prompts for _ in each]

        def observe(sampler: DDIMSampler, pred_x0: Tensor, step: int) -> None:
            assert callback_on_step_end is not None
            timestep = int(sampler.ddim_timesteps[-1 - step])
            callback_on_step_end(self, step, timestep, {"latents": pred_x0})

        results = self.painter(
            images,
            masks,
            prompts,
            method=method,
            seed=_seeds(generator, len(images)),
            superres=self.superres,
            steps=num_inference_steps,
            guidance_scale=guidance_scale,
            eta=eta,
            negative_prompt=negative_prompt,
            only_masked=padding_mask_crop,
            observer=observe if callback_on_step_end else None,
            **settings,
        )
        pictures: list[Image.Image] | np.ndarray = [result.image for result in results]
        if output_type == "np":
            pictures = np.stack([np.asarray(picture, np.float32) / 255 for picture in pictures])
        output = Output(pictures, [result.metadata for result in results])
        return output if return_dict else (output.images, None)


def _seeds(generator: torch.Generator | Several[torch.Generator] | None, count: int) -> list[int]:
    generators: list[torch.Generator | None] = (
        list(generator) if isinstance(generator, list | tuple) else [generator] * count
    )
    if len(generators) != count:
        raise UserError(f"{len(generators)} generators for {count} pictures: give one for each, or one")
    drawn = []
    for one in generators:
        device = "cpu" if one is None else one.device
        drawn.append(int(torch.randint(2**32, (), generator=one, device=device)))
    return drawn


def _resized(source: Source, height: int | None, width: int | None, how: Image.Resampling) -> Image.Image:
    """A picture, or a mask, of that size, as far as it is given."""
    if isinstance(source, np.ndarray):
        picture = Image.fromarray(source)
    elif isinstance(source, Image.Image):
        picture = source
    else:
        picture = Image.open(source)
    return picture.resize((width or picture.width, height or picture.height), how)
