"""The version of this package, and of what it depends on."""

import platform
import tomllib
from contextlib import suppress
from importlib import metadata

from ldm.util import CONFIGS


def _version() -> str:
    """That of the checkout, which may run uninstalled or beside an older installation; else the installed one."""
    pyproject = CONFIGS.parent / "pyproject.toml"
    if pyproject.is_file():
        return tomllib.loads(pyproject.read_text("utf-8"))["project"]["version"]
    return metadata.version("hdpainter-ldm")


__version__ = _version()


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    packages = ("torch", "open-clip-torch", "numpy", "pillow", "opencv-python-headless")
    found = {"python": platform.python_version(), "hdpainter-ldm": __version__}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
