"""The version of this package."""

import tomllib
from importlib import metadata

from ldm.util import CONFIGS


def _version() -> str:
    """That of the checkout, which may run uninstalled or beside an older installation; else the installed one."""
    pyproject = CONFIGS.parent / "pyproject.toml"
    if pyproject.is_file():
        return tomllib.loads(pyproject.read_text("utf-8"))["project"]["version"]
    return metadata.version("hdpainter-ldm")


__version__ = _version()
