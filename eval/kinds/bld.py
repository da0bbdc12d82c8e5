"""Blended Latent Diffusion."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from eval.kinds.base import Input, Kind, Made, Paint, resized
from hdpainter.blend import blend
from hdpainter.jobs.progress import OnStep
from hdpainter.settings import GuidanceScale, Steps
from ldm.util import UserError

if TYPE_CHECKING:
    from eval.models import ModelCache
    from hdpainter.baselines.bld import BLDSettings

MULTIPLE = 64  # of the sides of pictures that a UNet takes: it halves the latents three times


@dataclass(frozen=True)
class BLD(Kind):
    """Blended Latent Diffusion; the fields from `steps` to `start` are those of `BLDSettings`.

    model: a checkpoint of ``configs/models/registry.yaml`` such as sd2-base; or a pipeline, whose inpainting
        model then runs as text-to-image, with a mask of everything.
    known_region: `exact` and `blended` join the result with the original like those of the other methods;
        `decoded` leaves the autoencoder's reconstruction, as the public script does; `weights` and `latents` fit
        the decoder or the latents to the known pixels, as the original paper's program does, 75 steps a picture,
        and `poisson` is its Poisson blending.
    """

    steps: Steps = 50
    grid: Literal["leading", "uniform"] = "leading"
    skip: float = 0.25
    guidance_scale: GuidanceScale = 7.5
    negative_prompt: str = ""
    background: Literal["leaving", "entering", "before"] = "leaving"
    start: Literal["noise", "source"] = "noise"
    known_region: Literal["exact", "blended", "decoded", "weights", "latents", "poisson"] = "exact"
    has_network: ClassVar[bool] = True

    def settings(self) -> "BLDSettings":
        from hdpainter.baselines.bld import BLDSettings

        names = [f.name for f in dataclasses.fields(BLDSettings)]
        return BLDSettings(**{name: getattr(self, name) for name in names})

    def identity(self) -> dict[str, Any]:
        from eval.models import model_identity

        self.settings()
        return {**super().identity(), "model": model_identity(self.model, self.trusted)}

    def check(self, size: int) -> None:
        if size % MULTIPLE:
            raise UserError(
                f"benchmark.size is {size}: for Blended Latent Diffusion give a multiple of {MULTIPLE}"
            )

    def cost(self) -> float:
        return self.steps * (1 - self.skip) * 2

    def label(self, name: str) -> str:
        from eval.models import is_inpainting_model

        return (
            f"{name} (inpainting UNet, full mask)" if is_inpainting_model(self.model, self.trusted) else name
        )

    def load(self, models: "ModelCache", progress: OnStep) -> Paint:
        from hdpainter.baselines.bld import BlendedLatentDiffusion, squeezed_mask
        from hdpainter.baselines.reconstruction import paste_poisson, reconstruct_background
        from hdpainter.inpaint import FACTOR

        model = models.get(self.model).stage1
        settings = self.settings()

        def paint(inputs: Sequence[Input]) -> list[Made]:
            size = max(inputs[0].image.shape[:2])
            bld = BlendedLatentDiffusion(model, size)
            pictures = bld(
                [one.image for one in inputs],
                [one.mask for one in inputs],
                [one.sample.prompt for one in inputs],
                [one.seed for one in inputs],
                settings,
                lambda step, steps: progress("bld", step, steps),
            )
            made = []
            for one, picture in zip(inputs, pictures, strict=True):
                missed = squeezed_mask(one.mask, size // FACTOR)[1]
                if self.known_region in ("weights", "latents"):
                    picture = reconstruct_background(model, picture, one.image, one.mask, self.known_region)
                elif self.known_region == "poisson":
                    picture = paste_poisson(picture, one.image, one.mask)
                image = resized(np.array(picture), one.image.shape[:2], "lanczos")
                if self.known_region in ("exact", "blended"):
                    image = blend(one.image, image, one.mask, self.known_region)
                made.append(Made(image, {"mask_missed": True} if missed else {}))
            return made

        return paint
