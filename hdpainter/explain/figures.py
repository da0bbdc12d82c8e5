"""The figures of an explanation: what is shown, in which order, and what is said of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from matplotlib.colors import Normalize, PowerNorm
from PIL import Image

from hdpainter.explain.observation import Explained, Observation
from hdpainter.explain.panels import (
    Bar,
    Cell,
    Panels,
    ends,
    new_figure,
    rasterize,
    readable,
    stack_pictures,
    wrapped,
)
from hdpainter.inpaint import FACTOR
from hdpainter.rasg import standardize
from hdpainter.settings import OBJECTIVES

WORDS_IN_A_ROW = 8
_OBJECTIVE_TITLES: dict[str, str] = {
    "bce": "bce: cross entropy of σ(A) and M (Eq. 9)",
    "l1": "l1: |σ(A) − M|",
    "softmax": "softmax: 1 − M's share of the softmax",
    "max": "max: 1 − the largest σ(A) inside M, worst word",
}
_LISTENING = (
    "The share that each known pixel gets, where 1 is that of a pixel if all were listened to alike, first as "
    "the block has it and then with the scores of known pixels multiplied by c (Eq. 5). Above a map: what all "
    "known pixels get together; the rest goes to the part to fill."
)

# (label, explained, index of the prediction, level, c, self-attention before and after PAIntA)
_Heard = tuple[str, "Explained", int, int, np.ndarray | None, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Plate:
    """A figure and what the page says of it."""

    title: str
    caption: str
    image: Image.Image


def draw(observation: Observation) -> dict[str, Plate]:
    """All figures by name, those that compare the methods first."""
    artist = _Artist(observation)
    traces = [explained.trace for explained in observation.methods.values()]
    plates = {
        "results": artist.results(),
        "x0": artist.filmstrip(),
        "attention": artist.attention(),
        "rasg-score": artist.score(),
        "rasg-agreement": artist.agreement(),
    }
    if any(trace.gradient is not None for trace in traces):
        plates["rasg-gradient"] = artist.gradient()
    if any(trace.c for trace in traces):
        plates["painta-c"] = artist.painta()
    plates["self-attention"] = artist.self_attention()
    for name, explained in observation.methods.items():
        if explained.trace.c:
            plates[f"self-attention-{name}"] = artist.self_attention_steps(name)
    for name in observation.methods:
        plates[f"attention-levels-{name}"] = artist.attention_levels(name)
        plates[f"attention-steps-{name}"] = artist.attention_steps(name)
    return plates


class _Artist:
    def __init__(self, observation: Observation):
        self.observation = observation
        self.methods = observation.methods
        self.panels = Panels(observation.mask)
        # The prompt's words and the end of text, which stands for the prompt as a whole.
        self.words = list(range(1, len(observation.columns) - 1))

    def results(self) -> Plate:
        size = self.observation.image.size
        pictures = [self.observation.image]
        pictures += [explained.result.image.resize(size) for explained in self.methods.values()]
        prompt = readable(shorten(self.observation.prompt, 80), "")
        title = f"Input and results{f': “{prompt}”' if prompt else ''}"
        image = self.panels.draw(
            title, [[Cell(picture) for picture in pictures]], columns=["input", *self.methods], size=2.6
        )
        return Plate(title, "The outline is that of the mask; pictures of stage 1.", image)

    def filmstrip(self) -> Plate:
        title = "Predicted x₀ over the steps"
        rows = [
            [
                Cell(picture, label=_time(explained, i))
                for i, picture in zip(explained.frames, explained.predictions, strict=True)
            ]
            for explained in self.methods.values()
        ]
        caption = "What the model takes the finished picture to be at each step, decoded."
        return Plate(title, caption, self.panels.draw(title, rows, list(self.methods)))

    def attention(self) -> Plate:
        level = self.observation.level
        title = f"Cross-attention to each word, {self._grid(level)} grid, mean of all steps"
        maps = [explained.trace.attention[level].mean(0) for explained in self.methods.values()]
        pictures = [explained.predictions[-1] for explained in self.methods.values()]
        caption = (
            "Cross-attention of the conditional half, mean over heads, layers of the grid and all steps: the "
            "share of a pixel's attention that the word gets. A column has one scale for all methods. <end> is "
            "the end-of-text token, which stands for the whole prompt."
        )
        levels = [level] * len(maps)
        return Plate(title, caption, self._word_maps(title, maps, levels, list(self.methods), pictures))

    def attention_levels(self, name: str) -> Plate:
        explained = self.methods[name]
        title = f"{name}: cross-attention to each word on every grid, mean of all steps"
        levels = list(explained.trace.attention)
        maps = [explained.trace.attention[level].mean(0) for level in levels]
        labels = [self._grid(level) for level in levels]
        pictures = [explained.predictions[-1]] + [None] * (len(levels) - 1)
        caption = (
            "Mean over heads, layers of the grid and all steps. Each map has its own scale, written above it."
        )
        return Plate(title, caption, self._word_maps(title, maps, levels, labels, pictures, True))

    def attention_steps(self, name: str) -> Plate:
        explained, level = self.methods[name], self.observation.level
        title = f"{name}: cross-attention to each word over the steps, {self._grid(level)} grid"
        maps = list(explained.trace.attention[level][explained.frames])
        labels = [_time(explained, i) for i in explained.frames]
        caption = "Mean over heads and layers of the grid, beside the predicted x₀. A column has one scale."
        levels = [level] * len(maps)
        return Plate(title, caption, self._word_maps(title, maps, levels, labels, explained.predictions))

    def score(self) -> Plate:
        title = "RASG: the score S(x_t) over the steps, by each objective"
        figure = new_figure(12, 6.4)
        figure.suptitle(title, x=0.015, ha="left", fontsize=12, weight="bold")
        places = [(0.055 + 0.325 * (i % 3), 0.545 - 0.455 * (i // 3), 0.265, 0.33) for i in range(5)]
        *panels, spread = (figure.add_axes(place) for place in places)
        plots = dict(zip(OBJECTIVES, panels, strict=True))
        for number, (name, explained) in enumerate(self.methods.items()):
            trace = explained.trace
            line = ("-", "--", "-.", ":")[number % 4]
            style: dict[str, Any] = {"label": name, "color": f"C{number}", "linestyle": line, "linewidth": 2}
            if len(trace.timesteps) == 1:  # no line goes through one point
                style["marker"] = "o"
            for objective, axes in plots.items():
                axes.plot(trace.timesteps, trace.objectives[objective], **style)
            if trace.gradient is not None:
                spread.plot(trace.timesteps, trace.gradient.reshape(len(trace.gradient), -1).std(1), **style)
        for objective, axes in plots.items():
            axes.set_title(_OBJECTIVE_TITLES[objective], fontsize=10)
        spread.set_title("standard deviation of the method's own ∇S", fontsize=10)
        for axes in (*plots.values(), spread):
            axes.set_xlabel("timestep t, from noise to picture")
            axes.invert_xaxis()
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
        names = [wrapped(name, 3) for name in self.methods]
        # All below each other, off the curves.
        size = min(10, 130 / sum(1 + name.count("\n") for name in names))
        figure.legend(
            plots["bce"].lines,
            names,
            loc="upper left",
            bbox_to_anchor=(0.7, 0.42),
            frameon=False,
            fontsize=size,
        )
        if any(np.any(np.asarray(line.get_ydata()) > 0) for line in spread.lines):
            spread.set_yscale("log")
        if not spread.lines:
            spread.remove()
        caption = (
            "S(x_t) by each objective that RASG can have (Eq. 9 is the first), for every method, also those that "
            "do not steer by it. Lower means that the prompt's tokens are attended to inside the mask. Last the "
            "standard deviation of the gradient that a method steers by, by which it is divided."
        )
        return Plate(title, caption, rasterize(figure))

    def agreement(self) -> Plate:
        title = "RASG: what the score compares with the mask"
        maps = {
            (name, level): values[explained.frames]
            for name, explained in self.methods.items()
            for level, values in explained.trace.agreement.items()
        }
        low, high = np.quantile(np.concatenate([values.ravel() for values in maps.values()]), [0, 0.995])
        scale = Normalize(low, high)
        rows = [
            [
                Cell(values, FACTOR * level, scale, label=_time(self.methods[name], i))
                for i, values in zip(self.methods[name].frames, frames, strict=True)
            ]
            for (name, level), frames in maps.items()
        ]
        labels = [f"{name}\n{self._grid(level)}" for name, level in maps]
        caption = (
            "σ(A), the sigmoid of the cross-attention scores before their softmax (Eq. 8 and 9), mean over the "
            "prompt's tokens. S is smallest where this is 1 inside the outline and 0 outside."
        )
        return Plate(
            title, caption, self.panels.draw(title, rows, labels, bars=[Bar(scale, "σ(A)", clipped=True)])
        )

    def gradient(self) -> Plate:
        title = "RASG: the gradient that takes the noise's place"
        maps = {
            name: _size_of_noise(explained.trace.gradient[explained.frames], explained.method.rasg.center)
            for name, explained in self.methods.items()
            if explained.trace.gradient is not None and explained.method.rasg is not None
        }
        scale = Normalize(0, max(float(np.quantile(values, 0.995)) for values in maps.values()))
        rows = [
            [
                Cell(values, FACTOR, scale, label=_time(self.methods[name], i))
                for i, values in zip(self.methods[name].frames, frames, strict=True)
            ]
            for name, frames in maps.items()
        ]
        caption = (
            "∇S divided by its standard deviation (Eq. 7), root mean square over the latent's channels: bright "
            "is where the step is steered. Noise would be near 1 everywhere."
        )
        bar = Bar(scale, "|∇S| / std(∇S)", clipped=True)
        return Plate(title, caption, self.panels.draw(title, rows, list(maps), bars=[bar]))

    def painta(self) -> Plate:
        title = "PAIntA: c of every pixel"
        maps = {
            (name, level): c
            for name, explained in self.methods.items()
            for level, c in explained.trace.c.items()
        }
        highest = [np.nanquantile(c, 0.995) for c in maps.values() if not np.isnan(c).all()]
        scale = Normalize(0, max(highest, default=1.0))
        rows = []
        for (name, level), c in maps.items():
            on = ~np.isnan(c).all(axis=(1, 2))
            explained, side = self.methods[name], FACTOR * level
            mean = c[on].mean(0) if on.any() else c[0]
            row = [Cell(mean, side, scale, explained.predictions[-1], "mean of the steps")]
            for i, picture in zip(explained.frames, explained.predictions, strict=True):
                label = _time(explained, i) + ("" if on[i] else ", off")
                row.append(Cell(c[i], side, scale, picture, label))
            rows.append(row)
        labels = [f"{name}\n{self._grid(level)}" for name, level in maps]
        caption = (
            "How much a pixel has to do with the prompt (Eq. 5), mean over the blocks of each grid. The pixels "
            "to fill weigh the scores of the known ones by it. Inside the outline it has no effect. It lies over "
            "the predicted x₀ of the step."
        )
        image = self.panels.draw(title, rows, labels, bars=[Bar(scale, "c", over=True, clipped=True)])
        return Plate(title, caption, image)

    def self_attention(self) -> Plate:
        title = f"Self-attention of {self._listeners}: how much it listens to each known pixel"
        rows = []
        for name, explained in self.methods.items():
            trace = explained.trace
            for level, heard in trace.self_attention.items():
                c = trace.c.get(level)
                on = np.zeros(len(heard), bool) if c is None else ~np.isnan(c).all(axis=(1, 2))
                before, after = heard[on if on.any() else slice(None)].mean(0)
                weight = c[on].mean(0) if c is not None and on.any() else None
                rows.append((f"{name}\n{self._grid(level)}", explained, -1, level, weight, before, after))
        caption = (
            "Mean over heads, blocks of the grid and the steps in which PAIntA acts (all of them for methods "
            f"without it), for {self._listeners}. {_LISTENING} Over the predicted x₀."
        )
        return Plate(title, caption, self._heard(title, rows))

    def self_attention_steps(self, name: str) -> Plate:
        explained, level = self.methods[name], min(self.methods[name].trace.self_attention)
        title = f"{name}: self-attention of {self._listeners} over the steps, {self._grid(level)} grid"
        trace = explained.trace
        rows = [
            (
                _time(explained, i),
                explained,
                number,
                level,
                None if np.isnan(trace.c[level][i]).all() else trace.c[level][i],
                *trace.self_attention[level][i],
            )
            for number, i in enumerate(explained.frames)
        ]
        caption = f"Mean over heads and blocks of the grid, for {self._listeners}. {_LISTENING}"
        return Plate(title, caption, self._heard(title, rows))

    @property
    def _listeners(self) -> str:
        pixel = self.observation.pixel
        return "the part to fill" if pixel is None else "the pixel at the cross"

    def _heard(self, title: str, rows: Sequence[_Heard]) -> Image.Image:
        """A row for each: x₀, c, and the self-attention to the known pixels without c and with it."""
        # In units of what each pixel would get if all were listened to alike.
        maps = [
            [np.where(explained.fills[level], np.nan, share * share.size) for share in (before, after)]
            for _, explained, _, level, _, before, after in rows
        ]
        highest = max(float(np.nanquantile(share, 0.995)) for pair in maps for share in pair)
        scale = PowerNorm(0.5, 0, highest)  # most pixels get little, a few at the border much
        weights = Normalize(
            0, max((float(np.quantile(row[4], 0.995)) for row in rows if row[4] is not None), default=1)
        )
        cells: list[list[Cell | None]] = []
        for (_, explained, frame, level, c, before, after), pair in zip(rows, maps, strict=True):
            picture, side, fill = explained.predictions[frame], FACTOR * level, explained.fills[level]
            cells.append([Cell(picture, mark=self.observation.pixel), None])
            if c is not None:
                cells[-1][1] = Cell(np.where(fill, np.nan, c), side, weights, picture)
            for share, values in zip((before, after), pair, strict=True):
                known = f"known pixels {share[~fill].sum():.0%}"
                cells[-1].append(Cell(values, side, scale, picture, known))
            if c is None:
                cells[-1][-1] = None  # nothing changes it
        headings = ["x₀", "c", "before PAIntA", "after PAIntA"]
        bars = [Bar(scale, "times an even share", over=True, clipped=True)]
        if any(row[4] is not None for row in rows):
            bars.append(Bar(weights, column=1, over=True))
        return self.panels.draw(title, cells, [row[0] for row in rows], headings, bars)

    def _grid(self, level: int) -> str:
        height, width = next(iter(self.methods.values())).trace.attention[level].shape[-2:]
        return f"{height} × {width}"

    def _word_maps(
        self,
        title: str,
        maps: Sequence[np.ndarray],
        levels: Sequence[int],
        labels: Sequence[str],
        pictures: Sequence[Image.Image | None],
        own_scales: bool = False,
    ) -> Image.Image:
        """Rows of a picture and the maps of every word; maps: [columns, h, w] each, on the grids of `levels`.

        A word has one scale, or with `own_scales` each map. Many words go into blocks below each other.
        """
        images = []
        blocks = -(-len(self.words) // WORDS_IN_A_ROW)
        for number, words in enumerate(np.array_split(self.words, blocks)):
            shared = {word: _range([row[word] for row in maps]) for word in words}
            cells: list[list[Cell | None]] = []
            for picture, row, level in zip(pictures, maps, levels, strict=True):
                cells.append([None if picture is None else Cell(picture)])
                for word in words:
                    scale = _range([row[word]]) if own_scales else shared[word]
                    label = _ends(scale) if own_scales else ""
                    cells[-1].append(Cell(row[word], FACTOR * level, scale, label=label))
            headings = ["x₀", *(readable(self.observation.columns[word], f"word {word}") for word in words)]
            if own_scales:
                bars = [Bar(Normalize(0, 1), ends=("lowest", "highest"))]
            else:
                bars = [Bar(scale, column=1 + i) for i, scale in enumerate(shared.values())]
            images.append(self.panels.draw("" if number else title, cells, labels, headings, bars))
        return stack_pictures(images)


def _time(explained: Explained, step: int) -> str:
    return f"t = {explained.trace.timesteps[step]}"


def _range(maps: Sequence[np.ndarray]) -> Normalize:
    return Normalize(min(values.min() for values in maps), max(values.max() for values in maps))


def _ends(scale: Normalize) -> str:
    """Both ends of a scale, to two digits of the higher one."""
    lowest, highest = ends(scale)
    decimals = max(1 - math.floor(math.log10(highest)), 0) if highest > 0 else 1
    return f"{lowest:.{decimals}f} … {highest:.{decimals}f}"


def _size_of_noise(gradient: np.ndarray, center: bool) -> np.ndarray:
    """[n, C, h, w] -> [n, h, w]: the standardised gradient's root mean square over the channels."""
    return standardize(torch.from_numpy(gradient), center).square().mean(1).sqrt().numpy()
