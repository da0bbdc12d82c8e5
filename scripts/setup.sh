# Sourced by the other scripts: goes to the repository's root and, when no virtual environment is active, nor
# environment.yml's of conda, makes and enters .venv with the pinned requirements. Needs Python 3.11 or newer and
# nothing else.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -z "${VIRTUAL_ENV:-}" ] && [ "${CONDA_DEFAULT_ENV:-}" != hdpainter ]; then
  # The stamp is written last, so that an interrupted installation is made anew.
  stamp=".venv/requirements.$(cat requirements*.txt | cksum | cut -d' ' -f1)"
  if [ ! -f "$stamp" ]; then
    python=$(command -v python3.11 || command -v python3)
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
      { echo "Python 3.11 or newer is needed; $python is $("$python" -V)" >&2; exit 2; }
    echo "Setting up .venv with $("$python" -V) (once; a few minutes, about 6 GB)" >&2
    "$python" -m venv --clear .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-mmdet.txt
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
    touch "$stamp"
  fi
  # shellcheck disable=SC1091
  source .venv/bin/activate
fi
python -c 'import hdpainter' 2>/dev/null || {
  echo "The active environment ${VIRTUAL_ENV:-${CONDA_PREFIX:-}} lacks the package: run 'pip install -r requirements.txt &&" \
    "pip install --no-deps -r requirements-mmdet.txt && pip install --no-deps -e .' in it, or deactivate it" >&2
  exit 2
}
