"""Reading pictures and masks from any source, and writing results.

Whatever is not understood is refused with a UserError that names the file and the fix; nothing is guessed.
"""

import hashlib
import io
import json
import os
import warnings
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageOps, PngImagePlugin, TiffImagePlugin

from hdpainter.files import make_folder, refuse_name, replacing
from hdpainter.mask_check import LARGE, check_mask, check_transparency
from hdpainter.masks import Grey
from ldm.util import UserError

Pixels = NDArray[np.uint8]
"""RGB, [H, W, 3]."""
Source = str | os.PathLike | Image.Image | np.ndarray

MAX_PIXELS = 128 * 2**20  # checked from the header, before a decompression bomb can unfold
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF")  # not EPS, which runs Ghostscript


@cache
def formats() -> tuple[str, ...]:
    """The formats that Pillow reads here: FORMATS, of which it may be built without some, and HEIC where the
    package pillow-heif is installed."""
    Image.init()  # Image.open knows a format by name only once its plugin is loaded
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    return tuple(name for name in (*FORMATS, "HEIF") if name in Image.OPEN)


@dataclass(frozen=True)
class Hashed(os.PathLike[str]):
    """A file, by its path, whose SHA-256 is known: the bytes that are decoded are those that were hashed.

    content: these bytes, where they have been read; the file itself may then be on another machine.
    """

    path: Path
    sha256: str
    content: bytes | None = field(default=None, repr=False)

    def __fspath__(self) -> str:
        return str(self.path)

    @classmethod
    def of(cls, path: Path, name: str = "image") -> "Hashed":
        """A file as it is now, with its content. Raises UserError where it cannot be read."""
        _check_file(path, f"{name} {path}")
        content = path.read_bytes()
        return cls(path, hashlib.sha256(content).hexdigest(), content)

    def read(self, name: str = "image") -> "Hashed":
        """It with its content. Raises UserError where it cannot be read, and where it is another by now."""
        if self.content is not None:
            return self
        now = Hashed.of(self.path, name)
        if now.sha256 != self.sha256:
            raise UserError(
                f"{name} {self.path} has changed since it was looked at: start again with the new one"
            )
        return now


def load_image(source: Source, name: str = "image") -> Image.Image:
    """A picture as 8-bit RGB from a path, a PIL image or a uint8 array [H, W], [H, W, 3] or [H, W, 4].

    The EXIF orientation is applied. Transparent parts are laid on white, with a warning. 16-bit grey is scaled to
    8 bits. CMYK and grey are converted by their colour profiles where they have one. An RGB profile is kept in
    `info`, from where `save_png` writes it. Raises UserError for all that is not one picture of at most
    MAX_PIXELS, and for a `Hashed` file that is another by now.
    """
    image, name = _read(source, name, profiles=("CMYK", "L"))
    if _alpha(image) is not None:
        warnings.warn(f"{name} has transparent parts: they are white here, the result has none", stacklevel=2)
    return _flattened(image, "white")


def load_mask(
    source: Source,
    size: tuple[int, int],
    name: str = "mask",
    *,
    channel: Literal["grey", "alpha"] = "grey",
    invert: bool = False,
    resize: bool = False,
    threshold: int = 128,
) -> Grey:
    """A mask as grey uint8 [H, W], white = fill; sources as for `load_image`, and bool arrays.

    Transparent parts count as black (keep), so white strokes on a transparent canvas work as they look. With
    `channel` "alpha" they are what is filled, as in a picture into which a hole was erased. `invert` fills what
    else would be kept. `size` is the image's (width, height), as PIL's `image.size`; `resize` brings a mask of
    another size, but the same proportions, to it. Raises UserError for a mask of another size, and for a picture
    that does not look like a mask; warns of one that fills nearly everything (of a dim one: from `threshold` on).
    """
    image, name = _read(source, name, profiles=("CMYK",))
    (mask_w, mask_h), (w, h) = image.size, size
    alike = abs(mask_w * h - w * mask_h) <= 0.02 * w * mask_h + max(w, h)  # within 2%, and rounding
    if image.size != tuple(size) and not (resize and alike):
        advice = "save the mask at the image's size"
        if resize:
            advice = "these are other proportions, so the mask is not of this image"
        if image.size == (h, w):
            advice = (
                "one of the two is turned by its EXIF orientation, or the mask is of the photo as it is stored; "
                "make the mask on the upright photo"
            )
        raise UserError(f"{name} is {mask_w} x {mask_h} pixels but the image is {w} x {h}: {advice}")
    alpha = _alpha(image)
    if channel == "alpha":
        if alpha is None:
            raise UserError(
                f"{name} has no transparent part: erase what is to be filled, or give a grey mask"
            )
        grey = 255 - alpha
    else:
        rgb = _flattened(image, "black")
        if alpha is not None:
            check_transparency(alpha, np.asarray(image.convert("RGB").convert("L")), name)
        check_mask(rgb, name, transparent=alpha is not None)
        grey = np.array(rgb.convert("L"))
    if image.size != tuple(size):
        grey = np.array(Image.fromarray(grey).resize(size, Image.Resampling.NEAREST))
    if invert:
        grey = 255 - grey
    share = np.mean(
        grey > 127 if grey.max() > 127 else grey >= threshold
    )  # `binarize` refuses grey for black
    if share > LARGE:
        warnings.warn(
            f"{name} fills {share:.0%} of the picture: white is filled, black is kept", stacklevel=2
        )
    return grey


