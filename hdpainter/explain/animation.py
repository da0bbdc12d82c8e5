"""The predicted pictures of all methods, side by side, from the first step to the last."""

from pathlib import Path

from PIL import Image

from hdpainter.explain.observation import Explained, Observation
from hdpainter.explain.panels import Cell, Panels
from hdpainter.files import replacing

FRAME, LAST_FRAME = 350, 2500  # milliseconds


def animate(observation: Observation) -> list[Image.Image]:
    """One picture for each of the steps that the figures show: the predicted x_0 of every method, decoded."""
    panels = Panels(observation.mask)
    methods = observation.methods
    count = max(len(explained.frames) for explained in methods.values())
    return [
        panels.draw("", [[_cell(methods[name], frame) for name in methods]], columns=list(methods), size=2.6)
        for frame in range(count)
    ]


def _cell(explained: Explained, frame: int) -> Cell:
    shown = min(frame, len(explained.frames) - 1)  # one of fewer steps stays as it ended
    time = explained.trace.timesteps[explained.frames[shown]]
    return Cell(explained.predictions[shown], label=f"t = {time}")


def save_gif(pictures: list[Image.Image], path: Path) -> None:
    """Write pictures of one size as an animation that is repeated for ever and rests at its end."""
    # The palette of the last, which has all colours; without dithering, which would flicker and be large.
    palette = pictures[-1].quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    first, *others = (picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures)
    times = [FRAME] * len(others) + [LAST_FRAME]
    with replacing(path) as part:
        first.save(part, save_all=True, append_images=others, duration=times, loop=0, optimize=True)
