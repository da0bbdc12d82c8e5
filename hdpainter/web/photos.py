"""A photo as the page has it: the bytes that were uploaded, untouched, and a small copy to paint the mask on."""

import base64
import io
import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from hdpainter.images import formats, load_image
from ldm.util import UserError

PROXY_SIDE = 1024  # longer side of the copy in the browser
PAINT_SIDE = 4096  # longer side of the mask in the browser: 12 megapixels are painted as they are


@dataclass(frozen=True)
class Photo:
    """name: of the file where it came from; text to show, never part of a path here. path: its bytes as they were
    uploaded. size: (width, height), upright."""

    name: str
    path: Path
    size: tuple[int, int]
    proxy_path: Path

    def load(self) -> Image.Image:
        """The picture itself, upright RGB. Raises UserError when it is too old to be still there."""
        self.check()
        return load_image(self.path)

    def check(self) -> None:
        """Raises UserError when its files are too old to be still there."""
        if not (self.path.is_file() and self.proxy_path.is_file()):
            raise UserError("the photo was removed from the server after a while: load it again")

    @property
    def proxy_size(self) -> tuple[int, int]:
        """(width, height) of the small copy."""
        return self._within(PROXY_SIDE)

    @property
    def paint_size(self) -> tuple[int, int]:
        """(width, height) of the mask that is painted."""
        return self._within(PAINT_SIDE)

    def _within(self, side: int) -> tuple[int, int]:
        scale = min(side / max(self.size), 1)
        width, height = (max(round(each * scale), 1) for each in self.size)
        return width, height

    @property
    def view_path(self) -> Path:
        """A copy of `paint_size`, for who looks closely; there is none where the small copy is as large."""
        return self.proxy_path.with_name("view.jpg")

    @cached_property
    def proxy(self) -> Image.Image:
        with Image.open(self.proxy_path) as image:
            return image.convert("RGB")

    @property
    def data_url(self) -> str:
        """The small copy for an <img>."""
        return f"data:image/jpeg;base64,{base64.b64encode(self.proxy_path.read_bytes()).decode()}"


def receive(upload: Path, name: str, folder: Path, megapixels: float) -> Photo:
    """Take over an uploaded file: its bytes are copied to `folder`, under a name of ours.

    Raises UserError for what is no picture that can be read, or one of more than that many million pixels.
    """
    check_pixels(upload, name, megapixels)
    image = load_named(load_image, upload, name)
    path = folder / "photo"
    shutil.copyfile(upload, path)
    photo = Photo(name, path, image.size, folder / "proxy.jpg")
    image.resize(photo.proxy_size, Image.Resampling.LANCZOS).save(photo.proxy_path, quality=92)
    if photo.paint_size != photo.proxy_size:
        image.resize(photo.paint_size, Image.Resampling.BICUBIC).save(photo.view_path, quality=85)
    return photo


def check_pixels(path: Path, name: str, megapixels: float) -> None:
    """Raise UserError where the header tells more pixels than allowed, before they unfold into memory."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=formats()) as header:
                width, height = header.size
    except Exception:  # Pillow raises nearly anything; load_image says what is wrong
        return
    if width * height > megapixels * 1e6:
        raise UserError(
            f"{name} is {width} x {height} pixels, over this server's limit of {megapixels:g} million: "
            "make it smaller"
        )


def load_named(load: Callable[..., Any], path: Path, name: str, *args: Any) -> Any:
    """``load(path, *args)`` whose errors name the user's file instead of the server's."""
    try:
        return load(path, *args)
    except UserError as error:
        raise UserError(str(error).replace(str(path), name)) from None


def png_record(path: Path) -> dict[str, Any] | None:
    """The record in a finished picture, as whoever wrote the file has it: nothing in it has been checked."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            record = json.loads(image.info.get("hdpainter", "null"))
    except Exception:  # Pillow raises nearly anything
        return None
    return record if isinstance(record, dict) else None


def png_data_url(image: Image.Image) -> str:
    """A picture for an <img>, without a file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
