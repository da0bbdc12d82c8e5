#!/usr/bin/env bash
# The paper's figures 1 to 4, on scenes that the repository draws and the miniatures, or on pictures of one's own:
#
#   reproduce_figures.sh                               outputs/figures/fig1.png ... fig4.png
#   reproduce_figures.sh --model sd2 --pictures DIR    a folder or a list of jobs, as `hdpainter batch` takes it
#
# All arguments go to scripts/figures.py: reproduce_figures.sh --help
set -euo pipefail
words=() path=
for word in "$@"; do # paths are relative to where the script is called, not to the repository
  case $path$word in
    path/*) path= ;;
    path*) word=$PWD/$word path= ;;
    --pictures | --out) path=path ;;
  esac
  words+=("$word")
done
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec python scripts/figures.py ${words[@]+"${words[@]}"}
