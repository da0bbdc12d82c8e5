"""The page: which of the studio's methods answers which event of its components."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from hdpainter.web.api import add_api
from hdpainter.web.layout import Layout
from hdpainter.web.studio import Studio
from ldm.util import CONFIGS

EXAMPLES = CONFIGS / "inference" / "pictures"

# The mask goes from the editor to Python when an event asks for it: its first input is replaced by this.
WITH_MASK = "(_, ...rest) => [window.hdpainter.mask(), ...rest]"
OPEN = "(shown) => { window.hdpainter.open(shown); }"
LOAD = "(url) => { window.hdpainter.load(url); }"
# (text, the button's own name) -> its name: told where people look, and told only when it is true.
COPY = """async (text, name) => {
  if (!text) return name;
  const copied = await navigator.clipboard?.writeText(text).then(() => true, () => false);
  return copied ? "Copied" : "Copy the text below";
}"""
NAME_AGAIN = "(name) => new Promise((ready) => setTimeout(() => ready(name), 2000))"

# How events are answered.
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
AT_ONCE: dict[str, Any] = {**QUIET, "queue": False}
READING: dict[str, Any] = {**QUIET, "concurrency_limit": 2}
PAINTING: dict[str, Any] = {**QUIET, "concurrency_limit": None}

Example = tuple[Path, Path, str]  # photo, mask and prompt


def examples() -> list[Example]:
    """The pictures that ship."""
    with (EXAMPLES / "prompts.csv").open(encoding="utf-8", newline="") as file:
        prompts = {Path(row["image"]).stem: row["prompt"] for row in csv.DictReader(file)}
    return [
        (EXAMPLES / f"{name}.png", EXAMPLES / f"{name}_mask.png", prompt) for name, prompt in prompts.items()
    ]


def build(studio: Studio) -> gr.Blocks:
    """The page with its events and the API."""
    shipped = examples()
    # Shown from where they are: copies would be swept away as temporary files.
    gr.set_static_paths([EXAMPLES])
    with gr.Blocks(title="HD-Painter", analytics_enabled=False) as page:
        layout = Layout(studio.menu, [(str(photo), prompt) for photo, _, prompt in shipped])
        answer_canvas(layout, studio, shipped)
        answer_form(layout, studio)
        answer_results(layout, studio)
        page.load(studio.tab_opened, **AT_ONCE)
        page.unload(studio.tab_closed)
        add_api(studio)
    page.queue(default_concurrency_limit=4, max_size=4 * studio.menu.limits.queue)
    return page


def answer_canvas(layout: Layout, studio: Studio, shipped: Sequence[Example]) -> None:
    """A photo or a mask comes, or somebody paints."""
    canvas, form, results, carriers = layout.canvas, layout.form, layout.results, layout.carriers
    opened = [carriers.shown, *results.pictures, *results.told, form.status]

    def example_chosen(request: gr.Request, event: gr.SelectData) -> tuple[Any, ...]:
        return studio.example_chosen(request, *shipped[event.index])

    for event in (canvas.photo.upload, canvas.photo.clear):
        loaded = event(studio.photo_loaded, canvas.photo, opened, **READING)
        loaded.then(None, carriers.shown, js=OPEN, **QUIET)
    chosen = canvas.examples.select(example_chosen, None, [*opened, form.prompt, canvas.photo], **READING)
    chosen.then(None, carriers.shown, js=OPEN, **QUIET)
    loaded = canvas.mask_file.upload(
        studio.mask_loaded, canvas.mask_file, [carriers.mask_url, form.status], **READING
    )
    loaded.then(None, carriers.mask_url, js=LOAD, **QUIET)
    gr.on(
        [canvas.editor.input, form.model.change, form.method.change, form.size.change],
        studio.mask_painted,
        [carriers.mask, form.model, form.method, form.size],
        canvas.seen,
        js=WITH_MASK,
        concurrency_limit=4,
        trigger_mode="always_last",
        **QUIET,
    )


def answer_form(layout: Layout, studio: Studio) -> None:
    """A setting brings others along, or drafts are wanted, or nothing any more."""
    form, results = layout.form, layout.results
    form.method.input(studio.method_chosen, form.method, form.own_values, **AT_ONCE)
    form.model.input(
        studio.model_chosen, form.model, [form.method, form.superres, *form.own_values], **AT_ONCE
    )
    inputs = [layout.carriers.mask, form.seed, form.locked, form.count, *form.recipe]
    outputs = [form.seed, *results.pictures, *results.told, form.status]
    for button, answer in ((form.run, studio.drafts_wanted), (form.compare, studio.comparison_wanted)):
        button.click(answer, inputs, outputs, trigger_mode="multiple", js=WITH_MASK, **PAINTING)
    form.cancel.click(studio.cancel_wanted, None, form.status, **AT_ONCE)


def answer_results(layout: Layout, studio: Studio) -> None:
    """A draft is picked, and something is wanted of it."""
    form, results, carriers = layout.form, layout.results, layout.carriers
    pictures, told = results.pictures, results.told
    results.gallery.select(studio.draft_picked, None, [*pictures, *told], **AT_ONCE)
    results.finish.click(
        studio.finish_wanted, form.superres, [*pictures, form.status], scroll_to_output=False, **PAINTING
    )
    results.explain.click(studio.explanation_wanted, None, [results.figures, form.status], **PAINTING)
    inputs = [carriers.mask, form.seed, *form.recipe]
    outputs = [carriers.copied, results.recipe, results.mask_download, form.status]
    for button, answer in (
        (results.as_command, studio.command_wanted),
        (results.as_yaml, studio.yaml_wanted),
    ):
        event = button.click(answer, inputs, outputs, js=WITH_MASK, **QUIET)
        name = gr.Textbox(button.value, visible=False)
        event = event.then(None, [carriers.copied, name], button, js=COPY, **QUIET)
        event.then(None, name, button, js=NAME_AGAIN, **QUIET)
