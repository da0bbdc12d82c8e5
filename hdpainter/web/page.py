"""The page: its components, and which of the studio's methods answers which event."""

import csv
from importlib.resources import files
from pathlib import Path

import gradio as gr

from hdpainter.web.api import Api
from hdpainter.web.menu import MAX_SIZE, PROMPT_LENGTH
from hdpainter.web.studio import Studio, negative_hint
from hdpainter.web.work import LABELS
from ldm.util import CONFIGS

FILE_TYPES = [".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".avif"]
DRAFT_STEPS = 20  # a draft should come soon; the methods themselves have 50
EXAMPLES = CONFIGS / "inference" / "pictures"
ASSETS = files("hdpainter.web") / "assets"

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

HEAD = """
<div class="hdp-head"><h1>HD-Painter</h1>
<p>Paint over a part of a photo, say what should be there, pick a draft, and get it at full resolution.</p></div>
"""


def asset(name: str) -> str:
    """The text of a file in ``assets``."""
    return (ASSETS / name).read_text(encoding="utf-8")


def theme() -> gr.Theme:
    """With the system's fonts: the page asks nothing of other servers. Grey text that everybody can read."""
    soft = gr.themes.Soft(
        primary_hue="indigo",
        secondary_hue="indigo",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    return soft.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        body_background_fill="*neutral_50",
        checkbox_border_color="*neutral_500",
        input_border_width="1px",
        input_border_color="*neutral_400",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
    )


def examples() -> list[tuple[Path, Path, str]]:
    """(photo, mask, prompt) of each picture that ships."""
    with (EXAMPLES / "prompts.csv").open(encoding="utf-8", newline="") as file:
        prompts = {Path(row["image"]).stem: row["prompt"] for row in csv.DictReader(file)}
    return [
        (EXAMPLES / f"{name}.png", EXAMPLES / f"{name}_mask.png", prompt) for name, prompt in prompts.items()
    ]


def build(studio: Studio) -> gr.Blocks:
    """The page with its events and the API."""
    menu, models, first = studio.menu, list(studio.menu.models), next(iter(studio.menu.models))
    own = menu.method(menu.spec(first).method)
    methods = [(LABELS.get(name, name), name) for name in (*LABELS, *menu.methods) if name in menu.methods]
    methods = list(dict.fromkeys(methods))
    shipped = examples()
    gr.set_static_paths(
        [EXAMPLES]
    )  # shown from where they are: copies would be swept away as temporary files
    with gr.Blocks(title="HD-Painter", analytics_enabled=False) as page:
        gr.HTML(HEAD)
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                photo = gr.File(
                    label="Photo: drop, paste or choose one",
                    file_types=FILE_TYPES,
                    elem_id="photo",
                    height=140,
                )
                gr.HTML('<p class="hdp-note">Or try one of these:</p>')
                gallery_examples = gr.Gallery(
                    [(str(image), prompt) for image, _, prompt in shipped],
                    show_label=False,
                    elem_id="examples",
                    columns=3,
                    height=165,
                    allow_preview=False,
                    object_fit="cover",
                    interactive=False,
                    buttons=[],
                )
                editor = gr.HTML(
                    html_template=asset("editor.html"), js_on_load=asset("editor.js"), elem_id="editor"
                )
                mask_file = gr.UploadButton(
                    "Load a mask from a file", file_types=FILE_TYPES, elem_id="mask-file", size="sm"
                )
                seen = gr.HTML(elem_id="seen")
            with gr.Column(scale=2, min_width=320):
                prompt = gr.Textbox(
                    label="Prompt",
                    placeholder="What should be there?",
                    lines=2,
                    max_length=PROMPT_LENGTH,
                    elem_id="prompt",
                )
                with gr.Row():
                    method = gr.Dropdown(methods, value=own.name, label="Method", min_width=150)
                    model = gr.Dropdown(models, value=first, label="Model", min_width=110)
                with gr.Row():
                    count = gr.Slider(
                        1, menu.limits.drafts, value=2, step=1, label="Drafts", elem_id="count", min_width=150
                    )
                    seed = gr.Number(
                        value=0, precision=0, minimum=0, label="Seed", elem_id="seed", min_width=90
                    )
                    locked = gr.Checkbox(False, label="Keep the seed", elem_id="lock", min_width=90)
                with gr.Accordion("Advanced", open=False):
                    steps = gr.Slider(
                        1,
                        menu.limits.steps,
                        value=min(DRAFT_STEPS, menu.limits.steps),
                        step=1,
                        label="Steps",
                        info="20 for a draft in short time; the paper has 50",
                    )
                    guidance_scale = gr.Slider(
                        1, 20, value=own.sampler.guidance_scale, step=0.1, label="Guidance scale"
                    )
                    eta = gr.Slider(
                        0,
                        1,
                        value=own.sampler.eta,
                        step=0.01,
                        label="Eta: share of noise, or of RASG's guidance",
                    )
                    negative = gr.Textbox(
                        label="Negative prompt",
                        placeholder=negative_hint(own),
                        max_length=PROMPT_LENGTH,
                    )
                    size = gr.Number(
                        value=0,
                        precision=0,
                        minimum=0,
                        maximum=MAX_SIZE,
                        label="Longer side of a draft; 0: the model's",
                    )
                    superres = gr.Checkbox(menu.models[first], label="Super-resolution of the picked draft")
                with gr.Row():
                    run = gr.Button("Make drafts", variant="primary", elem_id="run", min_width=130)
                    compare = gr.Button("Side by side", elem_id="compare", min_width=110)
                    cancel = gr.Button("Cancel", variant="stop", elem_id="cancel", min_width=90)
                status = gr.HTML(
                    '<div class="hdp-status" role="status"><p>Choose a photo.</p></div>', elem_id="status"
                )
        gallery = gr.Gallery(
            label="Drafts: pick one",
            elem_id="drafts",
            columns=4,
            fit_columns=False,
            allow_preview=False,
            object_fit="contain",
            interactive=False,
            visible=False,
            buttons=[],
        )
        slider = gr.ImageSlider(
            elem_id="result",
            type="filepath",
            interactive=False,
            visible=False,
            max_height=720,
            slider_position=25,
            buttons=["fullscreen"],
        )
        with gr.Row():
            finish = gr.Button(
                "Finish this one in full size",
                variant="primary",
                elem_id="finish",
                visible=False,
                min_width=150,
            )
            download = gr.DownloadButton("Download PNG", elem_id="download", visible=False, min_width=130)
            explain = gr.Button("Explain", elem_id="explain", visible=False, min_width=90)
        figures = gr.Gallery(
            label="What the method did",
            elem_id="figures",
            columns=1,
            visible=False,
            interactive=False,
            buttons=[],
        )
        with gr.Row():
            as_command = gr.Button("Copy as command", elem_id="copy-command", size="sm", min_width=130)
            as_yaml = gr.Button("Copy as YAML", elem_id="copy-yaml", size="sm", min_width=130)
            mask_download = gr.DownloadButton(
                "Download the mask", elem_id="mask-download", size="sm", visible=False, min_width=130
            )
        recipe = gr.Textbox(
            label="The same again, from the folder with photo and mask",
            elem_id="recipe",
            interactive=False,
            visible=False,
            lines=2,
            max_lines=16,
            buttons=["copy"],
        )
        # Carriers of what goes between the editor and Python.
        mask, shown, mask_url = gr.Textbox(visible=False), gr.JSON(visible=False), gr.Textbox(visible=False)

        copied = gr.Textbox(visible=False)

        form = [prompt, model, method, steps, guidance_scale, eta, negative, size, superres]
        pictures = [gallery, slider, finish, download, explain]
        told = [figures, recipe, mask_download]  # about one draft
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        at_once = {**quiet, "queue": False}
        painting = {**quiet, "concurrency_limit": None, "trigger_mode": "multiple", "js": WITH_MASK}

        for event in (photo.upload, photo.clear):
            loaded = event(
                studio.photo_loaded, photo, [shown, *pictures, *told, status], concurrency_limit=2, **quiet
            )
            loaded.then(None, shown, js=OPEN, **quiet)
        chosen = gallery_examples.select(
            example_event(studio, shipped),
            None,
            [shown, *pictures, *told, status, prompt, photo],
            concurrency_limit=2,
            **quiet,
        )
        chosen.then(None, shown, js=OPEN, **quiet)
        mask_file.upload(
            studio.mask_loaded, mask_file, [mask_url, status], concurrency_limit=2, **quiet
        ).then(None, mask_url, js=LOAD, **quiet)
        gr.on(
            [editor.input, model.change, method.change, size.change],
            studio.mask_painted,
            [mask, model, method, size],
            seen,
            js=WITH_MASK,
            concurrency_limit=4,
            trigger_mode="always_last",
            **quiet,
        )
        own_values = [guidance_scale, eta, negative]
        method.input(studio.method_chosen, method, own_values, **at_once)
        model.input(studio.model_chosen, model, [method, superres, *own_values], **at_once)
        for button, answer in ((run, studio.drafts_wanted), (compare, studio.comparison_wanted)):
            inputs, outputs = [mask, seed, locked, count, *form], [seed, *pictures, *told, status]
            button.click(answer, inputs, outputs, **painting)
        cancel.click(studio.cancel_wanted, None, status, **at_once)
        gallery.select(studio.draft_picked, None, [*pictures, *told], **at_once)
        finish.click(
            studio.finish_wanted,
            superres,
            [*pictures, status],
            concurrency_limit=None,
            scroll_to_output=False,
            **quiet,
        )
        explain.click(studio.explanation_wanted, None, [figures, status], concurrency_limit=None, **quiet)
        for button, answer in ((as_command, studio.command_wanted), (as_yaml, studio.yaml_wanted)):
            outputs = [copied, recipe, mask_download, status]
            event = button.click(answer, [mask, seed, *form], outputs, js=WITH_MASK, **quiet)
            name = gr.Textbox(button.value, visible=False)
            event = event.then(None, [copied, name], button, js=COPY, **quiet)
            event.then(None, name, button, js=NAME_AGAIN, **quiet)
        page.load(studio.tab_opened, **at_once)
        page.unload(studio.tab_closed)
        add_api(studio)
    page.queue(default_concurrency_limit=4, max_size=4 * menu.limits.queue)
    return page


def example_event(studio: Studio, shipped: list[tuple[Path, Path, str]]):
    """The answer to a click on one of the examples."""

    def chosen(request: gr.Request, event: gr.SelectData):
        return studio.example_chosen(request, *shipped[event.index])

    return chosen


def add_api(studio: Studio) -> None:
    """The endpoints /inpaint and /models, by components that nobody sees."""
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
