"""Reading pictures and masks from any source, and writing results.

Whatever is not understood is refused with a UserError that names the file and the fix; nothing is guessed.
"""

import hashlib
import io
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from hdpainter.files import make_folder, replacing
from hdpainter.masks import Grey
from ldm.util import UserError

Pixels = NDArray[np.uint8]
"""RGB, [H, W, 3]."""
Source = str | os.PathLike | Image.Image | np.ndarray

MAX_PIXELS = 128 * 2**20  # checked from the header, before a decompression bomb can unfold
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF")  # not EPS, which runs Ghostscript


def load_image(source: Source, name: str = "image") -> Image.Image:
    """A picture as 8-bit RGB from a path, a PIL image or a uint8 array [H, W], [H, W, 3] or [H, W, 4].

    The EXIF orientation is applied. Transparent parts are laid on white. 16-bit grey is scaled to 8 bits. CMYK
    is converted by its colour profile where it has one. An RGB colour profile is kept in `info`, from where
    `save_png` writes it. Raises UserError for all that is not one picture of at most MAX_PIXELS.
    """
    return _read(source, name, background="white")[0]


def load_mask(source: Source, size: tuple[int, int], name: str = "mask") -> Grey:
    """A mask as grey uint8 [H, W], white = fill; sources as for `load_image`, and bool arrays.

    Transparent parts count as black (keep), so white strokes on a transparent canvas work as they look.
    `size` is the image's (width, height), as PIL's `image.size`; a mask of another size raises UserError.
    """
    rgb, name = _read(source, name, background="black")
    if rgb.size != tuple(size):
        (mask_w, mask_h), (w, h) = rgb.size, size
        raise UserError(
            f"{name} is {mask_w} x {mask_h} pixels but the image is {w} x {h}: save the mask at the image's size"
        )
    return np.array(rgb.convert("L"))


def save_png(
    image: Image.Image,
    path: str | os.PathLike,
    metadata: Mapping[str, Any] | None = None,
    scratch: Path | None = None,
) -> str:
    """Write a PNG with the settings as JSON in the text chunk "hdpainter"; missing folders are made.

    The file appears whole or not at all, see `files.replacing`. Returns its SHA-256. Raises CannotWrite where it
    cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UserError(
            f"{path} does not end in .png: results are PNG files, which keep every pixel as it is"
        )
    content = encode_png(image, metadata)
    make_folder(path.parent)
    with replacing(path, scratch) as part:
        part.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def encode_png(image: Image.Image, metadata: Mapping[str, Any] | None = None) -> bytes:
    """The bytes of a PNG with `metadata` as JSON in the text chunk "hdpainter"."""
    text = PngImagePlugin.PngInfo()
    if metadata is not None:
        text.add_text("hdpainter", json.dumps(metadata))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=text)
    return buffer.getvalue()


def _read(source: Source, name: str, background: str) -> tuple[Image.Image, str]:
    """The decoded, upright picture as RGB, and its name for messages."""
    if isinstance(source, str | os.PathLike):
        name = f"{name} {os.fspath(source)}"
    elif not isinstance(source, Image.Image | np.ndarray):
        raise UserError(f"{name} is a {type(source).__name__}: give a path, a PIL image or a NumPy array")
    try:
        image = _open(source, name)
        _check_size(image, name)
        profile = image.info.get("icc_profile") or b""  # None if incomplete
        rgb = _to_rgb(ImageOps.exif_transpose(image), background, name)
        rgb.info = {"icc_profile": profile} if profile[16:20] == b"RGB " else {}
        return rgb, name
    except UserError:
        raise
    except Image.DecompressionBombError:  # Pillow's own limit, higher than MAX_PIXELS
        raise UserError(f"{name} has over {MAX_PIXELS // 2**20} Mi pixels: make it smaller") from None
    except Image.UnidentifiedImageError:
        raise UserError(
            f"{name} is not a picture that can be read: use one of {', '.join(FORMATS)}"
        ) from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged or hostile bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name} cannot be decoded ({reason}): save it again as an RGB PNG") from error


def _open(source: Source, name: str) -> Image.Image:
    if isinstance(source, np.ndarray):
        return _from_array(source, name)
    if isinstance(source, Image.Image):
        return source
    _check_file(Path(source), name)
    Image.init()  # Image.open knows a format by name only once its plugin is loaded
    with warnings.catch_warnings():  # Pillow only warns of what _check_size refuses
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(source, formats=FORMATS)


def _check_file(path: Path, name: str) -> None:
    if not path.is_file():
        raise UserError(
            f"{name} is {'a folder' if path.is_dir() else 'not there'}: give the path of a picture"
        )
    if not os.access(path, os.R_OK):
        raise UserError(f"{name} may not be read: change the file's permissions")
    if path.stat().st_size == 0:
        raise UserError(f"{name} is an empty file: save the picture again")


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height == 0:
        raise UserError(f"{name} has no pixels ({width} x {height}): give a picture of at least 1 x 1")
    if width * height > MAX_PIXELS:
        limit = MAX_PIXELS // 2**20
        raise UserError(
            f"{name} is {width} x {height} pixels, over the limit of {limit} Mi pixels: make it smaller"
        )
    # A phone's MPO file holds the photo first, then depth or gain maps: not an animation.
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise UserError(f"{name} has {frames} frames: save the one to use as a PNG")


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    if array.dtype == bool:
        array = np.where(array, np.uint8(255), np.uint8(0))
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise UserError(
            f"{name} is an array of {array.dtype} {list(array.shape)}: "
            "give uint8 of shape [H, W], [H, W, 3] or [H, W, 4]"
        )
    if array.size == 0:
        raise UserError(f"{name} has no pixels {list(array.shape)}: give a picture of at least 1 x 1")
    return Image.fromarray(np.ascontiguousarray(array))


def _to_rgb(image: Image.Image, background: str, name: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise UserError(f"{name} has 32 bits per pixel, of unknown range: save it with 8 or 16 bits")
    if image.mode == "CMYK" and image.info.get("icc_profile"):
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), "CMYK", "RGB")
        return transform.apply(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, background), rgba).convert("RGB")
    return image.convert("RGB")
