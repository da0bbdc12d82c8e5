#!/usr/bin/env bash
# Trains the miniature models from nothing into checkpoints/mini/. Run it again to go on where it stopped.
# On 2 CPU cores all stages take about 4 hours; on a GPU the configs' `gpu` settings apply, half an hour in all.
#   scripts/train_mini.sh [stage ...]     default: all but mini-rtmdet, which needs mmdet
#                                         (pip install mmdet mmengine mmcv-lite==2.1.0)
set -euo pipefail
cd "$(dirname "$0")/.."

# glibc would give every large buffer back to the system and fetch it anew: more than half of the time.
export MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=67108864
# Several processes with one thread each are faster than one process with several threads, which would spin.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" OMP_WAIT_POLICY=passive

python="${PYTHON:-python}"
stages=("$@")
[ ${#stages[@]} -gt 0 ] || stages=(mini-autoencoder-f8 mini-clip mini-inpainting mini-autoencoder-f4 mini-upscaler)
mkdir -p checkpoints/mini
for stage in "${stages[@]}"; do
    if [ -f "runs/$stage/model.json" ]; then
        echo "$stage is finished (runs/$stage/model.json)"
    else
        "$python" -m ldm.train "configs/train/$stage.yaml" --run-dir "runs/$stage"
    fi
    case "$stage" in
        mini-inpainting | mini-upscaler | mini-rtmdet)
            cp "runs/$stage/model.safetensors" "checkpoints/mini/$stage.safetensors"
            cp "runs/$stage/model.json" "checkpoints/mini/$stage.json"
            "$python" -m ldm.training.card checkpoints/mini
            ;;
    esac
done
