"""What is on the page: its components in groups, each laid out where it is made, and how all of it looks."""

import html
from collections.abc import Sequence
from importlib.resources import files

import gradio as gr

from hdpainter.blend import DILATION
from hdpainter.images import suffixes
from hdpainter.settings import Method, describe
from hdpainter.web.menu import FORM, MAX_SIZE, PROMPT_LENGTH, Menu
from hdpainter.web.work import LABELS

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
        block_title_background_fill="none",
        block_title_padding="0",
        block_title_text_color="*neutral_600",
        block_title_text_color_dark="*neutral_300",
        block_title_text_weight="500",
        block_title_text_size="*text_sm",
        input_padding="*spacing_md",
        checkbox_border_color="*neutral_500",
        input_border_width="1px",
        input_border_color="*neutral_400",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
    )


class Layout:
    """All components of the page. examples: (file, caption) of the photos to try.

    The photo and its mask on the left, everything that is done with them on the right; on a phone one below the
    other.
    """

    def __init__(self, menu: Menu, examples: Sequence[tuple[str, str]]):
        gr.HTML(HEAD)
        with gr.Row(elem_id="desk"):
            with gr.Column(scale=1, min_width=320, elem_id="left"):
                self.canvas = Canvas(examples)
            with gr.Column(scale=1, min_width=320, elem_id="right"):
                self.form = Form(menu)
                self.results = Results()
        self.carriers = Carriers()


class Canvas:
    """The photo, the editor of its mask, and how the model will see both."""

    def __init__(self, examples: Sequence[tuple[str, str]]):
        with gr.Column(elem_id="start"):  # put away while there is a photo
            self.photo = gr.File(
                label="Photo: drop, paste or choose one",
                file_types=sorted(suffixes()),
                elem_id="photo",
                height=140,
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
        with gr.Row(elem_id="photo-row"):
            self.another = gr.Button("Another photo", elem_id="another", size="sm", min_width=110)
            self.mask_file = gr.UploadButton(
                "Load a mask", file_types=sorted(suffixes()), elem_id="mask-file", size="sm", min_width=110
            )
            self.back = gr.Button(
                "Back to the photo before", elem_id="photo-back", size="sm", min_width=110, visible=False
            )
        self.offer = gr.Button("", elem_id="offer", size="sm", visible=False)
        self.editor = gr.HTML(
            html_template=asset("editor.html"),
            js_on_load=asset("editor.js") + asset("page.js"),
            elem_id="editor",
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
            lines=1,
            max_lines=4,
            max_length=PROMPT_LENGTH,
            elem_id="prompt",
        )
        self.known = gr.HTML(known_things(menu.spec(first).knows), elem_id="known")
        with gr.Row(elem_id="settings"):
            self.method = gr.Dropdown(
                labelled(menu.methods), value=own.name, label="Method", scale=4, min_width=150
            )
            self.model = gr.Dropdown(list(menu.models), value=first, label="Model", scale=2, min_width=105)
            self.count = gr.Slider(
                1, menu.limits.drafts, value=2, step=1, label="Drafts", elem_id="count", scale=1, min_width=70
            )
            self.seed = gr.Number(
                None, placeholder="random", label="Seed", elem_id="seed", scale=2, min_width=100
            )
            self.locked = gr.Checkbox(False, label="Keep the seed", elem_id="lock", scale=2, min_width=90)
        self.about = gr.HTML(note(describe(own.name)), elem_id="about")
        with gr.Accordion("Advanced", open=False, elem_id="advanced"):
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
                value=0, minimum=0, maximum=MAX_SIZE, label="Longer side of a draft; 0: the model's"
            )
            self.known_region = gr.Dropdown(
                [
                    ("exact: nothing outside the mask changes", "exact"),
                    (f"soft: blended over {DILATION // 2} pixels around the mask, as released", "blended"),
                ],
                value="exact",
                label="Edge",
                elem_id="edge",
            )
            self.superres = gr.Checkbox(menu.models[first], label="Super-resolution of the picked draft")
        with gr.Row(elem_id="start-row"):
            self.run = gr.Button("Make drafts", variant="primary", elem_id="run", size="md", min_width=130)
            self.compare = gr.Button("Side by side", elem_id="compare", size="md", min_width=110)
            self.cancel = gr.Button(
                "Cancel", variant="stop", elem_id="cancel", size="md", min_width=90, interactive=False
            )
        self.status = gr.HTML(
            '<div class="hdp-status" role="status"><p>Choose a photo.</p></div>', elem_id="status"
        )

    @property
    def recipe(self) -> list[gr.components.Component]:
        """What `Menu.recipe` takes, in the order of `FORM`."""
        return [getattr(self, key) for key in FORM]

    @property
    def settings(self) -> list[gr.components.Component]:
        """What is taken up from a draft, and kept by the browser over a reload."""
        return [*self.recipe, self.seed, self.locked]

    @property
    def own_values(self) -> list[gr.components.Component]:
        """What another method comes with."""
        return [self.guidance_scale, self.eta, self.negative_prompt, self.about]

    @property
    def panel(self) -> list[gr.components.Component]:
        """What tells how far it is."""
        return [self.run, self.cancel, self.status]


