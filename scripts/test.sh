#!/usr/bin/env bash
# Runs the tests, in an environment of its own when none is active. Arguments go to pytest: scripts/test.sh -m slow
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
ruff check .
ruff format --check .
exec python -m pytest "$@"
