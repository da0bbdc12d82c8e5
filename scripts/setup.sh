# Sourced by the other scripts: goes to the repository's root and, when no virtual environment is active, nor
# environment.yml's of conda, makes and enters .venv with the versions of requirements.txt. Needs Python 3.11, 3.12 or
# 3.13 and nothing else. $extras are those of pyproject.toml that are installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras=${extras:-all}
install=(pip install --constraint requirements.txt ./shims/opencv-python --editable ".[$extras]")
if [ -z "${VIRTUAL_ENV:-}" ] && [ "${CONDA_DEFAULT_ENV:-}" != hdpainter ]; then
  # Stamps, written last, say what is installed: an installation that was interrupted is made anew.
  lock=$(cksum <requirements.txt | cut -d' ' -f1)
  if ! compgen -G ".venv/$lock-*" >/dev/null; then
    for python in python3 python python3.13 python3.12 python3.11 ""; do
      ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || break
    done
    [ -n "$python" ] || { echo "Python 3.11, 3.12 or 3.13 is needed" >&2; exit 2; }
    "$python" -m venv --clear .venv
  fi
  for activate in .venv/bin/activate .venv/Scripts/activate; do # Linux and macOS, Windows
    # shellcheck disable=SC1090
    [ ! -f "$activate" ] || source "$activate"
  done
  if ! compgen -G ".venv/$lock-$extras*" >/dev/null; then
    echo "Setting up .venv with $(python -V) (once; a few minutes, about 6 GB)" >&2
    python -m "${install[@]}" --quiet --disable-pip-version-check
    touch ".venv/$lock-$extras"
  fi
fi
python -I -c 'import hdpainter' 2>/dev/null || {
  echo "The active environment ${VIRTUAL_ENV:-${CONDA_PREFIX:-}} lacks the package: deactivate it, or run in it" >&2
  echo "  $(printf '%q ' "${install[@]}")" >&2
  exit 2
}
