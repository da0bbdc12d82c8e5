"""The page: which of the studio's methods answers which event of its components."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from hdpainter.blend import DILATION
from hdpainter.web.api import add_api
from hdpainter.web.layout import Layout
from hdpainter.web.studio import Studio
from ldm.util import CONFIGS

EXAMPLES = CONFIGS / "inference" / "pictures"

# The mask goes from the editor to Python when an event asks for it: its first input is replaced by this.
WITH_MASK = "async (_, ...rest) => [await window.hdpainter.mask(), ...rest]"
OPEN = """async (shown) => {
  while (!window.hdpainter) await new Promise((ready) => setTimeout(ready, 50)); // the page is being drawn
  window.hdpainter.open(shown);
}"""
# The session's token and the form's values stay in the browser's tab over a reload.
KEEP = "(...values) => { window.hdpainter?.keep(values); }"
KEPT = "() => JSON.parse(sessionStorage.getItem('hdpainter') ?? '[\"\", null]')"
# How far the joining reaches beyond the mask, for the editor to show.
SOFTEN = f"""async (edge) => {{
  while (!window.hdpainter) await new Promise((ready) => setTimeout(ready, 50)); // the page is being drawn
  window.hdpainter.soften(edge === "blended" ? {DILATION // 2} : 0);
}}"""
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
    with gr.Blocks(title="HD-Painter", analytics_enabled=False, fill_width=True) as page:
        layout = Layout(studio.menu, [(str(photo), prompt) for photo, _, prompt in shipped])
        answer_canvas(layout, studio, shipped)
        answer_form(layout, studio)
        answer_results(layout, studio)
        answer_tab(page, layout, studio)
        page.unload(studio.tab_closed)
        add_api(studio)
    page.queue(default_concurrency_limit=4, max_size=4 * studio.menu.limits.queue)
    return page


def answer_tab(page: gr.Blocks, layout: Layout, studio: Studio) -> None:
    """A tab opens, perhaps again after a reload."""
    form, results, carriers = layout.form, layout.results, layout.carriers
    kept, shown = [carriers.token, carriers.kept], [*outputs_of_opened(layout), *form.settings]
    opened = page.load(studio.tab_opened, kept, shown, js=KEPT, **AT_ONCE)
    opened.then(None, carriers.shown, js=OPEN, **QUIET)
    outputs = [*results.pictures, *results.told, *form.panel]
    opened.then(studio.orders_followed, None, outputs, **PAINTING)


def outputs_of_opened(layout: Layout) -> list[gr.blocks.Block]:
    """What changes with the photo."""
    canvas, results, carriers = layout.canvas, layout.results, layout.carriers
    first = [carriers.shown, canvas.photo, canvas.back, canvas.offer]
    return [*first, *results.pictures, *results.told, *layout.form.panel]


def answer_canvas(layout: Layout, studio: Studio, shipped: Sequence[Example]) -> None:
    """A photo or a mask comes, or somebody paints."""
    canvas, form, results, carriers = layout.canvas, layout.form, layout.results, layout.carriers
    opened = outputs_of_opened(layout)

    def example_chosen(request: gr.Request, event: gr.SelectData) -> tuple[Any, ...]:
        return studio.example_chosen(request, *shipped[event.index])

    for event in (
        canvas.photo.upload(studio.photo_loaded, canvas.photo, opened, **READING),
        canvas.examples.select(example_chosen, None, [*opened, form.prompt], **READING),
        results.reuse.click(studio.result_reused, None, opened, **READING),
        canvas.back.click(studio.photo_undone, None, opened, **READING),
    ):
        event.then(None, carriers.shown, js=OPEN, **QUIET)
    canvas.another.click(None, js="() => { window.hdpainter.choose(); }", **QUIET)
    canvas.offer.click(studio.offer_taken, None, form.settings, **AT_ONCE)
    loaded = canvas.mask_file.upload(
        studio.mask_loaded, canvas.mask_file, [carriers.mask_url, *form.panel], **READING
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
    gr.on(
        [form.method.change, form.model.change],
        studio.chosen,
        [form.method, form.model],
        [form.about, form.known],
        **AT_ONCE,
    )
    form.known_region.change(None, form.known_region, js=SOFTEN, **QUIET)
    gr.on([field.change for field in form.settings], None, form.settings, js=KEEP, **QUIET)
    inputs = [layout.carriers.mask, form.seed, form.locked, form.count, *form.recipe]
    outputs = [form.seed, *results.pictures, *results.told, *form.panel]
    for button, answer in ((form.run, studio.drafts_wanted), (form.compare, studio.comparison_wanted)):
        button.click(answer, inputs, outputs, trigger_mode="multiple", js=WITH_MASK, **PAINTING)
    form.cancel.click(studio.cancel_wanted, None, [*results.pictures, *form.panel], **AT_ONCE)


def answer_results(layout: Layout, studio: Studio) -> None:
    """A draft is picked, and something is wanted of it."""
    form, results, carriers = layout.form, layout.results, layout.carriers
    pictures, told = results.pictures, results.told
    results.drafts.select(studio.draft_picked, None, [*pictures, *told], **AT_ONCE)
    results.remove.click(studio.draft_removed, None, [*pictures, *told], **AT_ONCE)
    results.take_up.click(studio.settings_wanted, None, form.settings, **AT_ONCE)
    outputs = [*pictures, *told, *form.panel]
    results.finish.click(studio.finish_wanted, form.superres, outputs, scroll_to_output=False, **PAINTING)
    results.explain.click(studio.explanation_wanted, None, outputs, **PAINTING)
    inputs = [carriers.mask, form.seed, *form.recipe]
    outputs = [carriers.copied, results.recipe, results.mask_download, *form.panel]
    for button, answer in (
        (results.as_command, studio.command_wanted),
        (results.as_yaml, studio.yaml_wanted),
    ):
        event = button.click(answer, inputs, outputs, js=WITH_MASK, **QUIET)
        name = gr.Textbox(button.value, visible=False)
        event = event.then(None, [carriers.copied, name], button, js=COPY, **QUIET)
        event.then(None, name, button, js=NAME_AGAIN, **QUIET)
