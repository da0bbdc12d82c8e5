#!/usr/bin/env bash
# Every table, one after the other; started again, it goes on where it stopped. See reproduce.sh for the arguments:
#
#   reproduce_all.sh --mini          the miniatures, on toy COCO; true and other labels as prompts
#   reproduce_all.sh                 MSCOCO 2017 and the public checkpoints
set -euo pipefail
failed=0
for table in table2 table1 strength ablation; do
  code=0
  bash "$(dirname "${BASH_SOURCE[0]}")/reproduce.sh" "$table" "$@" || code=$?
  [ "$code" -le 1 ] || exit "$code"
  [ "$code" -eq 0 ] || failed=1
done
exit "$failed"
