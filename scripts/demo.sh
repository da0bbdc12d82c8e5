#!/usr/bin/env bash
# The main job on pictures that the repository draws itself, in an environment of its own when none is active.
# Arguments go to scripts/demo.py: scripts/demo.sh --help
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec python scripts/demo.py "$@"
