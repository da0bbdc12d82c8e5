"""The HTTP API: one call makes one finished picture. docs/web.md shows it by curl and by Python."""

import asyncio
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from hdpainter.images import load_mask
from hdpainter.masks import binarize
from hdpainter.web import work
from hdpainter.web.access import client
from hdpainter.web.engine import Order, Work
from hdpainter.web.messages import told
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

    async def job(
        self,
        request: gr.Request,
        image: str,
        mask: str,
        prompt: str,
        model: str,
        settings: dict[str, Any] | None = None,
    ) -> tuple[str, dict[str, Any]]:
        """Fill the white part of the mask with what the prompt says.

        image, mask: files of one size. settings: the keys of a job of `hdpainter batch` (docs/batch.md), such as
        {"seed": 1, "steps": 20}; what is left out is the method's and the model's own.
        Returns the finished PNG, whose text chunk "hdpainter" holds the settings, and these as JSON.
        """
        try:
            if not isinstance(settings or {}, dict):
                raise UserError('settings must be a JSON object, such as {"seed": 1}')
            return await self._paint(request, image, mask, prompt, model, settings or {})
        except UserError as error:
            raise gr.Error(told(error), print_exception=False) from None

    async def inpaint(
        self,
        request: gr.Request,
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
        """What /job does, with the commonest settings by their places; no others will be added.

        method, steps, guidance_scale, eta, negative_prompt and size: null or empty for the method's and the
        model's own. superres: x4 super-resolution.
        """
        settings = {
            "method": method,
            "seed": seed,
            "steps": steps,
            "guidance_scale": guidance_scale,
            "eta": eta,
            "negative_prompt": negative_prompt,
            "size": size,
            "superres": superres,
        }
        return await self.job(request, image, mask, prompt, model, settings)

    async def _paint(
        self, request: gr.Request, image: str, mask: str, prompt: str, model: str, settings: dict[str, Any]
    ) -> tuple[str, dict[str, Any]]:
        studio = self.studio
        engine = studio.engine
        if settings.get("known_region") not in (None, "exact"):
            raise UserError("known_region is always exact here: pixels outside the mask stay as they are")
        recipe = studio.menu.recipe(prompt, model, **settings)
        subject = await asyncio.to_thread(self._subject, Path(image or ""), Path(mask or ""))
        width, height = recipe.method.input.grown(subject.photo.size)
        if width * height > studio.menu.limits.megapixels * 1e6:
            raise UserError(f"outpaint makes {width} x {height} pixels, over this server's limit: add fewer")
        order = Order("API", recipe.model, self._work(subject, recipe), 2)
        order.owner = order.client = client(request)
        order.seconds = studio.menu.limits.minutes * 60
        engine.submit(order)
        try:
            async for _ in engine.watch(order):
                pass
        finally:
            engine.cancel(order)  # of no effect once it is done
        if order.state != "done":
            raise UserError(order.message or order.state)
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
    """The endpoints /job, /inpaint and /models, within a page, by components that nobody sees."""
    api, menu = Api(studio), studio.menu
    first = next(iter(menu.models))
    with gr.Column(visible=False):
        files = [gr.File(label="image"), gr.File(label="mask")]
        subject = [gr.Textbox(label="prompt"), gr.Dropdown(list(menu.models), value=first, label="model")]
        placed = [
            gr.Dropdown(menu.methods, value=menu.spec(first).method, label="method"),
            gr.Number(0, precision=0, label="seed"),
            gr.Number(None, precision=0, label="steps"),
            gr.Number(None, label="guidance_scale"),
            gr.Number(None, label="eta"),
            gr.Textbox("", label="negative_prompt"),
            gr.Number(None, precision=0, label="size"),
            gr.Checkbox(menu.models[first], label="superres"),
        ]
        settings = gr.JSON({}, label="settings")
        for component in (*subject, *placed, settings):
            component.preprocess = lambda value: value  # the menu's check tells better what is wrong
        picture, record = gr.File(label="picture"), gr.JSON(label="record")
        events = {"job": (api.job, [settings]), "inpaint": (api.inpaint, placed)}
        for name, (answer, others) in events.items():
            inputs = [*files, *subject, *others]
            gr.Button().click(answer, inputs, [picture, record], api_name=name, concurrency_limit=None)
        gr.Button().click(api.models, None, record, api_name="models", queue=False)
