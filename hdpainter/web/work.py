"""What the engine's thread does for an order: drafts, the finishing of one of them, the explanation of one."""

import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from hdpainter.blend import DILATION, PAD, blend, poisson_blend
from hdpainter.images import save_png
from hdpainter.inputs import read
from hdpainter.jobs import plan
from hdpainter.jobs.job import Job
from hdpainter.jobs.painting import make_record, remark
from hdpainter.masks import shrink
from hdpainter.prompts import words_cut
from hdpainter.settings import Method
from hdpainter.web.engine import Order, Work
from hdpainter.web.photos import Photo
from hdpainter.web.recipes import Recipe
from hdpainter.windows import window
from ldm.util import UserError

if TYPE_CHECKING:
    from hdpainter.pipeline import HDPainter

LABELS = {
    "stable-inpainting": "Stable Inpainting",
    "painta": "PAIntA",
    "rasg": "RASG",
    "hd-painter": "HD-Painter",
    "hd-painter-printed": "HD-Painter, as printed",
    "hd-painter-release": "HD-Painter, as released",
    "hd-painter-diffusers": "HD-Painter, diffusers port",
    "post-hoc": "Post-hoc guidance",
    "glide": "GLIDE",
    "nuwa-lip": "NUWA-LIP",
}
FINISHED_SIDE = 2048  # longer side of the finished picture in the slider, in pixels


@dataclass(frozen=True)
class Subject:
    """A photo, and the file with the mask that was painted for it, of the photo's size."""

    photo: Photo
    mask: Path

    def load(self) -> tuple[Image.Image, Path]:
        """The picture, and the file of the mask, which is there."""
        picture = self.photo.load()
        if not self.mask.is_file():
            raise UserError("the mask was removed from the server after a while: paint it again")
        return picture, self.mask


def mask_name(photo: Photo) -> str:
    """The mask's file name for a folder where the photo lies under its own."""
    return "mask.png" if photo.name.lower() != "mask.png" else "painted-mask.png"


@dataclass(frozen=True)
class Draft:
    """low_res: stage 1's picture, lossless. preview: it joined with the photo's small copy."""

    subject: Subject
    recipe: Recipe
    low_res: Path
    preview: Path
    seconds: float

    @property
    def label(self) -> str:
        method = self.recipe.settings.method or ""
        return f"seed {self.recipe.settings.seed}, {LABELS.get(method, method)}"


@dataclass(frozen=True)
class Finished:
    """image: the PNG for download, with the record inside. before, after: pictures of one size for the slider."""

    draft: Draft
    image: Path
    before: Path
    after: Path
    record: dict[str, Any]


def make_drafts(subject: Subject, recipes: Sequence[Recipe], folder: Path) -> Work:
    """Work that delivers a `Draft` for each recipe, one after the other."""
    methods = [recipe.method for recipe in recipes]  # now, so that a mistake is told before the order waits

    def work(painter: "HDPainter", order: Order) -> None:
        picture, mask = subject.load()
        for number, (recipe, method) in enumerate(zip(recipes, methods, strict=True), 1):
            name = LABELS.get(method.name, method.name)
            order.begin(f"draft {number} of {len(recipes)}: {name}" if len(recipes) > 1 else f"draft: {name}")
            started = time.monotonic()
            low_res = painter.draft(
                picture,
                mask,
                recipe.prompt,
                method=method,
                seed=recipe.settings.seed,
                size=recipe.settings.size,
                progress=order.step,
            )
            path = folder / f"{secrets.token_hex(8)}.png"
            low_res.save(path)
            preview = path.with_suffix(".jpg")
            _joined(subject.photo, picture, mask, low_res, method).save(preview, quality=92)
            negative = method.prompts.negative
            order.remark = remark(
                {"words_cut": words_cut(recipe.prompt), "negative_words_cut": words_cut(negative)}
            )
            order.deliver(Draft(subject, recipe, path, preview, time.monotonic() - started))

    return work


