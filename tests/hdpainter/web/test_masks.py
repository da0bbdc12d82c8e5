"""Masks from the browser: only alpha counts, at the photo's full size."""

import io
from base64 import b64encode

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hdpainter.models.registry import PipelineSpec
from hdpainter.settings import Method
from hdpainter.web import masks
from ldm.util import UserError


def url(image: Image.Image, kind: str = "PNG") -> str:
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return masks.PNG_URL + b64encode(buffer.getvalue()).decode()


def canvas(mask: np.ndarray, colour=(1, 2, 3)) -> Image.Image:
    return Image.fromarray(np.dstack([np.full((*mask.shape, 3), colour, np.uint8), mask]).astype(np.uint8))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_only_alpha_is_read(width, height, seed):
    alpha = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    paint = masks.painted(url(canvas(alpha, (seed % 256, 7, 200))), (width, height))
    assert np.array_equal(paint, alpha >= 128)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_a_painted_mask_is_enlarged_cell_by_cell(width, height, factor, seed):
    paint = np.random.default_rng(seed).random((height, width)) > 0.5
    full = masks.full_size(paint, (width * factor, height * factor))
    assert np.array_equal(full, np.kron(paint, np.ones((factor, factor))) * 255)


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 40), st.integers(3, 40), st.integers(0, 2**32 - 1))
def test_a_loaded_mask_keeps_its_precision_where_it_was_not_painted(width, height, seed):
    rng = np.random.default_rng(seed)
    loaded = rng.integers(0, 256, (4 * height, 4 * width), np.uint8)
    loaded[0, 0] = 255
    shown = masks.small_size(loaded, (height, width))
    assert np.array_equal(masks.full_size(shown, (4 * width, 4 * height), loaded), loaded)
    changed = shown.copy()
    changed[1, 2] ^= True
    full = masks.full_size(changed, (4 * width, 4 * height), loaded)
    assert (full[4:8, 8:12] == 255 * changed[1, 2]).all()
    full[4:8, 8:12] = loaded[4:8, 8:12]
    assert np.array_equal(full, loaded)


def test_nothing_of_a_loaded_mask_is_filled_that_the_editor_does_not_show():
    loaded = np.zeros((100, 80), np.uint8)
    loaded[7, :] = loaded[:, 13] = 255  # one pixel wide: between the samples of a smaller copy
    shown = masks.small_size(loaded, (25, 20))
    assert shown[1].all() and shown[:, 3].all() and shown.sum() == 44
    assert np.array_equal(masks.full_size(shown, (80, 100), loaded), loaded)
    assert not masks.full_size(np.zeros_like(shown), (80, 100), loaded).any()  # cleared
    erased = shown.copy()
    erased[1] = False
    assert not masks.full_size(erased, (80, 100), loaded)[4:8].any()


def test_the_editor_gets_back_what_it_sent():
    paint = np.random.default_rng(0).random((9, 7)) > 0.5
    assert np.array_equal(masks.painted(url(masks.for_canvas(paint)), (7, 9)), paint)


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "/etc/passwd",
        "data:image/png;base64,####",
        "data:image/png;base64,",
        masks.PNG_URL + b64encode(b"GIF89a").decode(),
        url(Image.new("RGBA", (6, 5))),
        url(Image.new("RGB", (5, 5))),
        url(Image.new("RGB", (5, 5)), "BMP"),
    ],
)
def test_anything_else_is_refused(sent):
    with pytest.raises(UserError, match="did not arrive whole"):
        masks.painted(sent, (5, 5))


def test_what_the_model_sees(photo):
    picture, mask = photo(100, 70)
    spec = PipelineSpec.load("mini")
    seen, text = masks.as_seen(picture, np.array(mask), spec, Method.load("hd-painter").masks, None)
    assert seen.size == (256, 192)
    assert text.startswith("256 × 179 pixels, padded to 256 × 192; ")
    pixels = np.array(seen)
    tinted = (0.6 * 128 + 0.4 * masks.TINT).astype(np.uint8)
    assert (pixels[90, 128] == tinted).all()  # in the middle of the mask's box
    assert not (pixels[170, 250] == tinted).all()
    with pytest.raises(UserError, match="marks nothing"):
        masks.as_seen(picture, np.zeros((70, 100), np.uint8), spec, Method.load("hd-painter").masks, None)


@pytest.mark.parametrize(("model", "cells", "sizes"), [("glide", 64, "64 × 64 and "), ("nuwa-lip", 32, "")])
def test_what_a_baseline_sees(photo, model, cells, sizes):
    picture, mask = photo(100, 70)
    spec = PipelineSpec.load(model)
    seen, text = masks.as_seen(picture, np.array(mask), spec, Method.load(model).masks, None)
    assert text.startswith(f"squeezed to {sizes}256 × 256 pixels; ")
    grey = (np.array(seen) == 128).all(axis=2)
    assert grey[128, 128] and not grey[250, 250]
    edge = 256 // cells
    blocks = grey.reshape(cells, edge, cells, edge)
    assert (blocks.all((1, 3)) | ~blocks[:, edge // 2, :, edge // 2]).all(), "whole cells are hidden"
    with pytest.raises(UserError, match="marks nothing"):
        masks.as_seen(picture, np.zeros((70, 100), np.uint8), spec, Method.load(model).masks, None)
