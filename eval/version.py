"""Which version of this code is running, for the record of what it makes."""

import functools
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@functools.cache
def code_version() -> str:
    """The commit, with "-dirty" where files differ from it; "unknown" where there is no repository."""
    if not (ROOT / ".git").exists():  # nor that of somebody who has this in a subfolder
        return "unknown"
    words = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"
