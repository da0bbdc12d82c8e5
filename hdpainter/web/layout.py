"""What is on the page: its components in groups, each laid out where it is made, and how all of it looks."""

import html
from collections.abc import Sequence
from importlib.resources import files

import gradio as gr

from hdpainter.settings import Method, describe
from hdpainter.web.menu import FORM, MAX_SIZE, PROMPT_LENGTH, Menu
from hdpainter.web.work import LABELS

FILE_TYPES = [".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".avif"]
DRAFT_STEPS = 20  # a draft should come soon; the methods themselves have 50
ASSETS = files("hdpainter.web") / "assets"

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


class Layout:
    """All components of the page. examples: (file, caption) of the photos to try."""

    def __init__(self, menu: Menu, examples: Sequence[tuple[str, str]]):
        gr.HTML(HEAD)
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                self.canvas = Canvas(examples)
            with gr.Column(scale=2, min_width=320):
                self.form = Form(menu)
        self.results = Results()
        self.carriers = Carriers()


class Canvas:
    """The photo, the editor of its mask, and how the model will see both."""

    def __init__(self, examples: Sequence[tuple[str, str]]):
        self.photo = gr.File(
            label="Photo: drop, paste or choose one", file_types=FILE_TYPES, elem_id="photo", height=140
        )
        gr.HTML('<p class="hdp-note">Or try one of these:</p>')
        self.examples = gr.Gallery(
            list(examples),
            show_label=False,
            elem_id="examples",
            columns=3,
            height=165,
            allow_preview=False,
            object_fit="cover",
            interactive=False,
            buttons=[],
        )
        self.editor = gr.HTML(
            html_template=asset("editor.html"), js_on_load=asset("editor.js"), elem_id="editor"
        )
        self.mask_file = gr.UploadButton(
            "Load a mask from a file", file_types=FILE_TYPES, elem_id="mask-file", size="sm"
        )
        self.seen = gr.HTML(elem_id="seen")


class Form:
    """What to paint and how, the buttons that start it, and how far it is."""

    def __init__(self, menu: Menu):
        first = next(iter(menu.models))
        own = menu.method(menu.spec(first).method)
        self.prompt = gr.Textbox(
            label="Prompt",
            placeholder="What should be there?",
            lines=2,
            max_length=PROMPT_LENGTH,
            elem_id="prompt",
        )
        with gr.Row():
            self.method = gr.Dropdown(labelled(menu.methods), value=own.name, label="Method", min_width=150)
            self.model = gr.Dropdown(list(menu.models), value=first, label="Model", min_width=110)
        self.about = gr.HTML(note(describe(own.name)), elem_id="about-method")
        with gr.Row():
            self.count = gr.Slider(
                1, menu.limits.drafts, value=2, step=1, label="Drafts", elem_id="count", min_width=150
            )
            self.seed = gr.Number(value=0, precision=0, minimum=0, label="Seed", elem_id="seed", min_width=90)
            self.locked = gr.Checkbox(False, label="Keep the seed", elem_id="lock", min_width=90)
        with gr.Accordion("Advanced", open=False):
            self.steps = gr.Slider(
                1,
                menu.limits.steps,
                value=min(DRAFT_STEPS, menu.limits.steps),
                step=1,
                label="Steps",
                info="20 for a draft in short time; the paper has 50",
            )
            self.guidance_scale = gr.Slider(
                1, 20, value=own.sampler.guidance_scale, step=0.1, label="Guidance scale"
            )
            self.eta = gr.Slider(
                0,
                1,
                value=own.sampler.eta,
                step=0.01,
                label="Eta: share of noise, or of RASG's guidance",
            )
            self.negative_prompt = gr.Textbox(
                label="Negative prompt", placeholder=negative_hint(own), max_length=PROMPT_LENGTH
            )
            self.size = gr.Number(
                value=0,
                precision=0,
                minimum=0,
                maximum=MAX_SIZE,
                label="Longer side of a draft; 0: the model's",
            )
            self.superres = gr.Checkbox(menu.models[first], label="Super-resolution of the picked draft")
        with gr.Row():
            self.run = gr.Button("Make drafts", variant="primary", elem_id="run", min_width=130)
            self.compare = gr.Button("Side by side", elem_id="compare", min_width=110)
            self.cancel = gr.Button("Cancel", variant="stop", elem_id="cancel", min_width=90)
        self.status = gr.HTML(
            '<div class="hdp-status" role="status"><p>Choose a photo.</p></div>', elem_id="status"
        )

    @property
    def recipe(self) -> list[gr.components.Component]:
        """What `Menu.recipe` takes, in the order of `FORM`."""
        return [getattr(self, key) for key in FORM]

    @property
    def own_values(self) -> list[gr.components.Component]:
        """What another method comes with."""
        return [self.guidance_scale, self.eta, self.negative_prompt, self.about]


class Results:
    """The drafts, the picked one beside the photo, and what can be done with it. Shown once there are some."""

    def __init__(self) -> None:
        self.gallery = gr.Gallery(
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
        self.slider = gr.ImageSlider(
            elem_id="result",
            type="filepath",
            interactive=False,
            visible=False,
            max_height=720,
            slider_position=25,
            buttons=["fullscreen"],
        )
        with gr.Row():
            self.finish = gr.Button(
                "Finish this one in full size",
                variant="primary",
                elem_id="finish",
                visible=False,
                min_width=150,
            )
            self.download = gr.DownloadButton(
                "Download PNG", elem_id="download", visible=False, min_width=130
            )
            self.explain = gr.Button("Explain", elem_id="explain", visible=False, min_width=90)
        self.figures = gr.Gallery(
            label="What the method did",
            elem_id="figures",
            columns=1,
            visible=False,
            interactive=False,
            buttons=[],
        )
        with gr.Row():
            self.as_command = gr.Button("Copy as command", elem_id="copy-command", size="sm", min_width=130)
            self.as_yaml = gr.Button("Copy as YAML", elem_id="copy-yaml", size="sm", min_width=130)
            self.mask_download = gr.DownloadButton(
                "Download the mask", elem_id="mask-download", size="sm", visible=False, min_width=130
            )
        self.recipe = gr.Textbox(
            label="The same again, from the folder with photo and mask",
            elem_id="recipe",
            interactive=False,
            visible=False,
            lines=2,
            max_lines=16,
            buttons=["copy"],
        )

    @property
    def pictures(self) -> list[gr.components.Component]:
        """What shows the drafts."""
        return [self.gallery, self.slider, self.finish, self.download, self.explain]

    @property
    def told(self) -> list[gr.components.Component]:
        """What tells about the picked one."""
        return [self.figures, self.recipe, self.mask_download]


class Carriers:
    """What goes between the browser and Python and nobody sees."""

    def __init__(self) -> None:
        self.mask = gr.Textbox(visible=False)
        self.shown = gr.JSON(visible=False)
        self.mask_url = gr.Textbox(visible=False)
        self.copied = gr.Textbox(visible=False)


def labelled(methods: Sequence[str]) -> list[tuple[str, str]]:
    """(label, name) of each method, those that have a label of their own first."""
    names = dict.fromkeys((*LABELS, *methods))
    return [(LABELS.get(name, name), name) for name in names if name in methods]


def note(text: str) -> str:
    """A remark of the page, as HTML; `text` is plain."""
    return f'<p class="hdp-note">{html.escape(text)}</p>'


def negative_hint(method: Method) -> str:
    """What stands in the field of the negative prompt while it is empty."""
    negative = method.prompts.negative
    return f"Default: {negative}" if negative else "What to keep away from"
