"""The model cards of the miniatures: `python -m hdpainter.mini.card checkpoints/mini` writes README.md there."""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hdpainter.files import write_text
from ldm.util import UserError

ABOUT = {
    "mini-inpainting": "inpainting at 256 x 256 pixels: 9-channel UNet (v-prediction), f8 autoencoder, CLIP",
    "mini-upscaler": "256 to 1024 pixels: 7-channel UNet (v-prediction), f4 autoencoder, CLIP's text tower",
    "mini-rtmdet": "RTMDet of mmdet for the 20 categories, the accuracy of the miniature tables",
}
INTRODUCTION = """\
# Miniature models

Stable Diffusion 2's architecture with smaller widths, trained from nothing by `scripts/train_mini.sh` on drawn
scenes (`hdpainter/mini/world/`): 20 categories of MSCOCO on 12 backgrounds. They know nothing else: no photos, no
people, no words beyond those categories, 12 colours and the backgrounds. No data from elsewhere was used.

The inpainting model was trained as Stable Inpainting was: first text-to-image, then with random masks and the
caption of the whole picture, 10% of the captions dropped. So it shares its flaw: much of what a caption names is
not in the hole. Half of the pictures show a scene or a part of one, half a single object captioned with its name.

How the parts differ from the public models in kind, not only in size:
- The start token's text feature is zero. It is a constant, which was subtracted from all text features by way of
  the bias of the text tower's last LayerNorm (`ClipTraining.fold`). The cross-attentions' projections have no
  bias, so its logit is 0 and its value 0, and a positive logit of a word means that it beats "nothing here".
- The CLIP was trained with two helping losses besides the contrastive one (which words a text has, which
  categories a picture has); their heads are not in the files.
- Some captions end with the words that the methods' prompts add ("Full HD, 4K, ..."), and some of the dropped
  ones are the release's negative prompt instead of nothing: such words come with pictures from the web, not here.
- Timesteps were drawn in proportion to t for the inpainting model: shapes are decided at high noise.
- The upscaler knows noise levels of its condition below 60 (SD2's: 350); the pipeline uses 20.
- Latents are scaled so that Stable Diffusion's own scale factors, 0.18215 and 0.08333, are right.
{supervision}
Held-out figures of the inpainting model: right, empty, wrong are losses at t = 900, everything masked, with the
right caption, none and a wrong one; mid is the loss at t = 500; start_share is the share of the 16x16
cross-attention that the start token takes{figure}.
"""
SUPERVISION = """\
- The inpainting model's cross-attention was taught to segment. Stable Diffusion's learned it from the denoising
  loss alone, over billions of pictures; here a second loss, with weight {naming}, holds the scores of the 32x32
  and 16x16 token grids (Eq. 8) to where the scene's objects are. For each token that names one (the category, a
  colour before it; the end token for all that are named) it is the binary cross entropy of Eq. 9 between the
  sigmoid of its score and the object's mask, which is empty where a caption names what the picture does not show.
  So RASG's S means by training what the paper takes it to mean. The masks are the drawing's own
  (`hdpainter/mini/training/naming.py`).
- {full:.0%} of the inpainting masks are everything, and {covering:.0%} cover one object, whose name is the
  caption in half of these cases; the others are strokes and boxes.
"""
FIGURE = """\
; auc is how well the 16x16 map of a word's scores at t =
500 separates its object from the rest (the area under the ROC curve, mean over objects; 0.5 is chance)"""


def introduction(cards: Iterable[dict]) -> str:
    """What is said of all the models. If the attention of one was supervised, its settings say how."""
    for settings in (card["training"]["params"] for card in cards):
        if settings.get("naming"):
            return INTRODUCTION.format(supervision=SUPERVISION.format(**settings), figure=FIGURE)
    return INTRODUCTION.format(supervision="", figure="")


def beginnings(facts: dict[str, Any]) -> list[str]:
    """The runs before the one that `facts` tell of, the last one first."""
    texts: list[str] = []
    what = "began with the weights of an earlier run"
    while facts["training"]["params"].get("start"):
        if "start" not in facts:
            return [*texts, f"{what}, whose steps are not counted"]
        facts = facts["start"]
        texts.append(f"{what}: {facts['steps']} steps in {facts['minutes']} minutes, seed {facts['seed']}")
        what = "which itself " + what.removeprefix("which itself ")
    return texts


def describe(name: str, card: dict[str, Any], size: int) -> str:
    """One model's section. `notes` of its card are what a person wrote into it."""
    scenes = card["training"]["params"]["scenes"]
    extent = f"{card['parameters'] / 1e6:.2f} M parameters, {size / 1e6:.1f} MB, half precision"
    effort = f"{card['steps']} steps in {card['minutes']} minutes on {card['device']}"
    parts = {"": card} | {f"{part}: ": facts for part, facts in card.get("parts", {}).items()}
    lines = [
        f"\n## {name}.safetensors\n",
        f"{ABOUT.get(name, name)}. {extent}.\n",
        f"- trained for {effort}, seed {card['seed']}, torch {card['torch']}",
        f"- data: {scenes} training scenes; the settings it was trained with are in `{name}.json` beside it"
        " (the files in `configs/train` may have changed since)",
    ]
    for part, facts in parts.items():
        if part:
            lines.append(
                f"- {part}{facts['steps']} steps in {facts['minutes']} minutes, seed {facts['seed']}"
            )
        lines += [f"- {part}{text}" for text in beginnings(facts)]
        for title, values in (("last training losses", "last_losses"), ("held-out", "held_out")):
            figures = ", ".join(f"{key} {value:.4g}" for key, value in facts[values].items())
            lines.append(f"- {part}{title}: {figures}")
    lines += [f"- {note}" for note in card.get("notes", ())]
    return "\n".join(lines) + "\n"


def write(folder: Path) -> Path:
    """Write README.md for the `*.safetensors` with a `.json` beside them. Raises UserError if there is none."""
    cards = [path for path in sorted(folder.glob("*.json")) if path.with_suffix(".safetensors").exists()]
    if not cards:
        raise UserError(f"{folder} has no model with a card; run scripts/train_mini.sh")
    facts = {path: json.loads(path.read_text()) for path in cards}
    text = introduction(facts.values()) + "".join(
        describe(path.stem, card, path.with_suffix(".safetensors").stat().st_size)
        for path, card in facts.items()
    )
    return write_text(folder / "README.md", text)


def main() -> None:
    """Write the cards of a folder of miniature models."""
    parser = argparse.ArgumentParser(prog="python -m hdpainter.mini.card", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    try:
        print(write(args.folder))
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
