"""What a tab is shown, as updates of gradio's components, in the order of the outputs that are named here.

pictures: drafts, slider, actions, finish, download, reuse, explain, figures. told: recipe, mask file, which tell
about the picked draft. panel: run, cancel, status. opened: what the editor opens, the upload's box, back, offer,
*pictures, *told, *panel. settings: the form's, as in `FORM`, then the seed and whether it is kept.
"""

from typing import Any
from urllib.parse import quote

import gradio as gr

from hdpainter.web.board import board, offered
from hdpainter.web.engine import Engine
from hdpainter.web.menu import FORM, Menu
from hdpainter.web.recipes import Recipe
from hdpainter.web.session import Session, status
from ldm.util import UserError

Outputs = tuple[Any, ...]
SAME_PICTURES = (gr.skip(),) * 8
STILL_TOLD = (gr.skip(),) * 2
UNTOLD = (gr.update(value=None, visible=False),) * 2
NO_SETTINGS = (gr.skip(),) * (len(FORM) + 2)
FRESH_SETTINGS = (
    *NO_SETTINGS[:-2],
    None,
    gr.skip(),
)  # gradio draws an empty number as 0 until it is told again


def opened(session: Session, engine: Engine, can_explain: bool, reopen: bool = False) -> Outputs:
    """(*opened); without `reopen` the editor keeps what it has."""
    shown = None
    if reopen and (photo := session.photo):
        width, height = photo.paint_size
        view = f"gradio_api/file={quote(photo.view_path.as_posix())}" if photo.view_path.is_file() else None
        shown = {"photo": photo.data_url, "view": view, "width": width, "height": height}
        shown |= {"mask": session.painted or None, "token": session.token}
    offer = gr.update(visible=False)
    if session.offer is not None:
        offer = gr.update(value=offered(session.offer), visible=True)
    back = gr.update(value="Back to the photo before", visible=bool(session.earlier))
    return shown, None, back, offer, *pictures(session, can_explain), *UNTOLD, *panel(session, engine)


def panel(session: Session, engine: Engine) -> Outputs:
    """(*panel) as it should be now."""
    busy = bool(session.active)
    run = gr.update(value="Queue more drafts" if busy else "Make drafts")
    return run, gr.update(value="Cancel", interactive=busy), status(session, engine)


def pictures(session: Session, can_explain: bool) -> Outputs:
    """(*pictures) as they should be now."""
    drafts = gr.update(value=board(session), visible=bool(session.drafts))
    if session.photo is None or session.picked is None:
        hidden = gr.update(visible=False)
        return drafts, gr.update(value=None, visible=False), *(hidden,) * 6
    picked, photo = session.picked, session.photo
    done, figures = session.finished.get(picked.low_res), session.figures.get(picked.low_res)
    pair = (done.before, done.after) if done else (photo.proxy_path, picked.preview)
    label = f"{'Finished' if done else 'Draft'}, {picked.label}, before and after"
    finish = "Finishing…" if session.finishing else "Finish again" if done else "Finish in full size"
    return (
        drafts,
        gr.update(value=tuple(map(str, pair)), label=label, visible=True),
        gr.update(visible=True),
        gr.update(
            value=finish,
            visible=True,
            interactive=not session.finishing,
            variant="secondary" if done else "primary",
        ),
        gr.update(value=str(done.image) if done else None, visible=done is not None),
        gr.update(value="As new photo", visible=done is not None),
        gr.update(value="Explain", visible=can_explain),
        gr.update(
            value=[(str(path), caption) for path, caption in figures or ()], visible=figures is not None
        ),
    )


def settings_of(recipe: Recipe) -> Outputs:
    """(*settings) by which a picture was made."""
    settings, method = recipe.settings, recipe.method
    return (
        recipe.prompt,
        recipe.model,
        settings.method,
        method.sampler.steps,
        method.sampler.guidance_scale,
        method.sampler.eta,
        settings.negative_prompt or "",
        settings.size or 0,
        method.known_region,
        settings.superres,
        settings.seed,
        True,
    )


def kept_settings(menu: Menu, kept: Any) -> Outputs:
    """(*settings) as the browser has kept them, unless they no longer fit."""
    try:
        *form, seed, locked = kept
        recipe = menu.recipe(**dict(zip(FORM, form, strict=True)), seed=seed or 0)
    except (UserError, ValueError, TypeError):
        return NO_SETTINGS
    return *settings_of(recipe)[:-2], seed, bool(locked)
