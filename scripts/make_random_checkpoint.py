"""Write a checkpoint of random weights with a public checkpoint's layout, for tests and benchmarks.

python scripts/make_random_checkpoint.py --config configs/models/sd2-inpainting.yaml --dtype float16 --out FILE
"""

import argparse
import sys
from pathlib import Path

from hdpainter.console import Parser, finish
from hdpainter.files import make_folder
from hdpainter.models.devices import dtype_named
from hdpainter.models.random_weights import write_random_checkpoint


def main(argv: list[str]) -> None:
    """Write it and say how large it is."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, metavar="YAML")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.safetensors")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    dtype = dtype_named(args.dtype)
    make_folder(args.out.parent)
    write_random_checkpoint(args.config, args.out, dtype, args.seed)
    print(f"{args.out}: {args.out.stat().st_size / 1e9:.2f} GB")


if __name__ == "__main__":
    sys.exit(finish("make_random_checkpoint", None, main))
