"""Photos and ambiguous pictures are no masks; every mask that people make is one, however soft its edges."""

import io
import warnings

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter

from hdpainter.cli import main
from hdpainter.images import load_mask
from hdpainter.masks import binarize
from ldm.util import CONFIGS, UserError

PICTURES = CONFIGS / "inference" / "pictures"
many = settings(max_examples=80, deadline=None)


def photo(size: int = 256) -> Image.Image:
    return Image.open(PICTURES / "garden.png").convert("RGB").resize((size, size))


def disc(size: int = 256, radius: float = 0.2) -> Image.Image:
    image = Image.new("L", (size, size))
    ImageDraw.Draw(image).ellipse([size * (0.5 - radius)] * 2 + [size * (0.5 + radius)] * 2, fill=255)
    return image


def refusal(image: Image.Image) -> str:
    with pytest.raises(UserError) as caught:
        load_mask(image, image.size)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def quietly(image, size=None) -> np.ndarray:
    """The mask, which must be read without a remark."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_mask(image, size or image.size)


TONES = {
    "as it is": lambda v: v,
    "negative": lambda v: 255 - v,
    "darker": lambda v: int(255 * (v / 255) ** 1.5),
    "brighter": lambda v: int(255 * (v / 255) ** 0.7),
    "flat": lambda v: 60 + v // 2,
}


@pytest.mark.parametrize("name", ["garden", "snow"])
@pytest.mark.parametrize("size", [128, 512, 1500])
def test_photos_are_no_masks(name, size):
    image = Image.open(PICTURES / f"{name}.png").convert("RGB").resize((size, size * 2 // 3))
    assert "is a colour picture, not a mask" in refusal(image)
    for tone in TONES.values():
        text = refusal(image.convert("L").point([tone(v) for v in range(256)]))
        assert "not a mask (was it swapped" in text or "areas of grey" in text


def noise(size: int, scale: float, seed: int) -> Image.Image:
    """A picture with structure at all scales from `scale` up, as photos have it."""
    rng, grey = np.random.default_rng(seed), np.zeros((size, size), np.float32)
    while scale < size:
        cells = rng.normal(size=(max(round(size / scale), 2),) * 2).astype(np.float32)
        grey += scale**0.5 * cv2.resize(cells, (size, size), interpolation=cv2.INTER_CUBIC)
        scale *= 2
    grey = (grey - grey.mean()) / grey.std()
    return Image.fromarray(np.clip(128 + 50 * grey + rng.normal(0, 6, grey.shape), 0, 255).astype(np.uint8))


@many
@given(st.sampled_from([96, 200, 600]), st.floats(0.8, 3), st.integers(0, 2**32 - 1))
def test_grey_pictures_with_texture_are_no_masks(size, scale, seed):
    refusal(noise(size, scale, seed))


@st.composite
def shapes(draw) -> Image.Image:
    """Blobs, polygons and strokes, white on black or the other way round."""
    size = draw(st.sampled_from([96, 160, 256, 700]))
    places = st.tuples(st.integers(0, size), st.integers(0, size))
    image = Image.new("L", (size, size))
    pen = ImageDraw.Draw(image)
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["ellipse", "polygon", "line"]))
        points = draw(st.lists(places, min_size=3, max_size=6, unique=True))
        if kind == "ellipse":
            (x, y), (a, b), *_ = points
            pen.ellipse([min(x, a), min(y, b), max(x, a) + size // 8, max(y, b) + size // 8], fill=255)
        elif kind == "polygon":
            pen.polygon(points, fill=255)
        else:
            pen.line(points, fill=255, width=size // 16, joint="curve")
    return image.point(lambda v: 255 - v) if draw(st.booleans()) else image


@many
@given(
    shapes(),
    st.sampled_from(["hard", "antialiased", "enlarged", "feathered", "brush"]),
    st.floats(0.003, 0.06),
    st.none() | st.integers(15, 95),
    st.sampled_from(["L", "RGB", "RGBA"]),
)
def test_masks_with_soft_edges_are_masks(image, edges, width, quality, mode):
    size = image.size
    if edges == "antialiased":
        image = image.resize((size[0] * 4,) * 2).resize(size, Image.Resampling.LANCZOS)
    elif edges == "enlarged":
        image = image.resize((size[0] // 4,) * 2).resize(size, Image.Resampling.BICUBIC)
    elif edges == "feathered":
        image = image.filter(ImageFilter.GaussianBlur(width * size[0]))
    elif edges == "brush":
        image = image.filter(ImageFilter.BoxBlur(width * size[0]))
    if quality:
        with io.BytesIO() as file:
            image.convert("RGB" if mode == "RGBA" else mode).save(file, "JPEG", quality=quality)
            image = Image.open(io.BytesIO(file.getvalue()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # large ones
        assert load_mask(image.convert(mode), size).shape == size[::-1]


def test_other_masks_that_people_make():
    for image in (
        disc().convert("1"),
        disc().convert("P"),
        disc().point(lambda v: 16 if v == 0 else 235),  # video levels
        disc().point(lambda v: 128 if v else 0),  # a half-transparent brush
        disc(16),
        disc(2000),
        Image.new("L", (64, 64)),  # marks nothing, which `binarize` tells
    ):
        assert quietly(image).shape == image.size[::-1]


def test_several_greys_are_refused():
    labels = Image.new("L", (256, 256))
    for place, value in enumerate((80, 120, 160, 255)):
        labels.paste(value, (place * 64, 0, place * 64 + 64, 128))
    assert "has several areas of grey (values 80, 120, 160)" in refusal(labels)
    assert "with many greys" in refusal(Image.new("L", (64, 64), 128))
    assert "colour picture" in refusal(Image.merge("RGB", (disc(), *[Image.new("L", (256, 256))] * 2)))


@pytest.mark.parametrize("name", ["garden", "snow"])
@pytest.mark.parametrize("tone", [lambda v: v // 6, lambda v: 200 + v // 5])
def test_dark_and_bright_photos_are_no_masks(name, tone):
    image = Image.open(PICTURES / f"{name}.png").convert("L").resize((300, 200))
    assert "with many greys" in refusal(image.point([tone(v) for v in range(256)]))


def test_a_dithered_photo_and_one_of_few_colours_are_no_masks():
    for size in (128, 1500):
        assert "scattered dots" in refusal(photo(size).convert("1"))
    assert "colour picture" in refusal(photo().quantize(32))
    labels = Image.new("P", (256, 256))
    labels.paste(1, (60, 60, 120, 200))
    labels.putpalette([0, 0, 0, 128, 0, 0])  # as the datasets of segmentation have it
    assert "colour picture" in refusal(labels)


def test_labels_are_told_apart():
    one = np.asarray(disc()) // 255  # 0 and 1
    assert np.array_equal(quietly(Image.fromarray(one)), one)
    several = np.repeat(np.arange(6, dtype=np.uint8), 32)[None].repeat(192, 0)
    assert "several areas of grey (values 1, 2, 3, 4)" in refusal(Image.fromarray(several))
    dim = Image.fromarray(np.where(np.asarray(disc(radius=0.08)), 0, 90).astype(np.uint8))
    with pytest.warns(UserWarning, match="mask fills 98% of the picture"):
        load_mask(dim, dim.size, threshold=1)
    assert not (quietly(dim) > 127).any()


@pytest.mark.parametrize("kind", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".webp", ".jpg"])
def test_one_mask_in_every_mode_and_format(tmp_path, kind, suffix):
    mask = np.asarray(disc())
    image = Image.fromarray(mask.astype(np.uint16) * 257) if kind == "I;16" else disc().convert(kind)
    try:
        image.save(tmp_path / f"m{suffix}", quality=95)
    except (OSError, KeyError):
        return  # the format has no such pictures
    other = (quietly(tmp_path / f"m{suffix}", image.size) > 127) != (mask > 127)
    assert other.mean() <= (0.01 if suffix in (".jpg", ".webp") else 0)


# --- transparency ---


def erased(picture: Image.Image, hole: Image.Image) -> Image.Image:
    picture = picture.convert("RGB")
    picture.putalpha(hole.point(lambda v: 255 - v))
    return picture


@pytest.mark.parametrize("radius", [0.05, 0.2, 0.45])
@pytest.mark.parametrize("soft", [0, 3])
def test_a_picture_with_an_erased_hole_is_refused_or_read_by_its_alpha(radius, soft):
    hole = disc(radius=radius).filter(ImageFilter.GaussianBlur(soft))
    white = Image.new("RGB", hole.size, "white")
    assert "is white with a transparent part" in refusal(erased(white, hole))
    assert "colour picture" in refusal(erased(photo(), hole))
    for picture in (white, photo()):
        assert np.array_equal(load_mask(erased(picture, hole), hole.size, channel="alpha"), hole)
        assert "mask_channel alpha" in refusal(erased(picture, hole))
    with pytest.raises(UserError, match="has no transparent part"):
        load_mask(hole, hole.size, channel="alpha")


def test_black_with_a_transparent_part_is_told(tmp_path):
    for shape in (disc(), disc().point(lambda v: 255 - v)):  # strokes of black, a hole in black
        told = refusal(Image.merge("LA", (Image.new("L", shape.size), shape)))
        assert "is black with a transparent part" in told and "mask_channel alpha" in told
    listed = disc().convert("1").convert("P")
    listed.save(tmp_path / "p.png", transparency=0)  # a palette whose black is nothing: strokes of white
    assert np.array_equal(quietly(tmp_path / "p.png", listed.size), disc())


@pytest.mark.parametrize("radius", [0.05, 0.2, 0.35])
def test_white_strokes_on_transparent_are_read_as_they_look(radius):
    strokes = Image.new("RGB", (256, 256), "white")
    strokes.putalpha(disc(radius=radius))
    assert np.array_equal(quietly(strokes), disc(radius=radius))
    corner = Image.new("L", (256, 256))
    corner.paste(255, (128, 0, 256, 120))  # it touches the border
    strokes.putalpha(corner)
    assert np.array_equal(quietly(strokes), corner)


def test_a_mask_of_nearly_everything_is_told():
    almost = disc(radius=0.1).point(lambda v: 255 - v)
    with pytest.warns(UserWarning, match=r"mask fills 97% of the picture"):
        load_mask(almost, almost.size)
    quietly(disc(radius=0.3).point(lambda v: 255 - v))


def test_black_that_is_not_quite_black_is_told_where_it_would_be_filled():
    mask = np.asarray(disc())
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 2, mask.shape, np.uint8)
    video, grey = 14 + rng.integers(0, 4, mask.shape, np.uint8), np.full_like(mask, 40)
    for near in (np.full_like(mask, 1), noise, np.full_like(mask, 3), video, grey):
        almost = np.maximum(mask, near)
        assert np.array_equal(binarize(load_mask(almost, mask.shape), 128), mask > 0)
        told = rf"from {max(near.min(), 1)} to {near.max()} where it should be black, .* \d+% of the picture"
        with pytest.raises(UserError, match=told):
            binarize(load_mask(almost, mask.shape), 1)
    assert np.array_equal(binarize(mask, 1), mask > 0)
    assert np.array_equal(binarize(mask // 255, 1), mask > 0)  # labels: 1 is what to fill
    soft = np.asarray(disc().filter(ImageFilter.GaussianBlur(12)))
    assert np.array_equal(binarize(soft, 1), soft > 0)


def test_the_default_method_refuses_a_mask_without_black_before_the_model_loads(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    photo().save("photo.png")
    Image.fromarray(np.maximum(np.asarray(disc()), 16)).save("mask.png")
    words = [
        "inpaint",
        "--image",
        "photo.png",
        "--mask",
        "mask.png",
        "--prompt",
        "a boat",
        "--out",
        "out.png",
    ]
    assert main(words, lambda *_: pytest.fail("loaded the model"), lambda *_: {"size": 256}) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "mask.png has values from 16 to 16 where it should be black" in told