class Results:
    """The drafts, the picked one beside the photo, and what can be done with it. Shown once there are some."""

    def __init__(self) -> None:
        self.drafts = gr.HTML(js_on_load=asset("board.js"), elem_id="drafts", visible=False)
        self.slider = gr.ImageSlider(
            elem_id="result",
            type="filepath",
            interactive=False,
            visible=False,
            slider_position=25,
            buttons=["fullscreen"],
        )
        with gr.Row(elem_id="actions", visible=False) as self.actions:
            self.finish = gr.Button(
                "Finish in full size", variant="primary", elem_id="finish", size="md", min_width=130
            )
            self.download = gr.DownloadButton(
                "Download PNG", variant="primary", elem_id="download", size="md", visible=False, min_width=120
            )
            self.explain = gr.Button("Explain", elem_id="explain", size="md", min_width=70)
            self.take_up = gr.Button("Its settings", elem_id="take-up", size="md", min_width=120)
            self.reuse = gr.Button("As new photo", elem_id="reuse", size="md", min_width=130)
            self.remove = gr.Button("Delete", elem_id="remove", size="md", min_width=70)
        self.figures = gr.Gallery(
            label="What the method did",
            elem_id="figures",
            columns=1,
            visible=False,
            interactive=False,
            buttons=[],
        )
        with gr.Row(elem_id="copy-row"):
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
    def pictures(self) -> list[gr.blocks.Block]:
        """What shows the drafts."""
        buttons = [self.finish, self.download, self.reuse, self.explain]
        return [self.drafts, self.slider, self.actions, *buttons, self.figures]

    @property
    def told(self) -> list[gr.components.Component]:
        """What tells about the picked one."""
        return [self.recipe, self.mask_download]


class Carriers:
    """What goes between the browser and Python and nobody sees."""

    def __init__(self) -> None:
        self.mask = gr.Textbox(visible=False)
        self.shown = gr.JSON(visible=False)
        self.mask_url = gr.Textbox(visible=False)
        self.copied = gr.Textbox(visible=False)
        self.token = gr.Textbox(visible=False)
        self.kept = gr.JSON(visible=False)


def known_things(names: Sequence[str]) -> str:
    """What a model knows, as buttons that put it into the prompt; nothing where that cannot be listed."""
    if not names:
        return ""
    chips = "".join(
        f'<button type="button" data-prompt="{"an" if name[0] in "aeiou" else "a"} {name}">{name}</button>'
        for name in map(html.escape, names)
    )
    return f'<div class="hdp-chips"><span>This model knows {len(names)} things:</span>{chips}</div>'


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
