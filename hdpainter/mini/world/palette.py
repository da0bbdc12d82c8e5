"""Named colours, as captions call them, and the colours of materials."""

from collections.abc import Sequence

import numpy as np

from hdpainter.mini.world.canvas import Colour, jitter

PALETTE: dict[str, Colour] = {
    "red": (214, 48, 49), "orange": (240, 140, 40), "yellow": (250, 208, 60), "green": (60, 160, 75),
    "blue": (50, 110, 205), "purple": (140, 80, 180), "pink": (240, 140, 180), "white": (240, 240, 236),
    "black": (48, 48, 54), "brown": (140, 92, 55), "teal": (40, 165, 165), "gray": (140, 146, 152),
}  # fmt: skip
PAINTS = ("red", "blue", "green", "yellow", "white", "purple", "orange", "teal")
GLASS, GLASS_DARK = (176, 218, 238), (120, 170, 200)
RUBBER, STEEL, INK, CREAM = (40, 40, 45), (196, 198, 204), (42, 40, 46), (246, 244, 236)
WOOD, LEAF, CHEESE, CRUST, TOMATO = (
    (112, 76, 48),
    (74, 152, 62),
    (246, 202, 96),
    (196, 130, 66),
    (190, 55, 45),
)


def pick(rng: np.random.Generator, names: Sequence[str]) -> tuple[str, Colour]:
    """A colour word from `names` and a slightly varied colour for it."""
    name = names[int(rng.integers(len(names)))]
    return name, jitter(rng, PALETTE[name])


def other(rng: np.random.Generator, names: Sequence[str], taken: str) -> Colour:
    """A colour from `names` that is not called `taken`."""
    return pick(rng, [n for n in names if n != taken])[1]