def _joined(
    photo: Photo, picture: Image.Image, mask: Path, low_res: Image.Image, method: Method
) -> Image.Image:
    """A draft in the photo's small copy, joined as the finished picture will be."""
    canvas, grey = read(picture, mask, method.input, method.masks.threshold)
    filled = grey >= method.masks.threshold
    small = photo.proxy
    if method.input.outpaint:  # of which the copy knows nothing
        small = canvas.copy()
        small.thumbnail(photo.proxy_size, Image.Resampling.LANCZOS)
    pixels = np.array(small)
    height, width = pixels.shape[:2]
    rows, columns = window(filled, method.input.only_masked)
    part = (
        slice(rows.start * height // canvas.height, -(-rows.stop * height // canvas.height)),
        slice(columns.start * width // canvas.width, -(-columns.stop * width // canvas.width)),
    )
    original = pixels[part]
    generated = np.array(low_res.resize(original.shape[1::-1], Image.Resampling.LANCZOS))
    shown = shrink(filled, (height, width), "nearest")[part]
    if method.known_region == "exact":
        pixels[part] = blend(original, generated, shown, scale=max(original.shape) / max(low_res.size))
    else:
        pad, dilation = (max(round(n * width / canvas.width), 1) for n in (PAD, DILATION))
        pixels[part] = poisson_blend(original, generated, shown, pad, dilation)
    return Image.fromarray(pixels)


def finish(
    draft: Draft, superres: bool, folder: Path, identify: Callable[[str, bool], dict[str, Any]]
) -> Work:
    """Work that delivers the draft as a `Finished`; `identify` is `hdpainter.models.identity.identify`."""
    recipe, photo = draft.recipe.at(superres=superres), draft.subject.photo
    method = recipe.method

    def work(painter: "HDPainter", order: Order) -> None:
        order.begin("super-resolution" if superres else "joining with the photo")
        picture, mask = draft.subject.load()
        if not draft.low_res.is_file():
            raise UserError("the draft was removed from the server after a while: make it again")
        with Image.open(draft.low_res) as low_res:
            result = painter.finish(
                picture,
                mask,
                recipe.prompt,
                low_res.convert("RGB"),
                method=method,
                seed=recipe.settings.seed,
                size=recipe.settings.size,
                superres=superres,
                progress=order.step,
            )
        order.say("saving")
        order.remark = remark(result.metadata)
        if superres and not result.metadata["superres"]:
            order.title, order.remark = "Full size", f", the draft has the photo's size already{order.remark}"
        result.metadata["seconds"]["inpainting"] = round(draft.seconds, 3)
        own = folder / secrets.token_hex(8)  # for a readable name of the download
        path = own / f"{file_name(recipe.prompt)}.png"
        job = Job(path.stem, photo.path, draft.subject.mask, recipe.prompt, recipe.settings, "web")
        task = plan.make_task(job, path, method, identify(recipe.model, superres))
        files = {"files": {"image": photo.name, "mask": draft.subject.mask.name}}
        record = make_record(task, result, None) | files
        save_png(result.image, path, record)
        before, after = own / "before.jpg", own / "after.jpg"
        for image, shown in ((picture, before), (result.image, after)):
            small = image.copy()
            small.thumbnail((FINISHED_SIDE, FINISHED_SIDE), Image.Resampling.LANCZOS)
            small.save(shown, quality=92)
        order.deliver(Finished(draft, path, before, after, record))

    return work


def file_name(prompt: str) -> str:
    """The prompt's first words as a file name of plain letters: it can be no path, whatever the prompt is."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower())[:40].strip("-") or "picture"


def explain_draft(draft: Draft, folder: Path) -> Work:
    """Work that delivers the figures of ``hdpainter explain`` for the draft: a list of (file, title)."""

    def work(painter: "HDPainter", order: Order) -> None:
        from hdpainter.explain import explain  # slow to import, and not in every installation

        picture, mask = draft.subject.load()
        order.begin("observing the method")
        recipe = draft.recipe
        explanation = explain(
            painter,
            picture,
            mask,
            recipe.prompt,
            methods=[recipe.method],
            seed=recipe.settings.seed,
            size=recipe.settings.size,
            progress=order.step,
        )
        order.say("drawing")
        figures = []
        for plate in explanation.plates.values():
            path = folder / f"{secrets.token_hex(8)}.png"
            plate.image.save(path)
            figures.append((path, plate.title))
        order.deliver(figures)

    return work
