"""The page's events: what happens when somebody loads a photo, paints, or presses a button."""

import asyncio
import hashlib
import html
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from hdpainter.images import load_mask
from hdpainter.settings import COMPARED, describe
from hdpainter.values import convert
from hdpainter.web import masks, work
from hdpainter.web.engine import Engine, Loader, Order
from hdpainter.web.layout import negative_hint, note
from hdpainter.web.menu import FORM, SEEDS, Menu
from hdpainter.web.messages import told
from hdpainter.web.photos import Photo, check_pixels, load_named, png_data_url, receive
from hdpainter.web.recipes import Recipe, as_command, as_yaml
from hdpainter.web.session import Session, Sessions, status
from hdpainter.web.work import Draft, Subject
from hdpainter.web.workspace import Workspace
from ldm.util import UserError

Outputs = tuple[Any, ...]
SAME_PICTURES = (gr.skip(),) * 5  # of what `_pictures` returns
STILL_TOLD = (gr.skip(),) * 3  # of (figures, recipe, mask file), which tell about one draft
UNTOLD = (gr.update(value=None, visible=False),) * 3


class Studio:
    """Everything behind the page. Methods named after an event return what its outputs on the page become.

    load: makes the painter of a model's name. identify: as `hdpainter.models.identity.identify`.
    """

    def __init__(
        self,
        menu: Menu,
        load: Loader,
        identify: Callable[[str, bool], dict[str, Any]],
        workspace: Workspace,
    ):
        self.menu, self.workspace = menu, workspace
        self.identify = cache(identify)  # hashes whole checkpoints
        self.engine = Engine(load, menu.limits.queue, menu.limits.per_user)
        self.sessions = Sessions()
        self._visited = False
        self.can_explain = find_spec("matplotlib") is not None

    def close(self) -> None:
        """Stop the work and remove the files."""
        self.engine.close()
        self.workspace.close()

    # Photo and mask

    def photo_loaded(self, request: gr.Request, file: str | None) -> Outputs:
        """(what the editor opens, *pictures, *told, status): a file was uploaded, or taken away (None)."""
        session = self._session(request)
        return self._receive(session, Path(file) if file else None, None)

    def example_chosen(self, request: gr.Request, photo: Path, mask: Path, prompt: str) -> Outputs:
        """(what the editor opens, *pictures, *told, status, prompt, the box of the uploaded photo)."""
        return (*self._receive(self._session(request), photo, mask), prompt, None)

    def _receive(self, session: Session, file: Path | None, mask: Path | None) -> Outputs:
        for order in session.active:
            self.engine.cancel(order)
        session.clear()
        shown = None
        try:
            if file is not None:
                limit = self.menu.limits.megapixels
                photo = session.photo = receive(file, file.name, self.workspace.folder(), limit)
                self.sessions.remember(session)
                width, height = photo.proxy_size
                shown = {"photo": photo.data_url, "width": width, "height": height}
                shown["mask"] = mask and self._load_mask(session, mask)
        except UserError as error:
            session.error = str(error)
        return shown, *self._pictures(session), *UNTOLD, self._status(session)

    def mask_loaded(self, request: gr.Request, file: str) -> Outputs:
        """(URL for the editor, status): a mask file was uploaded."""
        session = self._session(request)
        url = None
        try:
            session.error = ""
            url = self._load_mask(session, Path(file))
        except UserError as error:
            session.error = str(error)
        return url, self._status(session)

    def _load_mask(self, session: Session, file: Path) -> str:
        photo = _photo(session)
        check_pixels(file, file.name, self.menu.limits.megapixels)
        grey = load_named(load_mask, file, file.name, photo.size)
        session.loaded_mask = photo.path.with_name("loaded-mask.png")
        Image.fromarray(grey).save(session.loaded_mask)
        return png_data_url(masks.for_canvas(masks.small_size(grey, photo.proxy_size[::-1])))

    def mask_painted(self, request: gr.Request, mask: str, model: str, method: str, size: float) -> str:
        """The mask as the model will see it, as HTML."""
        session = self._session(request)
        if session.photo is None:
            return ""
        try:
            grey = self._grey(session, mask)
            if not grey.any():
                return '<p class="hdp-note">Nothing is painted yet.</p>'
            spec, settings = self.menu.spec(model), self.menu.method(method).masks
            picture, text = masks.as_seen(session.photo.proxy, grey, spec, settings, int(size or 0) or None)
        except UserError as error:
            return f'<p class="hdp-note">{html.escape(told(error))}</p>'
        return (
            f'<div class="hdp-seen"><img src="{png_data_url(picture)}" alt="The photo and the mask as the model '
            f'gets them"><p><b>What the model sees:</b> {text}. The grey part is hidden from it; the tinted '
            "cells, 8 × 8 pixels each, are those it paints.</p></div>"
        )

    def _grey(self, session: Session, mask: str) -> np.ndarray:
        photo, file = _photo(session), session.loaded_mask
        loaded = load_mask(file, photo.size) if file and file.is_file() else None
        return masks.full_size(masks.painted(mask, photo.proxy_size), photo.size, loaded)

    def _subject(self, session: Session, mask: str, recipes: Sequence[Recipe]) -> Subject:
        grey = self._grey(session, mask)
        if grey.max() < max(recipe.method.masks.threshold for recipe in recipes):
            raise UserError("the mask is empty: paint over what is to be replaced")
        photo = _photo(session)
        name = hashlib.sha256(grey.tobytes()).hexdigest()[:16]
        path = photo.path.parent / name / work.mask_name(photo)
        path.parent.mkdir(exist_ok=True)
        if not path.is_file():
            Image.fromarray(grey).save(path)
        return Subject(photo, path)

    # Settings

    def method_chosen(self, method: str) -> Outputs:
        """(guidance scale, eta, negative prompt, what it is): the method's own."""
        chosen = self.menu.method(method)
        hint = gr.update(placeholder=negative_hint(chosen))
        return chosen.sampler.guidance_scale, chosen.sampler.eta, hint, note(describe(method))

    def model_chosen(self, model: str) -> Outputs:
        """(method, super-resolution, and what `method_chosen` says): the model's own."""
        method = self.menu.spec(model).method
        return method, self.menu.models[model], *self.method_chosen(method)

    # Orders

    async def drafts_wanted(
        self, request: gr.Request, mask: str, seed: float, locked: bool, count: float, *form: Any
    ) -> AsyncIterator[Outputs]:
        """(seed, *pictures, *told, status): drafts; the seeds count up from the locked one or from a new one."""

        def variants(recipe: Recipe) -> list[Recipe]:
            most, wanted = self.menu.limits.drafts, convert(int, count, "drafts")
            if not 1 <= wanted <= most:
                raise UserError(f"{wanted} drafts: this server makes 1 to {most} at a time")
            return [recipe.at(seed=recipe.settings.seed + number) for number in range(wanted)]

        async for outputs in self._make(request, mask, _seed(seed, locked), form, variants, "Drafts"):
            yield outputs

    async def comparison_wanted(
        self, request: gr.Request, mask: str, seed: float, locked: bool, count: float, *form: Any
    ) -> AsyncIterator[Outputs]:
        """(seed, *pictures, *told, status): a draft by each of the four methods, with its eta, from one seed."""

        def variants(recipe: Recipe) -> list[Recipe]:
            return [recipe.at(method=method, eta=None) for method in COMPARED]

        async for outputs in self._make(request, mask, _seed(seed, locked), form, variants, "Side by side"):
            yield outputs

    async def _make(
        self,
        request: gr.Request,
        mask: str,
        seed: Any,
        form: Sequence[Any],
        variants: Callable[[Recipe], list[Recipe]],
        title: str,
    ) -> AsyncIterator[Outputs]:
        session = self._session(request)
        try:
            wanted = variants(self.menu.recipe(**dict(zip(FORM, form, strict=True)), seed=seed))
            subject = await asyncio.to_thread(self._subject, session, mask, wanted)
            made = work.make_drafts(subject, wanted, subject.mask.parent)
            order = self._submit(session, Order(title, wanted[0].model, made, len(wanted)))
        except UserError as error:
            session.error = str(error)
            yield gr.skip(), *SAME_PICTURES, *STILL_TOLD, self._status(session)
            return
        # The seed once: somebody may type another meanwhile.
        yield seed, *SAME_PICTURES, *STILL_TOLD, self._status(session)
        session.groups.insert(0, order.delivered)
        shown = 0
        async for _ in self._follow(order):
            pictures, told = SAME_PICTURES, STILL_TOLD
            current = any(group is order.delivered for group in session.groups)  # no other photo came
            if current and len(order.delivered) > shown:
                if shown == 0:
                    session.picked, told = order.delivered[0], UNTOLD
                shown = len(order.delivered)
                pictures = self._pictures(session)
            yield gr.skip(), *pictures, *told, self._status(session)

    def draft_picked(self, request: gr.Request, event: gr.SelectData) -> Outputs:
        """(*pictures, *told)."""
        session = self._session(request)
        before = session.picked
        if 0 <= event.index < len(session.drafts):
            session.picked = session.drafts[event.index]
        return *self._pictures(session), *(STILL_TOLD if session.picked is before else UNTOLD)

    async def finish_wanted(self, request: gr.Request, superres: bool) -> AsyncIterator[Outputs]:
        """(*pictures, status): the picked draft in full size."""
        session = self._session(request)
        try:
            draft = _picked(session)
            self.menu.check_superres(draft.recipe.model, superres)
            made = work.finish(draft, superres, draft.subject.mask.parent, self.identify)
            title = "Super-resolution" if superres else "Full size"
            order = self._submit(session, Order(title, draft.recipe.model, made))
        except UserError as error:
            session.error = str(error)
            yield *SAME_PICTURES, self._status(session)
            return
        shown = False
        async for _ in self._follow(order):
            pictures = SAME_PICTURES
            if order.delivered and not shown:
                shown = True
                session.finished[draft.low_res] = order.delivered[0]  # in place of one by other settings
                pictures = self._pictures(session)
            yield *pictures, self._status(session)

    async def explanation_wanted(self, request: gr.Request) -> AsyncIterator[Outputs]:
        """(figures, status) of the picked draft."""
        session = self._session(request)
        try:
            draft = _picked(session)
            made = work.explain_draft(draft, draft.subject.mask.parent)
            order = self._submit(session, Order("Explanation", draft.recipe.model, made))
        except UserError as error:
            session.error = str(error)
            yield gr.skip(), self._status(session)
            return
        async for _ in self._follow(order):
            figures = gr.skip()
            if order.delivered and session.picked is draft:
                value = [(str(path), caption) for path, caption in order.delivered[0]]
                figures = gr.update(value=value, visible=True)
            yield figures, self._status(session)

    def cancel_wanted(self, request: gr.Request) -> str:
        """The status, after all of the tab's orders are cancelled."""
        session = self._session(request)
        for order in session.active:
            self.engine.cancel(order)
        return self._status(session)

    def tab_opened(self) -> None:
        """The first visitor is here: the first model loads while they look around, and not before."""
        if not self._visited:
            self._visited = True
            first = next(iter(self.menu.models))
            self.engine.submit(Order("", first, lambda painter, order: None, owner="server"))

    def tab_closed(self, request: gr.Request) -> None:
        """Nobody waits for its orders any more."""
        self.cancel_wanted(request)

    # The same by other means

    def command_wanted(self, request: gr.Request, mask: str, seed: float, *form: Any) -> Outputs:
        """(text to copy, recipe, mask file, status): the command for the picked draft, or else for the form."""
        return self._copy(request, as_command, mask, seed, form)

    def yaml_wanted(self, request: gr.Request, mask: str, seed: float, *form: Any) -> Outputs:
        """(text to copy, recipe, mask file, status): the batch job for the picked draft, or else for the form."""
        return self._copy(request, as_yaml, mask, seed, form)

    def _copy(
        self, request: gr.Request, write: Callable[..., str], mask: str, seed: float, form: Sequence[Any]
    ) -> Outputs:
        session = self._session(request)
        try:
            if session.picked is not None:
                subject, recipe = session.picked.subject, session.picked.recipe.at(superres=form[-1])
            else:
                recipe = self.menu.recipe(**dict(zip(FORM, form, strict=True)), seed=seed or 0)
                subject = self._subject(session, mask, [recipe])
            session.error = ""
        except UserError as error:
            session.error = str(error)
            return "", gr.skip(), gr.skip(), self._status(session)
        text = write(subject.photo.name, subject.mask.name, [recipe])
        file = gr.update(value=str(subject.mask), visible=True)
        return text, gr.update(value=text, visible=True), file, self._status(session)

    # Within

    def _session(self, request: gr.Request) -> Session:
        return self.sessions.of(request.session_hash or "", client(request))

    def _submit(self, session: Session, order: Order) -> Order:
        order.owner, order.client = session.key, session.client
        order.seconds = self.menu.limits.minutes * 60
        self.engine.submit(order)
        session.add(order)
        return order

    async def _follow(self, order: Order) -> AsyncIterator[None]:
        """Wakes with the order; cancels it when nobody listens any more."""
        try:
            async for _ in self.engine.watch(order):
                yield
        finally:
            if not order.finished:
                self.engine.cancel(order)

    def _status(self, session: Session) -> str:
        return status(session, self.engine)

    def _pictures(self, session: Session) -> Outputs:
        """(gallery, slider, finish, download, explain) as they should be now."""
        drafts, picked = session.drafts, session.picked
        gallery = gr.update(
            value=[(str(draft.preview), draft.label) for draft in drafts],
            selected_index=drafts.index(picked) if picked in drafts else None,
            visible=bool(drafts),
        )
        if picked is None:
            hidden = gr.update(visible=False)
            return gallery, gr.update(value=None, visible=False), hidden, hidden, hidden
        done = session.finished.get(picked.low_res)
        pair = (done.before, done.after) if done else (picked.subject.photo.proxy_path, picked.preview)
        label = f"{'Finished' if done else 'Draft'}, {picked.label}: before on the left, after on the right"
        return (
            gallery,
            gr.update(value=tuple(map(str, pair)), label=label, visible=True),
            gr.update(visible=True),
            gr.update(value=str(done.image) if done else None, visible=done is not None),
            gr.update(visible=self.can_explain),
        )


def client(request: gr.Request) -> str:
    """Whose request it is: the login's, else the address's."""
    return request.username or (request.client.host if request.client else "")


def _seed(seed: float | None, locked: bool) -> Any:
    return (seed or 0) if locked else secrets.randbelow(SEEDS)


def _photo(session: Session) -> Photo:
    if session.photo is None:
        raise UserError("there is no photo yet: choose one")
    session.photo.check()
    return session.photo


def _picked(session: Session) -> Draft:
    if session.picked is None:
        raise UserError("there is no draft yet: make some and pick one")
    return session.picked
