"""What can be a row of the tables: the kinds of methods.

A kind is a frozen dataclass whose fields are the keys of an entry in a config; to add one, write it and name it
in KINDS.
"""

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
from PIL import Image

from eval.models import ModelCache, is_inpainting_model, model_identity
from eval.runs import Sample
from hdpainter.baselines.bld import BLDSettings, BlendedLatentDiffusion, squeezed_mask
from hdpainter.baselines.reconstruction import paste_poisson, reconstruct_background
from hdpainter.blend import blend
from hdpainter.images import load_image
from hdpainter.inpaint import FACTOR
from hdpainter.masks import pad_to_multiple, padded_size
from hdpainter.models.registry import PipelineSpec
from hdpainter.pipeline import OnStep
from hdpainter.settings import Adjustments, Method
from hdpainter.tensors import to_image, to_tensor
from ldm.util import UserError


@dataclass(frozen=True)
class Input:
    """What a method gets: the sample, its image (RGB uint8 [H, W, 3]) and mask (bool [H, W]), and a seed."""

    sample: Sample
    image: np.ndarray
    mask: np.ndarray
    seed: int


@dataclass(frozen=True)
class Made:
    """What it gives back: a picture RGB uint8 [H, W, 3] of the image's size, and remarks for the manifest."""

    image: np.ndarray
    note: dict[str, Any] = field(default_factory=dict)


MULTIPLE = 64  # of the sides of pictures that a UNet takes: it halves the latents three times

Paint = Callable[[Sequence[Input]], list[Made]]


