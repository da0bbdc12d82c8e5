"""The original through the model's autoencoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from eval.kinds.base import Input, Kind, Made, Paint
from hdpainter.blend import blend
from hdpainter.jobs.progress import OnStep
from hdpainter.masks import pad_to_multiple

if TYPE_CHECKING:
    from eval.models import ModelCache


@dataclass(frozen=True)
class Reconstruction(Kind):
    """The original through the model's autoencoder within the mask: the best that the latent space allows."""

    known_region: Literal["exact", "blended", "decoded"] = "exact"
    has_network: ClassVar[bool] = True
    steps_of_network: ClassVar[float] = 2.0

    def identity(self) -> dict[str, Any]:
        from eval.models import model_identity

        return {**super().identity(), "model": model_identity(self.model, self.trusted)}

    def load(self, models: "ModelCache", progress: OnStep) -> Paint:
        own = models.get(self.model)
        model, multiple = own.stage1, own.spec.multiple

        def paint(inputs: Sequence[Input]) -> list[Made]:
            return [Made(self._through(model, multiple, one)) for one in inputs]

        return paint

    def _through(self, model: Any, multiple: int, one: Input) -> np.ndarray:
        from hdpainter.tensors import to_image, to_tensor

        height, width = one.image.shape[:2]
        pixels = to_tensor(pad_to_multiple(one.image, multiple, "edge")).to(model.device)
        latent = model.get_first_stage_encoding(model.encode_first_stage(pixels).mode())
        image = np.array(to_image(model.decode_first_stage(latent)).crop((0, 0, width, height)))
        return (
            image if self.known_region == "decoded" else blend(one.image, image, one.mask, self.known_region)
        )
