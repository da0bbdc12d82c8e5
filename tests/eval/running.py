"""Runs of configs that tests make."""

import io
from pathlib import Path

from eval.config import Config
from eval.generate import generate
from eval.runs import Run

BASE = {"stable-inpainting": {"steps": 2}}


def made(path: Path, **options) -> tuple[Run, str]:
    """The run of a config, and what was said."""
    said = io.StringIO()
    options = {"devices": ["cpu"], **options}
    run = generate(Config.load(path), stream=said, **options).run
    return run, said.getvalue()
