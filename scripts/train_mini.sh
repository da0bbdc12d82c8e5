#!/usr/bin/env bash
# Trains the miniature models from nothing into checkpoints/mini/. Run it again to go on where it stopped.
# On 2 CPU cores all stages take about 6 hours. On a GPU the configs' `gpu` settings apply, by which they take about 35
# minutes; of these only mini-inpainting-2 has been run on one.
#   scripts/train_mini.sh [stage ...]     default: all but mini-inpainting-3, which takes about five hours more
#   scripts/train_mini.sh --resume        goes on with what was begun and is not finished, with low priority
# RUNS names another folder than runs/ for checkpoints and logs.
# It takes an environment of its own when none is active; PYTHON names an interpreter that has all it needs instead.
if [ -z "${PYTHON:-}" ]; then
    source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
else
    set -euo pipefail
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
fi

# glibc would give every large buffer back to the system and fetch it anew: more than half of the time.
export MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=67108864
# Several processes with one thread each are faster than one process with several threads, which would spin.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" OMP_WAIT_POLICY=passive

python="${PYTHON:-python}" runs="${RUNS:-runs}"
mkdir -p checkpoints/mini "$runs"

train() {
    local stage
    for stage in "$@"; do
        if [ -f "$runs/$stage/model.json" ]; then
            echo "$stage is finished ($runs/$stage/model.json)"
        else
            "$python" -m hdpainter.mini.train "configs/train/$stage.yaml" --run-dir "$runs/$stage"
        fi
        case "$stage" in
            mini-inpainting-2 | mini-upscaler | mini-rtmdet)
                local model="checkpoints/mini/${stage%-2}"
                cp "$runs/$stage/model.safetensors" "$model.safetensors"
                cp "$runs/$stage/model.json" "$model.json"
                rm -f "$model.safetensors.sha256" # the hash of what was there before
                ;;
        esac
    done
}

# The first stage in the background, the others meanwhile. Whatever ends this script stops the background stage too.
background=
# Until it is gone: a shell that is just starting a process may miss the signal.
trap 'while [ -n "$background" ] && kill -- "-$background" 2>/dev/null; do sleep 0.2; done' EXIT
train_beside() {
    set -m # a process group of its own, so that it can be stopped with all that it started
    train "$1" &
    background=$!
    set +m
    train "${@:2}"
    wait "$background"
    background=
}

if [ "${1:-}" = --resume ]; then
    begun=()
    for config in "$runs"/*/config.yaml; do
        stage="$(basename "$(dirname "$config")")"
        if [ -f "configs/train/$stage.yaml" ] && [ ! -f "$runs/$stage/model.json" ]; then begun+=("$stage"); fi
    done
    if [ ${#begun[@]} -eq 0 ]; then
        echo "$runs has no training that was begun and is not finished" >&2
        exit 2
    fi
    renice -n 10 $$ >/dev/null
    train "${begun[@]}"
elif [ $# -gt 0 ]; then
    train "$@"
elif "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    train mini-autoencoder-f8 mini-decoder-f8 mini-clip mini-inpainting mini-inpainting-2
    train mini-autoencoder-f4 mini-upscaler mini-rtmdet
else
    # One core for each line of stages, both for the last one: two processes of one model take 1.2 times as long a step.
    train_beside mini-autoencoder-f8 mini-clip mini-autoencoder-f4
    train_beside mini-upscaler mini-decoder-f8 mini-rtmdet
    train mini-inpainting mini-inpainting-2
fi
"$python" -m hdpainter.mini.card checkpoints/mini
