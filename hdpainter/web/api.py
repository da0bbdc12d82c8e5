"""The HTTP API: one call makes one finished picture. docs/web.md shows it by curl and by Python."""

import asyncio
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from hdpainter.images import load_mask
from hdpainter.masks import binarize
from hdpainter.web import work
from hdpainter.web.engine import Order, Work
from hdpainter.web.photos import check_pixels, load_named, receive
from hdpainter.web.recipes import Recipe
from hdpainter.web.studio import Studio
from hdpainter.web.work import Subject
from ldm.util import UserError

if TYPE_CHECKING:
    from hdpainter.pipeline import HDPainter


class Api:
    """The functions behind the endpoints."""

    def __init__(self, studio: Studio):
        self.studio = studio

    def models(self) -> dict[str, Any]:
        """The models, each with whether it has super-resolution, the methods, and the server's limits."""
        menu = self.studio.menu
        return {"models": menu.models, "methods": menu.methods, "limits": vars(menu.limits)}

    async def inpaint(
        self,
        image: str,
        mask: str,
        prompt: str,
        model: str,
        method: str | None,
        seed: float = 0,
        steps: float | None = None,
        guidance_scale: float | None = None,
        eta: float | None = None,
        negative_prompt: str = "",
        size: float | None = None,
        superres: bool = True,
    ) -> tuple[str, dict[str, Any]]:
        """Fill the white part of the mask with what the prompt says.

        image, mask: files of one size. method, steps, guidance_scale, eta, negative_prompt and size: null or
        empty for the method's and the model's own. superres: x4 super-resolution.
        Returns the finished PNG, whose text chunk "hdpainter" holds the settings, and these as JSON.
        """
        studio = self.studio
        engine = studio.engine
        try:
            recipe = studio.menu.recipe(
                prompt,
                model,
                method=method,
                seed=seed,
                steps=steps,
                guidance_scale=guidance_scale,
                eta=eta,
                negative_prompt=negative_prompt,
                size=size,
                superres=superres,
            )
            subject = await asyncio.to_thread(self._subject, Path(image or ""), Path(mask or ""))
            order = Order("API", recipe.model, self._work(subject, recipe), 2, secrets.token_hex(8))
            order.seconds = studio.menu.limits.minutes * 60
            engine.submit(order)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None
        try:
            async for _ in engine.watch(order):
                pass
        finally:
            engine.cancel(order)  # of no effect once it is done
        if order.state != "done":
            raise gr.Error(order.message or order.state, print_exception=False)
        finished = order.delivered[-1]
        return str(finished.image), finished.record

    def _subject(self, image: Path, mask: Path) -> Subject:
        for file, what in ((image, "image"), (mask, "mask")):
            if not file.is_file():
                raise UserError(f"{what} is missing: upload a file and give its path")
        megapixels = self.studio.menu.limits.megapixels
        check_pixels(mask, mask.name, megapixels)
        photo = receive(image, image.name, self.studio.workspace.folder(), megapixels)
        binarize(load_named(load_mask, mask, mask.name, photo.size), 1)
        path = photo.path.with_name(work.mask_name(photo))
        shutil.copyfile(mask, path)
        return Subject(photo, path)

    def _work(self, subject: Subject, recipe: Recipe) -> Work:
        make = work.make_drafts(subject, [recipe], subject.mask.parent)
        superres = recipe.settings.superres

        def both(painter: "HDPainter", order: Order) -> None:
            make(painter, order)
            draft = order.delivered[0]
            work.finish(draft, superres, subject.mask.parent, self.studio.identify)(painter, order)

        return both


def add_api(studio: Studio) -> None:
    """The endpoints /inpaint and /models, within a page, by components that nobody sees."""
    api, menu = Api(studio), studio.menu
    first = next(iter(menu.models))
    with gr.Column(visible=False):
        inputs = [
            gr.File(label="image"),
            gr.File(label="mask"),
            gr.Textbox(label="prompt"),
            gr.Dropdown(list(menu.models), value=first, label="model"),
            gr.Dropdown(menu.methods, value=menu.spec(first).method, label="method"),
            gr.Number(0, precision=0, label="seed"),
            gr.Number(None, precision=0, label="steps"),
            gr.Number(None, label="guidance_scale"),
            gr.Number(None, label="eta"),
            gr.Textbox("", label="negative_prompt"),
            gr.Number(None, precision=0, label="size"),
            gr.Checkbox(menu.models[first], label="superres"),
        ]
        for component in inputs[2:]:
            component.preprocess = lambda value: value  # the menu's check tells better what is wrong
        picture, record = gr.File(label="picture"), gr.JSON(label="record")
        call, ask = gr.Button(), gr.Button()
    call.click(api.inpaint, inputs, [picture, record], api_name="inpaint", concurrency_limit=None)
    ask.click(api.models, None, record, api_name="models", queue=False)
