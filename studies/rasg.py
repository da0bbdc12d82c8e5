"""What RASG puts in the place of noise, against white noise, and what becomes of it, for several eta.

    python -m studies.rasg RUN                      # a results folder of `python -m eval generate`
    python -m studies.rasg RUN --samples 16 --variants hd-painter-printed,eta=0.1 hd-painter

Eq. 7 gives the gradient of S the variance of the noise that it replaces. A sampler also relies on that noise
being independent from step to step and from pixel to pixel; the table says how far the gradient is from that:

    along     cosine between the directions of neighbouring steps, inside the mask (noise: 0)
    across    correlation of horizontal neighbours in the direction, inside the mask (noise: 0)
    inside    standard deviation of the direction inside the mask (noise: 1)
    spread    standard deviation of the last predicted latents inside the mask (the original picture's: first row)
    S         Eq. 9 in the last step, in per cent of its value under Stable Inpainting

The means over samples, for the first and the second half of the steps where there are two values.
"""

import argparse
import dataclasses
import sys

import numpy as np
import torch
from tqdm import tqdm

from eval.runs import Run
from hdpainter.console import Parser, finish
from hdpainter.explain import explain
from hdpainter.mini.training.base import to_tensor
from hdpainter.pipeline import HDPainter
from hdpainter.rasg import standardize
from hdpainter.settings import Method
from ldm.util import UserError

BASELINE = "stable-inpainting"
VARIANTS = [*(f"hd-painter-printed,eta={eta}" for eta in (0.02, 0.05, 0.1, 0.25)), "hd-painter"]


def variant(text: str) -> Method:
    """The method of "NAME" or "NAME,eta=VALUE", with that as its name."""
    name, _, eta = text.partition(",eta=")
    method = Method.load(name)
    if not eta:
        return method
    try:
        value = float(eta)
    except ValueError:
        raise UserError(f"--variants {text}: eta must be a number") from None
    return dataclasses.replace(method.override({"sampler.eta": value}), name=text)


def halves(values: np.ndarray) -> np.ndarray:
    """Means over the first and the second half of the steps."""
    return np.array([part.mean() for part in np.array_split(values, 2)])


def directions(gradient: np.ndarray, inside: np.ndarray) -> dict[str, np.ndarray]:
    """The figures of the standardised gradient [n, C, h, w] within `inside` [h, w]."""
    d = standardize(torch.from_numpy(gradient)).numpy()
    filled = d[:, :, inside]
    norm = np.sqrt((filled**2).sum((1, 2)))
    along = (filled[1:] * filled[:-1]).sum((1, 2)) / (norm[1:] * norm[:-1])
    pairs = inside[:, 1:] & inside[:, :-1]
    left, right = d[..., :-1][:, :, pairs], d[..., 1:][:, :, pairs]
    across = (left * right).sum((1, 2)) / np.sqrt((left**2).sum((1, 2)) * (right**2).sum((1, 2)))
    return {"along": halves(along), "across": halves(across), "inside": halves(filled.std((1, 2)))}


def study(painter: HDPainter, run: Run, samples: int, variants: list[Method]) -> dict[str, dict]:
    """{variant: {figure: mean over the samples}}, with the original's spread as "original"."""
    model, rows = painter.models.inpainting, {}
    for sample in tqdm(run.triplets[:samples], unit="sample"):
        image, mask = run.image_path(sample.index), run.mask_path(sample.index)
        found = explain(
            painter, image, mask, sample.prompt, [Method.load(BASELINE), *variants], seed=sample.index
        ).methods
        base = found[BASELINE].trace
        grid = torch.from_numpy(run.mask(sample.index)).float()[None, None]
        inside = torch.nn.functional.interpolate(grid, base.pred_x0.shape[-2:])[0, 0].numpy() > 0
        with torch.no_grad():
            known = model.get_first_stage_encoding(
                model.encode_first_stage(to_tensor(run.image(sample.index)[None]).to(model.device))
            )
        rows.setdefault("original", []).append({"spread": known[0].cpu().numpy()[:, inside].std()})
        for name, explained in found.items():
            trace = explained.trace
            figures = {
                "spread": trace.pred_x0[-1][:, inside].std(),
                "S": 100 * trace.objectives["bce"][-1] / base.objectives["bce"][-1],
            }
            if trace.gradient is not None:
                figures |= directions(trace.gradient, inside)
            rows.setdefault(name, []).append(figures)
    return {
        name: {key: np.mean([row[key] for row in found], 0) for key in found[0]}
        for name, found in rows.items()
    }


def main(argv: list[str]) -> int:
    """Print the table."""
    parser = Parser(
        prog="python -m studies.rasg",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="results folder, for its samples")
    parser.add_argument("--samples", type=int, default=12, help="the first N (default: %(default)s)")
    parser.add_argument("--variants", nargs="+", default=VARIANTS, metavar="METHOD[,eta=X]")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--device")
    args = parser.parse_args(argv)
    run, variants = Run.open(args.run), [variant(text) for text in args.variants]
    painter = HDPainter.from_config(args.model, args.device, superres=False)
    table = study(painter, run, args.samples, variants)
    columns = ["along", "across", "inside", "spread", "S"]
    print(f"| {' | '.join(['variant', *columns])} |\n|{'---|' * (len(columns) + 1)}")
    for name, figures in table.items():
        cells = [
            ", ".join(f"{x:.2f}" for x in np.atleast_1d(figures[c])) if c in figures else "" for c in columns
        ]
        print(f"| {' | '.join([name, *cells])} |")
    return 0


if __name__ == "__main__":
    sys.exit(finish("studies.rasg", None, main))
