"""Consoles that cannot show every character."""

import os
import subprocess
import sys

import pytest

from ldm.util import CONFIGS

PRINTS = """
import sys
from hdpainter.console import finish
sys.exit(finish("x", [], lambda words: print("猫 é done") or print("Žluť", file=sys.stderr)))
"""


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_what_a_console_cannot_show_is_no_failure(encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(CONFIGS.parent)}
    done = subprocess.run([sys.executable, "-c", PRINTS], capture_output=True, env=environment)
    assert done.returncode == 0
    shown = {"ascii": "\\u732b \\xe9 done", "cp1252": "\\u732b é done", "utf-8": "猫 é done"}
    assert done.stdout.decode(encoding).strip() == shown[encoding]


@pytest.mark.parametrize("program", ["hdpainter", "eval"])
def test_no_command_fails_for_a_character(tmp_path, program):
    """The commands themselves, on their way through `finish`: a mistake stays exit code 2, and is one line."""
    words = {
        "hdpainter": ["batch", "猫.yaml"],
        "eval": ["triplets", "--coco", "猫", "--samples", "1", "--out", "x"],
    }[program]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict", "PYTHONPATH": str(CONFIGS.parent)}
    command = [sys.executable, "-m", program, *words]
    done = subprocess.run(command, capture_output=True, env=environment, cwd=tmp_path)
    assert done.returncode == 2
    assert b"\\u732b" in done.stderr and done.stderr.count(b"\n") == 1
