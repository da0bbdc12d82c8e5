"""HD-Painter's stage 1 by any of its methods."""

import copy
import dataclasses
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from eval.kinds.base import Input, Kind, Made, Paint
from eval.models import ModelCache, is_inpainting_model, model_identity
from hdpainter.masks import padded_size
from hdpainter.models.registry import PipelineSpec, check_method
from hdpainter.pipeline import HDPainter, OnStep
from hdpainter.settings import Adjustments, Method
from ldm.util import UserError


@dataclass(frozen=True, kw_only=True)
class Pipeline(Adjustments, Kind):
    """HD-Painter's stage 1 by any method of ``configs/methods``, or a YAML file, with the user's adjustments.

    override: values of the method by their place, such as ``{"rasg.logit_shift": 1}``. painta_levels,
    rasg_levels: downsampling factors of the latent that the two act on; the model's own by default.
    """

    method: str = "hd-painter"
    painta_levels: list | None = None
    rasg_levels: list | None = None
    override: dict = field(default_factory=dict)
    has_network: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for place in (*self.by_place(), *self.override):
            if place.partition(".")[0] == "superres":
                raise UserError(f"{place} cannot be set: results are those of stage 1")
            if place.partition(".")[0] == "input":
                raise UserError(f"{place} cannot be set: picture and mask are the benchmark's")

    def resolved(self) -> Method:
        """The method with its values replaced. Raises UserError for what it does not have."""
        return Method.load(self.method).adjusted(self).override(self.override)

    def spec(self) -> PipelineSpec:
        """The pipeline with its levels replaced."""
        spec = PipelineSpec.load(self.model)
        levels = {"painta_levels": self.painta_levels, "rasg_levels": self.rasg_levels}
        given: dict[str, Any] = {key: tuple(value) for key, value in levels.items() if value is not None}
        for key, value in given.items():
            if not (value and all(type(factor) is int and factor > 0 for factor in value)):
                raise UserError(f"{key} must be a list of downsampling factors, not {list(value)!r}")
        return dataclasses.replace(spec, **given)

    def identity(self) -> dict[str, Any]:
        spec, method = self.spec(), self.resolved()
        if spec.kind != "ldm":
            raise UserError(f"model {spec.name} is a kind of its own here: give the entry kind: {spec.kind}")
        check_method(method, spec.kind, spec.name)
        method.check_model(spec.name, not is_inpainting_model(self.model))
        unused = ("name", "superres")
        return {
            "method": {key: value for key, value in dataclasses.asdict(method).items() if key not in unused},
            "model": {
                **model_identity(self.model),
                "painta_levels": spec.painta_levels,
                "rasg_levels": spec.rasg_levels,
            },
        }

    def cost(self) -> float:
        method = self.resolved()
        guided = 1 if method.sampler.guidance_scale == 1 else 2
        return method.sampler.steps * (guided + 1.5 * (method.rasg is not None))

    def group(self, size: tuple[int, int]) -> Hashable:
        return padded_size(*size, self.spec().multiple)

    def load(self, models: ModelCache, progress: OnStep) -> Paint:
        own = copy.copy(models.get(self.model))  # with the same weights
        own.spec = self.spec()
        painter, method = HDPainter(own), self.resolved()
        unet = own.stage1.model.diffusion_model
        for acts, levels in ((method.painta, self.painta_levels), (method.rasg, self.rasg_levels)):
            if acts and levels:
                unet.transformer_blocks(levels)  # raises for levels that it does not have

        def paint(inputs: Sequence[Input]) -> list[Made]:
            results = painter(
                [one.image for one in inputs],
                [one.mask for one in inputs],
                [one.sample.prompt for one in inputs],
                method=method,
                seed=[one.seed for one in inputs],
                size=max(inputs[0].image.shape[:2]),
                superres=False,
                progress=progress,
            )
            return [Made(np.array(result.image)) for result in results]

        return paint
