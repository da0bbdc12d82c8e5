"""The drafts of a tab, run by run, and the line that offers settings: HTML, with every word escaped."""

import html
from urllib.parse import quote

from hdpainter.web.recipes import Recipe
from hdpainter.web.session import KEPT, Session
from hdpainter.web.work import LABELS, Draft


def board(session: Session) -> str:
    """The drafts as buttons, whose number in `Session.drafts` is in ``data-draft``; empty without any."""
    parts, number = [], 0
    for group in session.groups:
        kept = group[: KEPT - number]
        if kept:
            alike = len({draft.recipe.settings.method for draft in kept}) == 1
            buttons = (_button(draft, number + place, session, alike) for place, draft in enumerate(kept))
            parts.append(
                f'<h3 class="hdp-run">{_heading(kept)}</h3><div class="hdp-run-row">{"".join(buttons)}</div>'
            )
            number += len(kept)
    return "".join(parts)


def _heading(drafts: list[Draft]) -> str:
    """What all drafts of a run have in common."""
    first = drafts[0].recipe
    prompt = f"“{first.prompt}”" if first.prompt else "without a prompt"
    methods = {draft.recipe.settings.method for draft in drafts}
    steps = first.method.sampler.steps
    told = [prompt, *([name_of(first)] if len(methods) == 1 else []), f"{steps} step{'s' * (steps != 1)}"]
    return html.escape(", ".join(told))


def _button(draft: Draft, number: int, session: Session, alike: bool) -> str:
    """alike: the heading of its run tells the method."""
    picked = draft is session.picked
    done = " ✓" if draft.low_res in session.finished else ""
    prompt = html.escape(draft.recipe.prompt, quote=True)
    image = (
        f'<img src="gradio_api/file={quote(draft.preview.as_posix())}" alt="Draft {number + 1}: {prompt}">'
    )
    label = f"seed {draft.recipe.settings.seed}" if alike else draft.label
    caption = f'<span class="caption-label">{html.escape(label)}{done}</span>'
    pressed = str(picked).lower()
    return (
        f'<button type="button" class="thumbnail-item" data-draft="{number}" aria-pressed="{pressed}" '
        f'title="{prompt}">{image}{caption}</button>'
    )


def name_of(recipe: Recipe) -> str:
    """The method's name for people."""
    method = recipe.settings.method or ""
    return LABELS.get(method, method)


def offered(recipe: Recipe) -> str:
    """The button that takes up the settings of a picture that was made here."""
    prompt = recipe.prompt if len(recipe.prompt) <= 40 else f"{recipe.prompt[:39]}…"
    return f"Made by HD-Painter: take up “{prompt}”, seed {recipe.settings.seed}, {name_of(recipe)}"
