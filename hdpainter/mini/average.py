"""Average of a training's weights, of a length chosen later: `python -m hdpainter.mini.average RUN --out FILE`.

The trainer's `averages` must have been set, so that snapshots of some lengths are in RUN/snapshots; see
`hdpainter.mini.training.averages`.
"""

import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from hdpainter.console import Parser, finish
from hdpainter.files import replacing
from hdpainter.mini.training.averages import shares
from ldm.checkpoint import read_state_dict
from ldm.util import UserError


def combine(snapshots: Path, length: float, step: int | None = None) -> dict[str, Tensor]:
    """The average of `length` at `step` (the last one if None) of the network whose snapshots are in a folder.

    The tensors are float32. Raises UserError where there is no snapshot of this step.
    """
    found = []
    for path in sorted(snapshots.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            facts = file.metadata()
        found.append((float(facts["length"]), int(facts["step"]), path))
    if not found:
        raise UserError(f"{snapshots} has no snapshots; the trainer's `averages` say which are kept")
    there = sorted({at for _, at, _ in found})
    step = there[-1] if step is None else step
    if step not in there:
        raise UserError(
            f"{snapshots} has no snapshot of step {step}; there are those of {', '.join(map(str, there))}"
        )
    lengths, steps, paths = zip(*(entry for entry in found if entry[1] <= step), strict=True)
    total: dict[str, Tensor] = {}
    for path, share in zip(paths, shares(lengths, steps, length, step), strict=True):
        for name, tensor in read_state_dict(path).items():
            total[name] = total.get(name, 0) + float(share) * tensor.float()
    return total


def main(argv: list[str]) -> None:
    """Write a whole model, the UNet of which is such an average."""
    parser = Parser(prog="python -m hdpainter.mini.average", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument(
        "--length", type=float, required=True, help="relative to the steps so far, up to 0.28"
    )
    parser.add_argument("--step", type=int, help="the last step that counts (default: of the last snapshot)")
    parser.add_argument("--rest", type=Path, required=True, help="a whole model whose other parts are taken")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors to write")
    args = parser.parse_args(argv)
    if not 0 < args.length <= 0.28:
        raise UserError(f"--length {args.length}: must be above 0 and at most 0.28")
    model = dict(read_state_dict(args.rest))
    network = {
        f"model.{name}": v for name, v in combine(args.run / "snapshots", args.length, args.step).items()
    }
    if other := sorted(set(network) - set(model)):
        raise UserError(f"{args.rest} has no {other[0]}: it is not a model with such a UNet")
    state = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in (model | network).items()
    }
    with replacing(args.out) as part:
        save_file(
            {name: tensor.contiguous() for name, tensor in state.items()}, part, metadata={"format": "pt"}
        )
    print(args.out)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    sys.exit(finish("mini.average", None, main))
