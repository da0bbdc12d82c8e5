"""What a kind of method is, and what it gets and gives back."""

import copy
import dataclasses
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from PIL import Image

from eval.runs import Run, Sample
from hdpainter.jobs.progress import OnStep

if TYPE_CHECKING:
    from eval.models import ModelCache  # brings torch, which takes seconds: configs are checked before


@dataclass(frozen=True)
class Input:
    """What a method gets: the sample, its image (RGB uint8 [H, W, 3]) and mask (bool [H, W]), and a seed; where
    it is made from another method, that one's result and its digest."""

    sample: Sample
    image: np.ndarray
    mask: np.ndarray
    seed: int
    made: tuple[np.ndarray, str] | None = None


@dataclass(frozen=True)
class Made:
    """What it gives back: a picture RGB uint8 [H, W, 3] of the image's size, and remarks for the manifest."""

    image: np.ndarray
    note: dict[str, Any] = field(default_factory=dict)


Paint = Callable[[Sequence[Input]], list[Made]]


@dataclass(frozen=True)
class Kind:
    """A way of making results. Fields are the keys of an entry in the config's `methods`.

    model: name or YAML of a pipeline; the config's own by default.
    trusted: whether the model's configs may name classes of other projects; no file says so, see `trusting`.
    """

    model: str = ""
    trusted: bool = field(default=False, init=False)

    has_network: ClassVar[bool] = False  # so that the results depend on the dtype
    needs_files: ClassVar[bool] = (
        False  # of the user's, which are only on the machine that the run is started on
    )
    steps_of_network: ClassVar[float] = 0.02  # about how long a picture takes, in UNet evaluations

    def identity(self) -> dict[str, Any]:
        """Plain values of all that determines the results, apart from inputs, prompts and seeds."""
        return {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init and f.name != "model"
        }

    def trusting(self) -> Self:
        """The same by a model whose configs the user trusts."""
        trusted = copy.copy(self)
        object.__setattr__(trusted, "trusted", True)
        return trusted

    def checkpoints(self) -> list[str]:
        """Those that it needs, where it names them."""
        return []

    def check(self, size: int) -> None:
        """Raise UserError if it cannot work at this evaluation size, the longer side in pixels."""

    def cost(self) -> float:
        """About how long a picture takes, in evaluations of the UNet, which is taken for Stable Diffusion's."""
        return self.steps_of_network

    def group(self, size: tuple[int, int]) -> Hashable:
        """Equal for images, given by (height, width), that can share a batch."""
        return None

    def label(self, name: str) -> str:
        """How tables print it where the config does not say."""
        return name

    def after(self) -> str | None:
        """The method of the same config that this one is made from, if any."""
        return None

    def source(self, sample: Sample, run: Run | None = None) -> dict[str, Any]:
        """What the manifest says of what a result was made from: it is made again once this is another.

        run: where other methods' results are.
        """
        return {}

    def load(self, models: "ModelCache", progress: OnStep) -> Paint:
        """Get ready, loading models; the function that makes results of a batch."""
        return lambda inputs: [Made(note=self.source(one.sample), image=self.paint(one)) for one in inputs]

    def paint(self, one: Input) -> np.ndarray:
        """The result for one input, for kinds that need no batches."""
        raise NotImplementedError


def resized(image: np.ndarray, size: tuple[int, int], how: str) -> np.ndarray:
    """A picture RGB uint8 [H, W, 3] at `size` (height, width) by a filter of Pillow's, "bicubic"."""
    if image.shape[:2] == tuple(size):
        return image
    return np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling[how.upper()]))
