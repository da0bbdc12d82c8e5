"""HD-Painter's stage 1 by any of its methods."""

import copy
import dataclasses
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from eval.kinds.base import Input, Kind, Made, Paint
from hdpainter.jobs.progress import OnStep
from hdpainter.masks import MaskSettings, padded_size, prepare
from hdpainter.models.registry import PipelineSpec, check_method
from hdpainter.models.stages import check_levels
from hdpainter.prompts import token_indices
from hdpainter.settings import Adjustments, Method
from ldm.util import UserError

if TYPE_CHECKING:
    from eval.effect import Effect
    from eval.models import ModelCache
    from hdpainter.models.loading import PipelineModels


@dataclass(frozen=True, kw_only=True)
class Pipeline(Adjustments, Kind):
    """HD-Painter's stage 1 by any method of ``configs/methods``, or a YAML file, with the user's adjustments.

    known_region: besides the method's ways, `decoded`: stage 1's picture as it is, which the authors score.
    override: values of the method by their place, such as ``{"rasg.logit_shift": 1}``. painta_levels,
    rasg_levels: downsampling factors of the latent that the two act on; the model's own by default.
    """

    known_region: Literal["exact", "blended", "decoded"] | None = None  # type: ignore[assignment]  # one more
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
        ours = dataclasses.replace(self, known_region=None) if self.decoded else self
        return Method.load(self.method).adjusted(ours).override(self.override)

    @property
    def decoded(self) -> bool:
        """Whether the result is stage 1's picture as it is."""
        return self.known_region == "decoded"

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
        from eval.models import is_inpainting_model, model_identity

        spec, method = self.spec(), self.resolved()
        if spec.kind != "ldm":
            raise UserError(f"model {spec.name} is a kind of its own here: give the entry kind: {spec.kind}")
        check_method(method, spec.kind, spec.name)
        method.check_model(spec.name, not is_inpainting_model(self.model, self.trusted))
        values = dataclasses.asdict(method) | ({"known_region": "decoded"} if self.decoded else {})
        unused = ("name", "superres")
        return {
            "method": {key: value for key, value in values.items() if key not in unused},
            "model": {
                **model_identity(self.model, self.trusted),
                "painta_levels": spec.painta_levels,
                "rasg_levels": spec.rasg_levels,
            },
        }

    def check(self, size: int) -> None:
        """Raise UserError for levels at which the UNet has no attention."""
        method, spec = self.resolved(), self.spec()
        if method.painta:
            check_levels(spec, "painta_levels", self.trusted)
        if method.rasg:
            check_levels(spec, "rasg_levels", self.trusted)

    def cost(self) -> float:
        method = self.resolved()
        guided = 1 if method.sampler.guidance_scale == 1 else 2
        return method.sampler.steps * (guided + 1.5 * (method.rasg is not None))

    def group(self, size: tuple[int, int]) -> Hashable:
        return padded_size(*size, self.spec().multiple)

    def load(self, models: "ModelCache", progress: OnStep) -> Paint:
        from hdpainter.pipeline import HDPainter

        own = copy.copy(models.get(self.model))  # with the same weights
        own.spec = self.spec()
        painter, method = HDPainter(own), self.resolved()

        def paint(inputs: Sequence[Input]) -> list[Made]:
            with self._effect(own, method, inputs) as effect:
                results = painter(
                    [one.image for one in inputs],
                    [one.mask for one in inputs],
                    [one.sample.prompt for one in inputs],
                    method=method,
                    seed=[one.seed for one in inputs],
                    size=max(inputs[0].image.shape[:2]),
                    superres=False,
                    progress=progress,
                    observer=effect,
                )
            pictures = [result.low_res if self.decoded else result.image for result in results]
            return [
                Made(np.array(picture), note) for picture, note in zip(pictures, effect.notes(), strict=True)
            ]

        return paint

    def _effect(self, models: "PipelineModels", method: Method, inputs: Sequence[Input]) -> "Effect":
        """At the model's own levels and with the paper's masks, whatever the method has: to compare methods."""
        from eval.effect import Effect
        from hdpainter.inpaint import Inpainting

        spec, masks = PipelineSpec.load(self.model), MaskSettings()
        stage = Inpainting(models.stage1, spec.painta_levels, spec.rasg_levels)
        fills = [prepare(np.uint8(255) * one.mask, one.mask.shape, spec.multiple, masks) for one in inputs]
        return Effect(
            models.stage1.model.diffusion_model,
            [token_indices(one.sample.prompt, method.prompts.positive) for one in inputs],
            stage.level_masks(fills, spec.rasg_levels, masks.levels),
            stage.level_masks(fills, [1], masks.concat)[1],
        )
