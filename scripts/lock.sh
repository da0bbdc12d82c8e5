#!/usr/bin/env bash
# Writes requirements.txt: the versions of the active environment. To move to newer ones, make a fresh environment:
#
#   python3.11 -m venv /tmp/fresh && source /tmp/fresh/bin/activate
#   pip install ./shims/opencv-python -e '.[all,dev,docs]'
#   bash scripts/lock.sh
#
# Then run the tests, and let other versions of Python try the file: pip install --dry-run with the words of setup.sh.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
{
  sed -n '/^#/p; /python_version/p' requirements.txt # what only other versions of Python need is kept
  python -m pip freeze --all --exclude-editable --exclude pip --exclude opencv-python |
    sed -E '/^(cuda|nvidia|triton)/s/$/; sys_platform == "linux"/'
} >requirements.new
mv requirements.new requirements.txt
