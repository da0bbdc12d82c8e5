#!/usr/bin/env bash
# Super-resolution with and without Eq. 10, against a bicubic filter and the autoencoder's own limit, on toy COCO; see
# python -m studies.superres --help for its arguments, such as --scenes 24, --model sd2, --device cuda.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
python -m studies.superres "$@"