@dataclass(frozen=True)
class Kind:
    """A way of making results. Fields are the keys of an entry in the config's `methods`.

    model: name or YAML of a pipeline; the config's own by default.
    """

    model: str = ""

    has_network: ClassVar[bool] = False  # so that the results depend on the dtype
    steps_of_network: ClassVar[float] = 0.02  # about how long a picture takes, in UNet evaluations

    def identity(self) -> dict[str, Any]:
        """Plain values of all that determines the results, apart from inputs, prompts and seeds."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "model"}

    def check(self, size: int) -> None:
        """Raise UserError if it cannot work at this evaluation size, the longer side in pixels."""

    def cost(self) -> float:
        """About how long a picture takes, in evaluations of the UNet."""
        return self.steps_of_network

    def group(self, size: tuple[int, int]) -> Hashable:
        """Equal for images, given by (height, width), that can share a batch."""
        return None

    def label(self, name: str) -> str:
        """How tables print it where the config does not say."""
        return name

    def source(self, sample: Sample) -> dict[str, Any]:
        """What the manifest says of what a result was made from: it is made again once this is another."""
        return {}

    def load(self, models: ModelCache, progress: OnStep) -> Paint:
        """Get ready, loading models; the function that makes results of a batch."""
        return lambda inputs: [Made(note=self.source(one.sample), image=self.paint(one)) for one in inputs]

    def paint(self, one: Input) -> np.ndarray:
        """The result for one input, for kinds that need no batches."""
        raise NotImplementedError


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
        spec, method = self.spec(), dataclasses.asdict(self.resolved())
        unused = ("name", "superres")
        return {
            "method": {key: value for key, value in method.items() if key not in unused},
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
        painter, method = models.painter(self.model, self.spec()), self.resolved()
        unet = painter.models.inpainting.model.diffusion_model
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

    steps: int = 50
    grid: Literal["leading", "uniform"] = "leading"
    skip: float = 0.25
    guidance_scale: float = 7.5
    negative_prompt: str = ""
    background: Literal["leaving", "entering", "before"] = "leaving"
    start: Literal["noise", "source"] = "noise"
    known_region: Literal["exact", "blended", "decoded", "weights", "latents", "poisson"] = "exact"
    has_network: ClassVar[bool] = True

    def settings(self) -> BLDSettings:
        names = [f.name for f in dataclasses.fields(BLDSettings)]
        return BLDSettings(**{name: getattr(self, name) for name in names})

    def identity(self) -> dict[str, Any]:
        self.settings()
        return {**super().identity(), "model": model_identity(self.model)}

    def check(self, size: int) -> None:
        if size % MULTIPLE:
            raise UserError(
                f"benchmark.size is {size}: for Blended Latent Diffusion give a multiple of {MULTIPLE}"
            )

    def cost(self) -> float:
        return self.steps * (1 - self.skip) * 2

    def label(self, name: str) -> str:
        return f"{name} (inpainting UNet, full mask)" if is_inpainting_model(self.model) else name

    def load(self, models: ModelCache, progress: OnStep) -> Paint:
        model = models.text_to_image(self.model)
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
                image = _resized(np.array(picture), one.image.shape[:2], "lanczos")
                if self.known_region in ("exact", "blended"):
                    image = blend(one.image, image, one.mask, self.known_region)
                made.append(Made(image, {"mask_missed": True} if missed else {}))
            return made

        return paint


@dataclass(frozen=True)
class Folder(Kind):
    """Results made elsewhere, copied into the run and scored like the rest.

    path: the folder; null with the entry's `why_not` for a method that was not run.
    pattern: a file's name, with any of the columns of triplets.csv, such as "{image_id}-{annotation_id}.png".
    resize: how to bring pictures of another size to the evaluation size; by default such are refused.
    known_region: `as-is`, or joined with the original like the results of the other methods.

    Files are copied; those that have changed since, by size or time, are copied again when the run is started
    again.
    """

    path: str | None = None
    pattern: str = "{index:06d}.png"
    resize: Literal["bilinear", "bicubic", "lanczos"] | None = None
    known_region: Literal["as-is", "exact", "blended"] = "as-is"

    def identity(self) -> dict[str, Any]:
        self._file(Sample(0, 0, 0, 0, 0, "", "", "", 0.0))  # says if the path is missing
        assert self.path is not None
        if not Path(self.path).is_dir():
            raise UserError(f"{self.path} is not a folder of results")
        return {**super().identity(), "path": str(Path(self.path).resolve())}

    def source(self, sample: Sample) -> dict[str, Any]:
        try:
            about = self._file(sample).stat()
        except (OSError, UserError):  # without it, its copy stays
            return {}
        return {"source": [about.st_size, about.st_mtime_ns]}

    def paint(self, one: Input) -> np.ndarray:
        source = self._file(one.sample)
        image = np.array(load_image(source, "result"))
        if image.shape != one.image.shape:
            (h, w), (height, width) = image.shape[:2], one.image.shape[:2]
            if self.resize is None:
                raise UserError(
                    f"result {source} is {w} x {h} pixels instead of {width} x {height}: set resize for this "
                    "method if it may be resized"
                )
            image = _resized(image, (height, width), self.resize)
        return image if self.known_region == "as-is" else blend(one.image, image, one.mask, self.known_region)

    def _file(self, sample: Sample) -> Path:
        if self.path is None:
            raise UserError("a folder of results needs a path, or why_not to say why there are none")
        try:
            return Path(self.path) / self.pattern.format(**dataclasses.asdict(sample))
        except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
            raise UserError(
                f"pattern {self.pattern!r} does not fit the columns of a sample: {error!r}"
            ) from None


@dataclass(frozen=True)
class Original(Kind):
    """The original image: an upper bound where the prompt is the true label."""

    def paint(self, one: Input) -> np.ndarray:
        return one.image


@dataclass(frozen=True)
class Reconstruction(Kind):
    """The original through the model's autoencoder within the mask: the best that the latent space allows."""

    known_region: Literal["exact", "blended", "decoded"] = "exact"
    has_network: ClassVar[bool] = True
    steps_of_network: ClassVar[float] = 2.0

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "model": model_identity(self.model)}

    def load(self, models: ModelCache, progress: OnStep) -> Paint:
        spec = PipelineSpec.load(self.model)
        model = models.painter(self.model, spec).models.inpainting

        def paint(inputs: Sequence[Input]) -> list[Made]:
            return [Made(self._through(model, spec.multiple, one)) for one in inputs]

        return paint

    def _through(self, model: Any, multiple: int, one: Input) -> np.ndarray:
        height, width = one.image.shape[:2]
        pixels = to_tensor(pad_to_multiple(one.image, multiple, "edge")).to(model.device)
        latent = model.get_first_stage_encoding(model.encode_first_stage(pixels).mode())
        image = np.array(to_image(model.decode_first_stage(latent)).crop((0, 0, width, height)))
        return (
            image if self.known_region == "decoded" else blend(one.image, image, one.mask, self.known_region)
        )


@dataclass(frozen=True)
class Mean(Kind):
    """The mask filled with the mean colour of the known pixels: a lower bound."""

    def paint(self, one: Input) -> np.ndarray:
        known = one.image[~one.mask]
        result = one.image.copy()
        result[one.mask] = np.rint(known.mean(axis=0)) if len(known) else 128
        return result


@dataclass(frozen=True)
class Telea(Kind):
    """``cv2.inpaint`` by Telea's fast marching, with the radius in pixels: a lower bound that knows no text."""

    radius: float = 3.0
    steps_of_network: ClassVar[float] = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.radius <= 100:
            raise UserError(f"radius is {self.radius:g}: give pixels, more than 0 and at most 100")

    def paint(self, one: Input) -> np.ndarray:
        return cv2.inpaint(one.image, one.mask.astype(np.uint8), self.radius, cv2.INPAINT_TELEA)


KINDS: dict[str, type[Kind]] = {
    "pipeline": Pipeline,
    "bld": BLD,
    "folder": Folder,
    "original": Original,
    "reconstruction": Reconstruction,
    "mean": Mean,
    "telea": Telea,
}


def _resized(image: np.ndarray, size: tuple[int, int], how: str) -> np.ndarray:
    if image.shape[:2] == tuple(size):
        return image
    return np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling[how.upper()]))
