"""Reading any picture that people have, refusing the rest in one line, and writing results whole."""

import io
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from PIL import Image, ImageCms

from hdpainter import images
from hdpainter.files import CannotWrite
from hdpainter.images import header_size, load_image, load_mask, save_png
from hdpainter.tensors import to_image, to_tensor
from ldm.util import UserError

many = settings(max_examples=60, deadline=None)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def picture(size=(17, 11), seed=0):
    """A random RGB picture of (width, height)."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def refused(source, *words, load=load_image):
    """The message of the UserError: one line that holds the words."""
    with pytest.raises(UserError) as caught:
        load(source)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message
    return message


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm", "tiff", "webp"])
def test_a_lossless_file_is_read_exactly(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    picture().save(path, **({"lossless": True} if suffix == "webp" else {}))
    loaded = load_image(path)
    assert loaded.mode == "RGB"
    assert np.array_equal(loaded, picture())
    assert np.array_equal(load_image(str(path)), picture())


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_tiny_pictures_are_allowed(tmp_path, size):
    picture(size).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png").size == size


def test_arrays_and_pil_images_need_no_file():
    array = np.asarray(picture())
    assert np.array_equal(load_image(array), array)
    assert np.array_equal(load_image(picture()), array)
    assert np.array_equal(load_image(array[..., 0]), np.repeat(array[..., :1], 3, axis=2))
    assert np.array_equal(load_image(array[:, ::-1]), array[:, ::-1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture().save(tmp_path / "a.png", exif=exif)
    upright = picture().transpose(turns[orientation]) if orientation > 1 else picture()
    assert np.array_equal(load_image(tmp_path / "a.png"), upright)
    mask = Image.fromarray(np.uint8(np.arange(17 * 11).reshape(11, 17) > 70) * 255)
    for suffix in ("png", "tiff", "jpg"):
        path = tmp_path / f"m.{suffix}"
        mask.save(path, exif=exif, quality=95)
        turned = mask.transpose(turns[orientation]) if orientation > 1 else mask
        assert header_size(path) == turned.size
        assert np.array_equal(load_mask(path, turned.size) > 127, np.asarray(turned) > 127)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.array([[0, 128, 129, 257, 30000, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    expected = np.rint(values / 257).astype(np.uint8)
    assert np.array_equal(np.asarray(load_image(tmp_path / "a.png"))[..., 0], expected)
    assert np.array_equal(load_mask(tmp_path / "a.png", (6, 1)), expected)


def test_transparent_parts_are_white_in_pictures_and_black_in_masks(tmp_path):
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0] = [[10, 20, 30, 255], [10, 20, 30, 0], [255, 255, 255, 51]]
    for source in (rgba, Image.fromarray(rgba)):
        assert np.asarray(load_image(source))[0].tolist() == [[10, 20, 30], [255] * 3, [255] * 3]
        assert load_mask(source, (3, 1))[0, 1:].tolist() == [0, 51]
    grey = Image.fromarray(rgba).convert("LA")
    assert np.asarray(load_image(grey))[0, 1].tolist() == [255] * 3
    palette = Image.frombytes("P", (2, 1), bytes([0, 1]))
    palette.putpalette([9, 8, 7, 200, 200, 200])
    palette.save(tmp_path / "a.png", transparency=1)
    assert np.asarray(load_image(tmp_path / "a.png"))[0].tolist() == [[9, 8, 7], [255] * 3]


@pytest.mark.parametrize("mode", ["1", "L", "P", "YCbCr", "HSV", "CMYK"])
def test_other_modes_become_rgb(mode):
    grey = Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("RGB").convert(mode)
    assert np.asarray(load_image(grey)).tolist() == [[[0] * 3, [255] * 3]]
    assert load_mask(grey, (2, 1)).tolist() == [[0, 255]]


def test_an_rgb_colour_profile_reaches_the_result(tmp_path):
    picture().save(tmp_path / "a.png", icc_profile=SRGB)
    loaded = load_image(tmp_path / "a.png")
    assert np.array_equal(loaded, picture())  # the numbers stay; only the profile says what they mean
    save_png(loaded, tmp_path / "b.png")
    assert Image.open(tmp_path / "b.png").info["icc_profile"] == SRGB


def test_grey_is_converted_by_its_profile(tmp_path):
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    grey.save(tmp_path / "grey.png", icc_profile=linear_grey())
    loaded = np.asarray(load_image(tmp_path / "grey.png"))
    linear = np.arange(256) / 255
    srgb = np.where(linear < 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255
    assert (np.ptp(loaded, axis=2) == 0).all()
    assert np.abs(loaded[..., 0].ravel() - srgb)[16:].max() <= 2
    assert load_image(tmp_path / "grey.png").info == {}
    alpha = Image.new("L", grey.size, 255)
    Image.merge("LA", (grey, alpha)).save(tmp_path / "la.png", icc_profile=linear_grey())
    assert np.array_equal(load_image(tmp_path / "la.png"), loaded)
    sixteen = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    sixteen.save(tmp_path / "sixteen.png", icc_profile=linear_grey())
    assert np.array_equal(load_image(tmp_path / "sixteen.png"), loaded)
    hard = grey.point(lambda value: 255 * (value > 99))
    hard.save(tmp_path / "mask.png", icc_profile=linear_grey())
    assert np.array_equal(load_mask(tmp_path / "mask.png", hard.size), hard)
    grey.save(tmp_path / "broken.png", icc_profile=SRGB[:16] + b"GRAY" + SRGB[20:])
    with pytest.warns(UserWarning, match=r"broken\.png has a grey profile that cannot be used"):
        assert np.array_equal(load_image(tmp_path / "broken.png"), grey.convert("RGB"))


def linear_grey() -> bytes:
    """An ICC profile of linear grey, version 2."""

    def tag(kind: bytes, content: bytes) -> bytes:
        return (kind + bytes(4) + content).ljust(-(-(8 + len(content)) // 4) * 4, b"\0")

    def fixed(*values: float) -> bytes:
        return b"".join(round(value * 65536).to_bytes(4, "big") for value in values)

    white = fixed(0.9642, 1.0, 0.8249)
    tags = {
        b"desc": tag(b"desc", (2).to_bytes(4, "big") + b"g\0" + bytes(78)),
        b"wtpt": tag(b"XYZ ", white),
        b"kTRC": tag(b"curv", bytes(4)),  # no entries: linear
    }
    table, data, start = len(tags).to_bytes(4, "big"), b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + (start + len(data)).to_bytes(4, "big") + len(content).to_bytes(4, "big")
        data += content
    header = bytes(4) + bytes(4) + b"\x02\x10\0\0" + b"mntrGRAYXYZ " + bytes(12) + b"acsp" + bytes(28) + white
    body = header.ljust(128, b"\0") + table + data
    return len(body).to_bytes(4, "big") + body[4:]


def test_a_transparent_picture_is_flattened_with_a_warning(tmp_path):
    rgba = np.full((4, 4, 4), 255, np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_image(rgba)
    rgba[0, 0, 3] = 254
    Image.fromarray(rgba).save(tmp_path / "sticker.png")
    with pytest.warns(UserWarning, match=r"sticker\.png has transparent parts"):
        assert load_image(tmp_path / "sticker.png").mode == "RGB"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(50), "a HEIC picture"),
        (b"\0\0\0\x18ftypmif1" + bytes(50), "a HEIC picture"),
        (b"\0\0\0\x18ftypmp42" + bytes(50), "a video"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(50), "a JPEG XL picture"),
        (b"\xff\x0a" + bytes(50), "a JPEG XL picture"),
        (b"8BPS\0\1" + bytes(50), "a Photoshop file"),
        (b"%PDF-1.7\n", "a PDF"),
        (b'<svg xmlns="x"/>', "an SVG drawing"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"nothing known", "not a picture that can be read"),
    ],
)
def test_what_is_no_picture_is_told_by_its_content(tmp_path, content, what):
    (tmp_path / "IMG_1.jpg").write_bytes(content)
    refused(tmp_path / "IMG_1.jpg", f"IMG_1.jpg is {what}", "use one of JPEG, PNG")


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_a_profile_of_which_a_part_is_missing_counts_as_none(tmp_path, mode):
    path = tmp_path / "a.jpg"
    picture().convert(mode).save(path, icc_profile=SRGB)
    path.write_bytes(path.read_bytes().replace(b"ICC_PROFILE\0\x01\x01", b"ICC_PROFILE\0\x01\x02"))
    assert load_image(path).info == {}


def test_a_broken_cmyk_profile_is_named(tmp_path):
    picture().convert("CMYK").save(tmp_path / "a.jpg", icc_profile=b"nonsense" * 20)
    refused(tmp_path / "a.jpg", "a.jpg", "profile")


def test_an_animation_is_refused_but_a_phones_mpo_is_a_photo(tmp_path):
    frames = [picture(seed=i) for i in range(3)]
    for suffix in ("gif", "webp", "png", "tiff"):
        path = tmp_path / f"a.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        refused(path, path, "3 frames", "save the one to use")
    frames[0].save(tmp_path / "a.mpo", save_all=True, append_images=frames[1:])
    assert load_image(tmp_path / "a.mpo").size == frames[0].size


def test_files_that_are_no_pictures_are_refused(tmp_path):
    refused(tmp_path / "none.png", tmp_path / "none.png", "not there")
    refused(tmp_path, "a folder")
    (tmp_path / "empty.png").touch()
    refused(tmp_path / "empty.png", "empty.png", "empty file")
    (tmp_path / "text.png").write_text("not a picture at all")
    refused(tmp_path / "text.png", "text.png", "not a picture", "JPEG, PNG")
    picture().save(tmp_path / "page.eps")  # Pillow would run Ghostscript on it
    refused(tmp_path / "page.eps", "page.eps is a PostScript file: use one of JPEG")
    assert header_size(tmp_path / "page.eps") is None and header_size(tmp_path / "none.png") is None
    refused(Image.fromarray(np.zeros((2, 2), dtype=np.float32)), "image", "32 bits")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff", "gif", "bmp"])
def test_truncated_files_are_refused(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    picture((64, 64)).save(path)
    data = path.read_bytes()
    for length in (3, len(data) // 4, len(data) // 2):
        path.write_bytes(data[:length])
        refused(path, path)


ENCODED = {}
for _format in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
    with io.BytesIO() as _file:
        picture((24, 24)).save(_file, _format)
        ENCODED[_format] = _file.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@many
@given(
    st.sampled_from(sorted(ENCODED)),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=12),
)
def test_damaged_files_give_a_picture_or_one_line(tmp_path_factory, kind, damage):
    data = bytearray(ENCODED[kind])
    for place, value in damage:
        data[place % len(data)] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(data)
    try:
        assert load_image(path).mode == "RGB"
    except UserError as error:
        assert "\n" not in str(error) and str(path) in str(error)


def test_a_decompression_bomb_is_refused_before_decoding(tmp_path, monkeypatch):
    side = 11_600  # 134.6 million pixels in a small file, over 128 Mi
    Image.new("1", (side, side)).save(tmp_path / "bomb.png")
    Image.new("1", (side, 2 * side)).save(tmp_path / "larger.png")  # over Pillow's own limit too
    assert (tmp_path / "bomb.png").stat().st_size < 100_000
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    refused(tmp_path / "bomb.png", "bomb.png", f"{side} x {side}", "128 Mi")
    refused(tmp_path / "larger.png", "larger.png", "128 Mi pixels", "make it smaller")
    monkeypatch.setattr(images, "MAX_PIXELS", 186)
    refused(picture(), "17 x 11", "over the limit")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(array):
    refused(array, "give uint8", list(array.shape))


def test_a_picture_without_pixels_is_refused():
    refused(np.zeros((0, 4, 3), np.uint8), "no pixels")
    refused(Image.new("RGB", (0, 4)), "no pixels")


def test_a_mask_of_another_size_names_both(tmp_path):
    picture((30, 20)).save(tmp_path / "m.png")
    refused(
        tmp_path / "m.png", "m.png is 30 x 20", "the image is 17 x 11", load=lambda s: load_mask(s, (17, 11))
    )
    refused(tmp_path / "m.png", "is 20 x 30", "EXIF orientation", load=lambda s: load_mask(s, (20, 30)))


def test_bool_masks():
    mask = np.array([[True, False]])
    assert load_mask(mask, (2, 1)).tolist() == [[255, 0]]


def test_a_result_holds_its_settings(tmp_path):
    settings = {"prompt": "ein Fluß, 東京", "seed": 3, "nested": {"eta": 0.25}}
    path = tmp_path / "new" / "folder" / "out.png"
    save_png(picture(), path, settings)
    with Image.open(path) as saved:
        assert np.array_equal(saved, picture())
        assert json.loads(saved.text["hdpainter"]) == settings
    save_png(picture(seed=1), path)
    assert np.array_equal(Image.open(path), picture(seed=1))
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "out.png"
    save_png(picture(), path)

    def full_disk(file, content):
        file.open("wb").write(content[:4])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(CannotWrite, match="no space"):
        save_png(picture(seed=1), path)
    assert list(tmp_path.iterdir()) == [path]
    assert np.array_equal(Image.open(path), picture())


def test_results_are_png(tmp_path):
    with pytest.raises(UserError, match=r"out\.jpg does not end in \.png"):
        save_png(picture(), tmp_path / "out.jpg")


@many
@given(nps.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_to_tensor_and_back_is_the_same_picture(array):
    tensor = to_tensor(array)
    assert (
        tensor.shape == (1, 3, *array.shape[:2]) and tensor.is_contiguous() and tensor.dtype == torch.float32
    )
    assert tensor.min() >= -1 and tensor.max() <= 1
    assert np.array_equal(to_image(tensor), array)
    assert np.array_equal(to_image(tensor[0]), array)
    assert torch.equal(to_tensor(Image.fromarray(array)), tensor)


def test_to_image_rounds_or_truncates_and_clips():
    levels = torch.tensor([-9, 0.4, 0.6, 99.5001, 254.9, 300])
    tensor = (levels / 127.5 - 1).expand(1, 3, 1, 6)
    assert np.asarray(to_image(tensor))[0, :, 0].tolist() == [0, 0, 1, 100, 255, 255]
    assert np.asarray(to_image(tensor, "truncate"))[0, :, 0].tolist() == [0, 0, 0, 99, 254, 255]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_to_image_does_not_hide_nan(value):
    tensor = torch.zeros(1, 3, 2, 2)
    tensor[0, 1, 0, 1] = value
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        to_image(tensor)


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path):
    """What phones make, whatever its name says."""
    pytest.importorskip("pillow_heif")
    images.formats()
    Image.new("RGB", (64, 48), (200, 30, 30)).save(tmp_path / "IMG_1.jpg", format="HEIF")
    read = load_image(tmp_path / "IMG_1.jpg")
    assert read.size == (64, 48) == header_size(tmp_path / "IMG_1.jpg")
    assert np.abs(np.asarray(read, int) - (200, 30, 30)).max() <= 4
