#!/usr/bin/env bash
# Runs the tests, in an environment of its own when none is active. Arguments go to pytest: scripts/test.sh -m slow
extras=all,dev
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
ruff check .
ruff format --check .
mypy
# One thread a worker: several workers with several threads each wait for one another most of the time.
export OMP_NUM_THREADS=1
# The many processes that tests start compile what they import once, not each for itself.
unset PYTHONDONTWRITEBYTECODE
# Files go to workers in parts: those that take longest are not those of most tests, which come first otherwise.
exec python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal "$@"
