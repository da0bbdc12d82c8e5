#!/usr/bin/env bash
# From nothing to a table and a report: check, generate, score, table, report. reproduce_table1.sh, reproduce_table2.sh
# and reproduce_ablation.sh call it with the name of a config, reproduce_all.sh with all: table1, table2, strength
# (which guidance the sources have), ablation. Started again, it goes on where it stopped. Exit code 1: some results
# failed, and the table is of the others.
#
#   reproduce_table1.sh --mini     the miniatures that ship, on toy COCO, offline; true and other labels as prompts
#   reproduce_table1.sh            MSCOCO 2017 and the public checkpoints; true labels, as the paper
#   --prompt true|other            only this kind of prompts
#   --out DIR                      results go to DIR-true, DIR-other (default: outputs/mini or outputs/mscoco; those of
#                                  the ablation, which has its own samples, to DIR-ablation-true, ...)
#
# All other arguments go to `python -m eval check` and `generate`, such as --coco DIR, --devices cuda:0,cuda:1,
# --dtype bfloat16, --limit 16, --methods painta hd-painter. On a processor that computes in bfloat16, the fastest is
#
#   reproduce_table2.sh --mini --devices cpu,cpu --dtype bfloat16
set -euo pipefail
usage() { sed -n '2,/^set/{/^#/p;}' "${BASH_SOURCE[0]}" | cut -c3-; exit "$1"; }
absolute() { case $1 in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac; }
table=$1
shift
mini= prompts= out= devices=() rest=()
while [ $# -gt 0 ]; do
  case $1 in
    --mini) mini=mini ;;
    --prompt | --out | --coco)
      [ $# -gt 1 ] || { echo "$1 needs a value" >&2; exit 2; }
      case $1 in # paths are relative to where the script is called, not to the repository
        --prompt) prompts=$2 ;;
        --out) out=$(absolute "$2") ;;
        --coco) rest+=(--coco "$(absolute "$2")") ;;
      esac
      shift
      ;;
    --devices=*) set -- --devices "${1#*=}" "${@:2}"; continue ;;
    --devices)
      [ $# -gt 1 ] || { echo "$1 needs a value" >&2; exit 2; }
      devices=(--devices "$2") # the scores are computed there, too
      rest+=("$1" "$2")
      shift
      ;;
    --help | -h) usage 0 ;;
    *) rest+=("$1") ;;
  esac
  shift
done
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

config=${mini:+mini-}$table
out=${out:-outputs/${mini:-mscoco}}
[ "$table" != ablation ] || out=$out-ablation
failed=0
for prompt in ${prompts:-${mini:+other} true}; do
  run=$out-$prompt
  what=(--config "$config" --prompt "$prompt" --out "$run" ${rest[@]+"${rest[@]}"})
  code=0
  python -m eval changed "$run" "${what[@]}" || code=$?
  [ "$code" != 3 ] || continue # finished before, and nothing has changed since
  python -m eval check "${what[@]}"
  code=0
  finished=1
  python -m eval generate "${what[@]}" || code=$?
  case $code in
    0) ;;
    1) failed=1; finished=; echo "Some results failed; going on with the others. Start again to try them again." >&2 ;;
    *) exit "$code" ;;
  esac
  python -m eval score "$run" ${devices[@]+"${devices[@]}"}
  python -m eval table "$run" --config "$config"
  python -m eval report "$run" --config "$config" --out "$run/$table.html"
  [ -z "$finished" ] || python -m eval changed --finished "$run" "${what[@]}"
done
exit "$failed"