@cache
def suffixes() -> frozenset[str]:
    """How the names of pictures end that are read here: ".png", ".jpg", ".jfif", ..., in lower case."""
    known = formats()
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in known)


def header_size(path: str | os.PathLike) -> tuple[int, int] | None:
    """(width, height) of the upright picture in a file; None where its header alone does not tell.

    None is also for what `load_image` refuses: it then says why.
    """
    try:
        with ExitStack() as files:
            image = _open(path, "image", files)
            width, height = image.size
            if isinstance(image, TiffImagePlugin.TiffImageFile):  # Pillow has turned its size already
                width, height = image.tag_v2[256], image.tag_v2[257]
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    except Exception:  # Pillow raises nearly anything on damaged files
        return None
    if width * height > MAX_PIXELS:
        return None
    return (height, width) if turned else (width, height)


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
    content = encode(image, ".png", metadata)
    make_folder(path.parent)
    with replacing(path, scratch) as part:
        part.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def encode(image: Image.Image, suffix: str = ".png", metadata: Mapping[str, Any] | None = None) -> bytes:
    """The bytes of a picture file of that suffix: a PNG with `metadata` as JSON in the text chunk "hdpainter"; a
    JPEG or WEBP of high quality, which is lossy all the same and has no such chunk."""
    buffer, profile = io.BytesIO(), image.info.get("icc_profile")
    if suffix.lower() == ".png":
        text = PngImagePlugin.PngInfo()
        if metadata is not None:
            text.add_text("hdpainter", json.dumps(metadata))
        image.save(buffer, format="PNG", pnginfo=text)
    elif suffix.lower() == ".webp":
        image.save(buffer, format="WEBP", quality=95, method=5, icc_profile=profile)
    else:
        image.save(buffer, format="JPEG", quality=95, subsampling=0, icc_profile=profile)
    return buffer.getvalue()


