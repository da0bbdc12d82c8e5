"""What the baselines have in common that paint squares of 256 px."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from eval.kinds.base import Input, Kind, Made, Paint
from hdpainter.blend import blend
from hdpainter.jobs.progress import OnStep
from hdpainter.models.registry import PipelineSpec
from hdpainter.settings import Method
from ldm.util import UserError

if TYPE_CHECKING:
    from eval.models import ModelCache

SIDE = 256  # of their squares, in pixels


@dataclass(frozen=True)
class Square(Kind):
    """A baseline that gets the picture squeezed to a square; its square is enlarged bicubically.

    known_region: `exact` and `blended` join the result with the original like those of the other methods;
        `decoded` leaves the enlarged square.
    """

    known_region: Literal["exact", "blended", "decoded"] = "exact"
    has_network: ClassVar[bool] = True
    plain: ClassVar[type[Method]] = Method  # by which it paints; of which kind its pipelines are

    def method(self) -> Method:
        """The method with the values of the entry."""
        raise NotImplementedError

    def spec(self) -> PipelineSpec:
        """The pipeline. Raises UserError where it is another method's."""
        spec = PipelineSpec.load(self.model)
        if spec.kind != self.plain.kind:
            raise UserError(
                f"model {self.model} is of kind {spec.kind}: give the entry model: {self.plain.kind}, or another "
                "of that kind"
            )
        return spec

    def checkpoints(self) -> list[str]:
        return [stage.checkpoint for stage in self.spec().stage1.values()]

    def identity(self) -> dict[str, Any]:
        from eval.models import model_identity

        self.method()
        self.spec()
        return {**super().identity(), "model": model_identity(self.model, self.trusted)}

    def load(self, models: "ModelCache", progress: OnStep) -> Paint:
        self.spec()
        baseline, method = models.get(self.model).baseline, self.method()

        def paint(inputs: Sequence[Input]) -> list[Made]:
            pictures = baseline(
                [one.image for one in inputs],
                [one.mask for one in inputs],
                [one.sample.prompt for one in inputs],
                [one.seed for one in inputs],
                method,
                lambda step, steps: progress(self.plain.kind, step, steps),
            )
            return [
                Made(joined(one, np.array(picture), self.known_region))
                for one, picture in zip(inputs, pictures, strict=True)
            ]

        return paint


def joined(
    one: Input, picture: np.ndarray, known_region: Literal["exact", "blended", "decoded"]
) -> np.ndarray:
    """A picture that was enlarged from SIDE, joined with the original as asked."""
    if known_region == "decoded":
        return picture
    return blend(one.image, picture, one.mask, known_region, max(*one.mask.shape, SIDE) / SIDE)
