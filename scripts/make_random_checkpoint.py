"""Write a checkpoint of random weights with a public checkpoint's layout, for tests and benchmarks.

python scripts/make_random_checkpoint.py --config configs/models/sd2-inpainting.yaml --dtype float16 --out FILE
"""

import argparse
from pathlib import Path

from hdpainter.models.devices import DTYPES
from hdpainter.models.random_weights import write_random_checkpoint

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--config", type=Path, required=True, metavar="YAML")
parser.add_argument("--out", type=Path, required=True, metavar="FILE.safetensors")
parser.add_argument("--dtype", choices=DTYPES, default="float32")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
write_random_checkpoint(args.config, args.out, DTYPES[args.dtype], args.seed)
print(f"{args.out}: {args.out.stat().st_size / 1e9:.2f} GB")
