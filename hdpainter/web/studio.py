"""The page's events: what happens when somebody loads a photo, paints, or presses a button."""

import asyncio
import hashlib
import html
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from functools import cache, partial
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
from hdpainter.web.access import client
from hdpainter.web.engine import Engine, Loader, Order
from hdpainter.web.layout import known_things, negative_hint, note
from hdpainter.web.menu import FORM, SEEDS, Menu
from hdpainter.web.messages import told
from hdpainter.web.photos import check_pixels, load_named, png_data_url, png_record, receive
from hdpainter.web.recipes import Recipe, as_command, as_yaml
from hdpainter.web.session import Session, Sessions
from hdpainter.web.views import (
    FRESH_SETTINGS,
    NO_SETTINGS,
    SAME_PICTURES,
    STILL_TOLD,
    UNTOLD,
    Outputs,
    kept_settings,
    opened,
    panel,
    pictures,
    settings_of,
)
from hdpainter.web.work import Draft, Subject
from hdpainter.web.workspace import Workspace
from ldm.util import UserError

GRACE = 20.0  # seconds for a tab to come back, after which nobody waits for its orders


class Studio:
    """Everything behind the page. Methods named after an event return what its outputs on the page become;
    views.py has the names of their groups.

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
        """(*opened): a file was uploaded. A bad one leaves everything as it is."""
        session = self._session(request)
        return self._receive(session, Path(file), None) if file else self._opened(session)

    def example_chosen(self, request: gr.Request, photo: Path, mask: Path, prompt: str) -> Outputs:
        """(*opened, prompt)."""
        return (*self._receive(self._session(request), photo, mask), prompt)

    def result_reused(self, request: gr.Request) -> Outputs:
        """(*opened): the finished picture is the next photo."""
        session = self._session(request)
        done = session.finished.get(session.picked.low_res) if session.picked else None
        return self._receive(session, done.image, None) if done else self._opened(session)

    def photo_undone(self, request: gr.Request) -> Outputs:
        """(*opened): back to the photo before, with its mask and drafts."""
        session = self._session(request)
        self._cancel(session)
        session.go_back()
        return self._opened(session, reopen=True)

    def _receive(self, session: Session, file: Path, mask: Path | None) -> Outputs:
        try:
            photo = receive(file, file.name, self.workspace.folder(), self.menu.limits.megapixels)
            self._cancel(session)
            session.open(photo)
            session.offer = self._settings_in(file)
            self.sessions.remember(session)
            if mask is not None:
                session.painted = self._load_mask(session, mask)
            return self._opened(session, reopen=True)
        except UserError as error:
            session.error = str(error)
            return self._opened(session)

    def _settings_in(self, file: Path) -> Recipe | None:
        """Those of a picture that was made here."""
        record = png_record(file)
        try:
            return self.menu.recipe_of(record) if record else None
        except UserError:  # by a method that is not here, or anything that only looks like a record
            return None

    def mask_loaded(self, request: gr.Request, file: str) -> Outputs:
        """(URL for the editor, *panel): a mask file was uploaded."""
        session = self._session(request)
        url = None
        try:
            session.error = ""
            url = self._load_mask(session, Path(file))
        except UserError as error:
            session.error = str(error)
        return url, *self._panel(session)

    def _load_mask(self, session: Session, file: Path) -> str:
        photo = session.need_photo()
        check_pixels(file, file.name, self.menu.limits.megapixels)
        grey = load_named(load_mask, file, file.name, photo.size)
        session.loaded_mask = photo.path.with_name("loaded-mask.png")
        Image.fromarray(grey).save(session.loaded_mask)
        return png_data_url(masks.for_canvas(masks.small_size(grey, photo.paint_size[::-1])))

    def mask_painted(self, request: gr.Request, mask: str, model: str, method: str, size: float) -> str:
        """The mask as the model will see it, as HTML."""
        session = self._session(request)
        if session.photo is None:
            return ""
        try:
            session.painted = mask
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
        photo, file = session.need_photo(), session.loaded_mask
        loaded = load_mask(file, photo.size) if file and file.is_file() else None
        return masks.full_size(masks.painted(mask, photo.paint_size), photo.size, loaded)

    def _subject(self, session: Session, mask: str, recipes: Sequence[Recipe]) -> Subject:
        grey = self._grey(session, mask)
        if grey.max() < max(recipe.method.masks.threshold for recipe in recipes):
            raise UserError("the mask is empty: paint over what is to be replaced")
        photo = session.need_photo()
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

    def chosen(self, method: str, model: str) -> Outputs:
        """(about the method, what the model knows)."""
        return note(describe(method)), known_things(self.menu.spec(model).knows)

    def settings_wanted(self, request: gr.Request) -> Outputs:
        """(*settings) of the picked draft."""
        session = self._session(request)
        return settings_of(session.picked.recipe) if session.picked else NO_SETTINGS

    def offer_taken(self, request: gr.Request) -> Outputs:
        """(*settings) of the picture that is now the photo."""
        session = self._session(request)
        return settings_of(session.offer) if session.offer else NO_SETTINGS

    # Orders

    async def drafts_wanted(
        self, request: gr.Request, mask: str, seed: float | None, locked: bool, count: float, *form: Any
    ) -> AsyncIterator[Outputs]:
        """(seed, *pictures, *told, *panel): drafts; the seeds count up from the locked one or from a new one."""

        def variants(recipe: Recipe) -> list[Recipe]:
            most, wanted = self.menu.limits.drafts, convert(int, count, "drafts")
            if not 1 <= wanted <= most:
                raise UserError(f"{wanted} drafts: this server makes 1 to {most} at a time")
            return [recipe.at(seed=recipe.settings.seed + number) for number in range(wanted)]

        async for outputs in self._make(request, mask, _seed(seed, locked), form, variants, "Drafts"):
            yield outputs

    async def comparison_wanted(
        self, request: gr.Request, mask: str, seed: float | None, locked: bool, count: float, *form: Any
    ) -> AsyncIterator[Outputs]:
        """(seed, *pictures, *told, *panel): a draft by each of the four methods, with its eta, from one seed."""

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
        group: list[Draft] = []

        def receive_draft(draft: Draft) -> None:
            group.append(draft)
            if len(group) == 1 and any(each is group for each in session.groups):  # no other photo came
                session.picked = draft

        try:
            session.need_photo()  # nothing else matters before there is one
            wanted = variants(self.menu.recipe(**dict(zip(FORM, form, strict=True)), seed=seed))
            subject = await asyncio.to_thread(self._subject, session, mask, wanted)
            made = work.make_drafts(subject, wanted, subject.mask.parent)
            order = Order(title, wanted[0].model, made, len(wanted), receive=receive_draft)
            session.groups.insert(0, group)
            self._submit(session, order)
        except UserError as error:
            session.groups = [each for each in session.groups if each is not group]
            session.error = str(error)
            yield gr.skip(), *SAME_PICTURES, *STILL_TOLD, *self._panel(session)
            return
        # The seed once: somebody may type another meanwhile.
        yield seed, *SAME_PICTURES, *STILL_TOLD, *self._panel(session)
        async for outputs in self._show(session, order):
            yield gr.skip(), *outputs

    def draft_picked(self, request: gr.Request, event: gr.EventData) -> Outputs:
        """(*pictures, *told): the event's `draft` is its number in the board."""
        session = self._session(request)
        before, number = session.picked, event._data.get("draft")
        if isinstance(number, int) and 0 <= number < len(session.drafts):
            session.picked = session.drafts[number]
        return *self._pictures(session), *(STILL_TOLD if session.picked is before else UNTOLD)

    def draft_removed(self, request: gr.Request) -> Outputs:
        """(*pictures, *told), without the picked draft."""
        session = self._session(request)
        if session.picked is not None:
            session.remove(session.picked)
        return *self._pictures(session), *UNTOLD

    async def finish_wanted(self, request: gr.Request, superres: bool) -> AsyncIterator[Outputs]:
        """(*pictures, *told, *panel): the picked draft in full size."""
        session = self._session(request)

        def order_of(draft: Draft) -> Order:
            self.menu.check_superres(draft.recipe.model, superres)
            made = work.finish(draft, superres, draft.subject.mask.parent, self.identify)
            finished = session.finished  # in place of one by other settings
            title = "Super-resolution" if superres else "Full size"
            receive = partial(finished.__setitem__, draft.low_res)
            return Order(title, draft.recipe.model, made, about=draft, receive=receive)

        async for outputs in self._work_on_picked(session, order_of):
            yield outputs

    async def explanation_wanted(self, request: gr.Request) -> AsyncIterator[Outputs]:
        """(*pictures, *told, *panel): figures of the picked draft."""
        session = self._session(request)

        def order_of(draft: Draft) -> Order:
            made = work.explain_draft(draft, draft.subject.mask.parent)
            receive = partial(session.figures.__setitem__, draft.low_res)
            return Order("Explanation", draft.recipe.model, made, receive=receive)

        async for outputs in self._work_on_picked(session, order_of):
            yield outputs

    async def _work_on_picked(
        self, session: Session, order_of: Callable[[Draft], Order]
    ) -> AsyncIterator[Outputs]:
        try:
            order = self._submit(session, order_of(session.need_draft()))
        except UserError as error:
            session.error = str(error)
            yield *SAME_PICTURES, *STILL_TOLD, *self._panel(session)
            return
        async for outputs in self._show(session, order):
            yield outputs

    def cancel_wanted(self, request: gr.Request) -> Outputs:
        """(*pictures, *panel), after all of the tab's orders are cancelled."""
        session = self._session(request)
        self._cancel(session)
        return *self._pictures(session), *self._panel(session)

    def tab_opened(self, request: gr.Request, token: str | None, kept: Sequence[Any] | None) -> Outputs:
        """(*opened, *settings): a tab is here, perhaps again, with what it has kept."""
        if not self._visited:  # the first model loads while they look around, and not before
            self._visited = True
            first = next(iter(self.menu.models))
            self.engine.submit(Order("", first, lambda painter, order: None, owner="server"))
        key, owner = request.session_hash or "", client(request)
        session = self.sessions.resume(token, key, owner) if isinstance(token, str) and token else None
        # A photo that is chosen before this is answered must stay: nothing takes it out of its field again, and a
        # new tab remains as it was drawn.
        if session is None:
            drawn = self._opened(self.sessions.of(key, owner))
            return *(gr.skip() for _ in drawn), *FRESH_SETTINGS
        shown, _, *others = self._opened(session, reopen=True)
        return shown, gr.skip(), *others, *kept_settings(self.menu, kept)

    async def orders_followed(self, request: gr.Request) -> AsyncIterator[Outputs]:
        """(*pictures, *told, *panel): what a tab that was reloaded waits for."""
        session = self._session(request)
        now = (*self._pictures(session), *STILL_TOLD, *self._panel(session))
        # To yield nothing would clear them; a new tab may have been told of a bad photo, which is not kept.
        yield now if session.photo else tuple(gr.skip() for _ in now)
        for order in session.active:
            async for outputs in self._show(session, order):
                yield outputs

    def tab_closed(self, request: gr.Request) -> None:
        """Nobody waits for its orders any more, unless it comes back soon."""
        session = self._session(request)
        self._abandon(session, session.key)

    # The same by other means

    def command_wanted(self, request: gr.Request, mask: str, seed: float, *form: Any) -> Outputs:
        """(text to copy, recipe, mask file, *panel): the command for the picked draft, or else for the form."""
        return self._copy(request, as_command, mask, seed, form)

    def yaml_wanted(self, request: gr.Request, mask: str, seed: float, *form: Any) -> Outputs:
        """(text to copy, recipe, mask file, *panel): the batch job for the picked draft, or else for the form."""
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
            return "", gr.skip(), gr.skip(), *self._panel(session)
        text = write(subject.photo.name, subject.mask.name, [recipe])
        file = gr.update(value=str(subject.mask), visible=True)
        return text, gr.update(value=text, visible=True), file, *self._panel(session)

    # Within

    def _session(self, request: gr.Request) -> Session:
        return self.sessions.of(request.session_hash or "", client(request))

    def _submit(self, session: Session, order: Order) -> Order:
        order.owner, order.client = session.key, session.client
        order.seconds = self.menu.limits.minutes * 60
        self.engine.submit(order)
        session.add(order)
        return order

    def _opened(self, session: Session, reopen: bool = False) -> Outputs:
        return opened(session, self.engine, self.can_explain, reopen)

    def _pictures(self, session: Session) -> Outputs:
        return pictures(session, self.can_explain)

    def _panel(self, session: Session) -> Outputs:
        return panel(session, self.engine)

    def _cancel(self, session: Session) -> None:
        for order in session.active:
            self.engine.cancel(order)

    def _abandon(self, session: Session, key: str) -> None:
        """Cancel what the tab asked for, unless another key says after a while that it has been reloaded."""

        def cancel() -> None:
            if session.key == key:
                self._cancel(session)

        timer = threading.Timer(GRACE, cancel)
        timer.daemon = True
        timer.start()

    async def _show(self, session: Session, order: Order) -> AsyncIterator[Outputs]:
        """(*pictures, *told, *panel) whenever the order has got further, until it has ended or nobody listens."""
        key, picked, seen = session.key, session.picked, None
        try:
            async for _ in self.engine.watch(order):
                shown, untold = SAME_PICTURES, STILL_TOLD
                if session.shown != seen:
                    shown, untold = (
                        self._pictures(session),
                        STILL_TOLD if session.picked is picked else UNTOLD,
                    )
                    seen, picked = session.shown, session.picked
                yield *shown, *untold, *self._panel(session)
        finally:
            if not order.finished:
                self._abandon(session, key)


def _seed(seed: float | None, locked: bool) -> Any:
    return (seed or 0) if locked else secrets.randbelow(SEEDS)
