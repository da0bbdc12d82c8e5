"""The paper's figures 1 to 4, on scenes that the repository draws or on pictures of one's own.

1: high-resolution results. 2: the method as a diagram. 3: what PAIntA and RASG look at in the first picture,
measured where the paper has drawings. 4: the methods that are compared, side by side.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from hdpainter.console import Parser, finish
from hdpainter.explain import explain
from hdpainter.explain.diagram import diagram
from hdpainter.explain.panels import stack_pictures
from hdpainter.files import make_folder
from hdpainter.images import load_image, load_mask, save_png
from hdpainter.jobs.job_files import read_jobs
from hdpainter.jobs.progress import Progress
from hdpainter.mini.examples import detail, example, outlined, sheet
from hdpainter.models.registry import DEFAULT_MODEL, PipelineSpec
from hdpainter.pipeline import HDPainter, Result
from hdpainter.settings import Method
from ldm.util import UserError

COMPARED = {
    "hd-painter": {
        "bld": "BLD (inpainting UNet, full mask)",
        "stable-inpainting": "Stable Inpainting",
        "hd-painter": "HD-Painter",
    },
    "bld-hd-painter": {
        "bld": "BLD",
        "bld-painta": "PAIntA",
        "bld-rasg": "RASG",
        "bld-hd-painter": "HD-Painter",
    },
}
ATTENTION = (
    "self-attention",
    "rasg-agreement",
    "rasg-gradient",
    "x0",
)  # of Fig. 3, as `hdpainter explain` has them


@dataclass(frozen=True)
class Subject:
    """A picture RGB uint8 [H, W, 3], its mask uint8 [H, W] with 255 = fill, and what is to be painted there."""

    picture: np.ndarray
    mask: np.ndarray
    prompt: str
    seed: int


def main(words: list[str]) -> None:
    """Make the figures that are asked for."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pictures", type=Path, help="a list of jobs or a folder, as hdpainter batch takes it"
    )
    parser.add_argument("--count", type=int, default=3, help="how many of them (default: 3)")
    parser.add_argument("--figures", type=int, nargs="+", choices=(1, 2, 3, 4), default=[1, 2, 3, 4])
    parser.add_argument("--model", default=DEFAULT_MODEL, help=f"default: {DEFAULT_MODEL}")
    parser.add_argument("--steps", type=int, help="of stage 1 (default: the methods')")
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("--out", type=Path, default=Path("outputs/figures"))
    args = parser.parse_args(words)
    if not 1 <= args.count <= 100:
        raise UserError(f"--count is {args.count}: give a number from 1 to 100")
    spec = PipelineSpec.load(args.model)
    titles = COMPARED.get(spec.method)
    if titles is None:
        raise UserError(
            f"--model {args.model} paints by {spec.method}: the figures are of hd-painter's models"
        )
    subjects = _subjects(args.pictures, args.count, spec)
    methods = {name: _method(name, args.steps) for name in titles}
    make_folder(args.out)
    painter = HDPainter.from_config(spec, args.device, args.dtype)

    made = [spec.method] if {1, 2} & set(args.figures) else []
    made = list(titles) if 4 in args.figures else made
    with Progress(len(made) * len(subjects)) as progress:
        results = {name: [_paint(painter, one, methods[name], progress) for one in subjects] for name in made}
    for number in sorted(set(args.figures)):
        if number == 1:
            figure = _results(subjects, results[spec.method])
        elif number == 2:
            figure = _diagram(subjects[0], results[spec.method][0])
        elif number == 3:
            figure = _attention(painter, subjects[0], methods[spec.method])
        else:
            figure = _comparison(subjects, {titles[name]: results[name] for name in titles})
        save_png(figure, args.out / f"fig{number}.png")
        print(args.out / f"fig{number}.png")


def _subjects(source: Path | None, count: int, spec: PipelineSpec) -> list[Subject]:
    if source is None:
        return [Subject(*example(number, spec.max_size), number) for number in range(count)]
    file = read_jobs(source)
    if file.problems:
        raise UserError(f"{source}: {file.problems[0]}")
    subjects = []
    for job in file.jobs[:count]:
        if job.mask is None:
            raise UserError(f"{job.where}: the figures need a mask")
        picture = load_image(job.image)
        mask = np.where(load_mask(job.mask, picture.size) > 127, np.uint8(255), np.uint8(0))
        subjects.append(Subject(np.array(picture), mask, job.prompt, job.settings.seed))
    return subjects


def _method(name: str, steps: int | None) -> Method:
    return Method.load(name).override({} if steps is None else {"sampler.steps": steps})


def _paint(painter: HDPainter, one: Subject, method: Method, progress: Progress) -> Result:
    progress.start(f"{method.name}: {one.prompt}")
    result = painter(one.picture, one.mask, one.prompt, method=method, seed=one.seed, progress=progress.step)
    progress.finish(method.name, 1)
    return result


def _results(subjects: list[Subject], results: list[Result]) -> Image.Image:
    """Fig. 1: input, result, and the fill at full resolution."""
    rows = [
        [
            _square(outlined(one.picture, one.mask)),
            _square(np.array(made.image)),
            detail(np.array(made.image), one.mask),
        ]
        for one, made in zip(subjects, results, strict=True)
    ]
    return sheet(("input and mask", "result", "detail"), rows, _captions(subjects), cell=480)


def _diagram(one: Subject, made: Result) -> Image.Image:
    """Fig. 2."""
    picture, mask = _square(one.picture), _square(one.mask, 0) > 0
    low, result = _square(np.array(made.low_res)), _square(np.array(made.image))
    return diagram(Image.fromarray(picture), mask, Image.fromarray(low), Image.fromarray(result), one.prompt)


def _attention(painter: HDPainter, one: Subject, method: Method) -> Image.Image:
    """Fig. 3: (a) whom the fill listens to, with PAIntA and without; (b) what RASG follows, and x₀ with it."""
    figures = explain(painter, one.picture, one.mask, one.prompt, [method], one.seed, frames=5).figures
    return stack_pictures([figures[name] for name in ATTENTION if name in figures])


def _comparison(subjects: list[Subject], results: dict[str, list[Result]]) -> Image.Image:
    """Fig. 4: a row for each picture, a column for each method."""
    rows = [
        [
            _square(outlined(one.picture, one.mask)),
            *(_square(np.array(made[i].image)) for made in results.values()),
        ]
        for i, one in enumerate(subjects)
    ]
    return sheet(("input and mask", *results), rows, _captions(subjects))


def _captions(subjects: list[Subject]) -> list[str]:
    return [f'"{one.prompt}"' for one in subjects]


def _square(pixels: np.ndarray, fill: int = 255) -> np.ndarray:
    """The picture in the middle of a square of its longer side."""
    height, width = pixels.shape[:2]
    side = max(height, width)
    out = np.full((side, side, *pixels.shape[2:]), fill, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    out[top : top + height, left : left + width] = pixels
    return out


if __name__ == "__main__":
    sys.exit(finish("figures", None, main))