def read_metadata(path: str | os.PathLike) -> dict[str, Any] | None:
    """What is in a PNG's text chunk "hdpainter"; None where there is none."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.load()  # the chunk may follow the pixels
            found = json.loads(getattr(image, "text", {}).get("hdpainter", ""))
    except (OSError, ValueError, SyntaxError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _read(source: Source, name: str, profiles: tuple[str, ...]) -> tuple[Image.Image, str]:
    """The decoded, upright picture as RGB or RGBA, and its name for messages; `profiles`: modes whose count."""
    if isinstance(source, Hashed):
        source = source.read(name)
    if isinstance(source, str | os.PathLike):
        name = f"{name} {os.fspath(source)}"
    elif not isinstance(source, Image.Image | np.ndarray):
        raise UserError(f"{name} is a {type(source).__name__}: give a path, a PIL image or a NumPy array")
    try:
        with ExitStack() as files:
            image = _open(source, name, files)
            _check_size(image, name)
            profile = image.info.get("icc_profile") or b""  # None if incomplete
            rgb = _to_rgb(ImageOps.exif_transpose(image), profiles, name)
        rgb.info = {"icc_profile": profile} if profile[16:20] == b"RGB " else {}
        return rgb, name
    except UserError:
        raise
    except Image.DecompressionBombError:  # Pillow's own limit, higher than MAX_PIXELS
        raise UserError(f"{name} has over {MAX_PIXELS // 2**20} Mi pixels: make it smaller") from None
    except Image.UnidentifiedImageError:
        what = _other_format(source) if isinstance(source, str | os.PathLike) else None
        raise UserError(
            f"{name} is {what or 'not a picture that can be read'}: use one of {', '.join(formats())}"
        ) from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged or hostile bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name} cannot be decoded ({reason}): save it again as an RGB PNG") from error


def _open(source: Source, name: str, files: ExitStack) -> Image.Image:
    if isinstance(source, np.ndarray):
        return _from_array(source, name)
    if isinstance(source, Image.Image):
        return source
    if not isinstance(source, Hashed):  # which has been read
        _check_file(Path(source), name)
    with warnings.catch_warnings():  # Pillow only warns of what _check_size refuses
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        # Not by the path: Pillow would map uncompressed TIFFs and mix up the rows of those that are turned.
        return Image.open(files.enter_context(_bytes_of(source)), formats=formats())


def _check_file(path: Path, name: str) -> None:
    refuse_name(path)
    if not path.is_file():
        raise UserError(
            f"{name} is {'a folder' if path.is_dir() else 'not there'}: give the path of a picture"
        )
    if not os.access(path, os.R_OK):
        raise UserError(f"{name} may not be read: change the file's permissions")
    if path.stat().st_size == 0:
        raise UserError(f"{name} is an empty file: save the picture again")


def _bytes_of(source: str | os.PathLike) -> BinaryIO:
    content = source.content if isinstance(source, Hashed) else None
    return Path(source).open("rb") if content is None else io.BytesIO(content)


def _other_format(source: str | os.PathLike) -> str | None:
    """What a file is that people take for a picture of FORMATS, by its first bytes."""
    with _bytes_of(source) as file:
        head = file.read(64)
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        if brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"):
            if "HEIF" in formats():
                return "a HEIC picture, and damaged"
            return "a HEIC picture, as phones make them, whatever its name says (pip install pillow-heif)"
        return "a video" if brand in (b"isom", b"iso2", b"mp41", b"mp42", b"avc1", b"qt  ", b"M4V ") else None
    return next((what for start, what in _OTHERS.items() if head.lstrip().lower().startswith(start)), None)


_OTHERS = {
    b"\xff\n": "a JPEG XL picture",
    b"\x00\x00\x00\x0cjxl ": "a JPEG XL picture",
    b"\x00\x00\x00\x0cjp  ": "a JPEG 2000 picture",
    b"\xff\x4f\xff\x51": "a JPEG 2000 picture",
    b"8bps": "a Photoshop file",
    b"%pdf": "a PDF",
    b"%!ps": "a PostScript file",
    b"<svg": "an SVG drawing",
    b"<!doctype": "a web page saved under a picture's name",
    b"<html": "a web page saved under a picture's name",
    b"version https://git-lfs": "a Git LFS pointer, not the picture (git lfs pull fetches it)",
    b"pk\x03\x04": "a ZIP archive",
}


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


def _to_rgb(image: Image.Image, profiles: tuple[str, ...], name: str) -> Image.Image:
    """8-bit RGB, or RGBA where anything may be transparent."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UserError(f"{name} has 32 bits per pixel, of unknown range: save it with 8 or 16 bits")
    if profile and image.mode == "CMYK" and "CMYK" in profiles:
        return _to_srgb(image, profile)
    if profile and profile[16:20] == b"GRAY" and image.mode in ("L", "LA") and "L" in profiles:
        grey = image.convert("LA")
        rgb = _grey_to_rgb(grey.getchannel("L"), profile, name)
        if image.has_transparency_data:
            rgb.putalpha(grey.getchannel("A"))
        return rgb
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _grey_to_rgb(grey: Image.Image, profile: bytes, name: str) -> Image.Image:
    try:
        return _to_srgb(grey, profile)
    except ImageCms.PyCMSError:
        warnings.warn(
            f"{name} has a grey profile that cannot be used; its values stay as they are", stacklevel=2
        )
        return grey.convert("RGB")


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """RGB by the colour profile of the image."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), image.mode, "RGB").apply(image)


def _alpha(image: Image.Image) -> Grey | None:
    """The opacity [H, W], uint8; None where all is opaque."""
    if image.mode != "RGBA":
        return None
    alpha = np.asarray(image.getchannel("A"))
    return None if (alpha == 255).all() else alpha


def _flattened(image: Image.Image, background: str) -> Image.Image:
    """RGB, with transparent parts laid on a colour."""
    if image.mode == "RGB":
        return image
    flat = Image.alpha_composite(Image.new("RGBA", image.size, background), image).convert("RGB")
    flat.info = image.info
    return flat
