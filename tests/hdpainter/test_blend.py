"""Blending: the release's golden picture, exactness outside M, and the membrane against a dense solve."""

import time

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from PIL import Image

from hdpainter.blend import blend, membrane, membrane_blend, poisson_blend
from tests.support import GOLDEN, cases

many = settings(max_examples=60, deadline=None)
sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
masks = sizes.flatmap(lambda size: nps.arrays(bool, size))


def pictures(size, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (2, *size, 3), dtype=np.uint8)


def photo(size=256):
    """A smooth scene with an edge and fine texture."""
    y, x = np.mgrid[:size, :size] / size
    scene = 90 + 60 * np.sin(3 * x + 2 * y) + 50 * (x + 0.3 * y > 0.6)
    texture = np.random.default_rng(1).normal(0, 4, (size, size, 3))
    return np.clip(scene[..., None] + texture, 0, 255).astype(np.uint8)


def dense_membrane(values, inside):
    """The equations of the membrane, written out and solved by elimination."""
    height, width = values.shape
    index = np.arange(height * width).reshape(height, width)
    matrix, right = np.eye(height * width), np.where(inside, 0, values).ravel()
    for y, x in zip(*np.nonzero(inside), strict=True):
        around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        neighbours = [index[p] for p in around if 0 <= p[0] < height and 0 <= p[1] < width]
        matrix[index[y, x], index[y, x]] = len(neighbours)
        matrix[index[y, x], neighbours] = -1
    return np.linalg.solve(matrix, right).reshape(height, width)


def test_release_poisson_blending():
    entry = cases()["poisson"]
    original, generated, expected = (
        np.array(Image.open(GOLDEN / entry["files"][name]).convert("RGB"))
        for name in ("orig", "fake", "result")
    )
    mask = np.array(Image.open(GOLDEN / entry["files"]["mask"]).convert("L")) > 0
    difference = np.abs(blend(original, generated, mask, "blended").astype(int) - expected)
    assert difference.max() <= entry["tolerance"]["uint8_max"]
    assert difference.mean() <= entry["tolerance"]["uint8_mean"]


@many
@given(masks, st.integers(0, 3))
def test_outside_the_mask_every_bit_is_the_originals(mask, seed):
    original, generated = pictures(mask.shape, seed)
    before = original.copy(), generated.copy(), mask.copy()
    result = blend(original, generated, mask)
    assert result.dtype == np.uint8 and result.shape == original.shape
    assert np.array_equal(result[~mask], original[~mask])
    assert all(np.array_equal(a, b) for a, b in zip((original, generated, mask), before, strict=True))


@many
@given(masks, st.integers(0, 3))
def test_poisson_blending_takes_any_mask(mask, seed):
    original, generated = pictures(mask.shape, seed)
    result = poisson_blend(original, generated, mask)
    assert result.dtype == np.uint8 and result.shape == original.shape
    if not mask.any():
        assert np.array_equal(result, original)


@pytest.mark.parametrize("known_region", ["exact", "blended"])
def test_identical_pictures_stay(known_region):
    original = photo(96)
    mask = np.zeros((96, 96), dtype=bool)
    mask[30:70, 20:96] = True
    difference = np.abs(blend(original, original, mask, known_region).astype(int) - original)
    assert difference.max() <= (0 if known_region == "exact" else 2)


def test_full_mask_leaves_the_generated_picture():
    original, generated = pictures((20, 31))
    assert np.array_equal(blend(original, generated, np.ones((20, 31), dtype=bool)), generated)


@many
@given(masks, st.integers(-60, 60))
def test_a_constant_offset_vanishes(mask, offset):
    if mask.all():
        mask[0, 0] = False
    original = np.random.default_rng(2).integers(60, 190, (*mask.shape, 3), dtype=np.uint8)
    generated = (original.astype(int) + offset).astype(np.uint8)
    assert np.abs(blend(original, generated, mask).astype(int) - original).max() <= 1


@many
@given(
    st.tuples(st.integers(1, 24), st.integers(1, 24)),
    st.sampled_from([0.1, 0.5, 0.8, 0.95, 0.99]),
    st.integers(0, 2**32),
)
def test_membrane_solves_its_equations(size, density, seed):
    rng = np.random.default_rng(seed)
    inside = rng.random(size) < density
    inside.flat[rng.integers(inside.size)] = False
    values = rng.uniform(-255, 255, size).astype(np.float32)
    solution = membrane(values, inside)
    assert np.array_equal(solution[~inside], values[~inside])
    assert np.abs(solution - dense_membrane(values, inside)).max() < 0.25
    tight = membrane(values, inside, tolerance=1e-3)
    assert np.abs(tight - dense_membrane(values, inside)).max() < 0.01


@pytest.mark.parametrize("shape", [(301, 301), (256, 300), (64, 801)])
def test_membrane_of_a_large_region_is_harmonic(shape):
    """x y, x and the real part of (x + i y)^3 are discretely harmonic: known at the rim, they return inside."""
    y, x = (np.indices(shape) / max(shape)).astype(np.float32)
    inside = np.zeros(shape, dtype=bool)
    inside[1:-1, 1:-1] = True
    inside[shape[0] // 3, 5:-9] = False  # a thin line of known pixels
    for function in (200 * x * y, 255 * x, 80 * (x**3 - 3 * x * y**2)):
        assert np.abs(membrane(np.where(inside, 0, function), inside) - function).max() < 0.25


def test_membrane_has_no_condition_at_the_border():
    inside = np.ones((50, 70), dtype=bool)
    inside[:, 0] = False
    values = np.full((50, 70), 37, dtype=np.float32)
    assert np.abs(membrane(values, inside) - 37).max() < 0.25


def seam(picture, mask):
    """Mean step between a pixel of M and its neighbour outside, in grey levels."""
    steps = []
    for axis in (0, 1):
        border = np.diff(mask.astype(np.int8), axis=axis) != 0
        steps.append(np.abs(np.diff(picture.astype(float), axis=axis))[border].ravel())
    return np.concatenate(steps).mean()


def test_no_seam_is_left():
    original = photo()
    mask = np.zeros((256, 256), dtype=np.uint8)
    cv2.ellipse(mask, (140, 120), (90, 60), 30, 0, 360, 1, -1)
    mask = mask.astype(bool)
    # The decoder shifts the colours, and differently from place to place.
    shift = np.linspace(-35, 25, 256)[:, None, None] * [1, 0.6, -0.8]
    generated = np.clip(photo() + shift, 0, 255).astype(np.uint8)
    paste = np.where(mask[..., None], generated, original)
    own = seam(original, mask)
    assert seam(paste, mask) > 2 * own
    assert seam(blend(original, generated, mask), mask) < 1.1 * own
    assert seam(blend(original, generated, mask, "blended"), mask) < 1.1 * own


def test_what_the_model_paints_over_the_border_does_not_tint_the_fill():
    """The model paints whole latents: a red ball reaches past M, and stays red up to M's border."""
    original, red = photo(), np.array([220, 30, 30])
    y, x = np.indices((256, 256)) - 128
    mask, ball = (x**2 + y**2 < radius**2 for radius in (50, 56))
    shift = np.array([12, -8, 5])  # of the decoder
    generated = np.clip(np.where(ball[..., None], red, original.astype(int)) + shift, 0, 255).astype(np.uint8)
    result = blend(original, generated, mask)
    assert np.array_equal(result[~mask], original[~mask])
    assert np.abs(result[mask].astype(int) - red).max() <= 2
    assert np.abs(membrane_blend(original, generated, mask, reach=0)[mask].astype(int) - red).mean() > 40


@pytest.mark.slow
def test_a_mask_over_most_of_a_2048_picture_takes_seconds():
    y, x = np.indices((2048, 2048)) - 1024
    mask = x**2 + y**2 < 980**2
    original = np.tile(photo(), (8, 8, 1))
    generated = cv2.GaussianBlur(original, (0, 0), 2)
    start = time.process_time()
    result = blend(original, generated, mask)
    assert time.process_time() - start < 6
    assert np.array_equal(result[~mask], original[~mask])


def test_a_shift_beyond_black_and_white_stops_there():
    """Beside M the generated picture is darker, or lighter, by 55: what is white, or black, in M stays so."""
    mask = np.zeros((40, 40), bool)
    mask[10:30, 10:30] = True
    for far, beside in ((255, 200), (0, 55)):
        original = np.full((40, 40, 3), far, np.uint8)
        generated = np.full_like(original, beside)
        generated[mask] = far
        assert (membrane_blend(original, generated, mask, reach=0)[mask] == far).all()


def test_a_shift_of_parts_of_a_grey_level_is_rounded():
    """Where M reaches the upper and lower border, the shift goes evenly from 0 to 1, left to right."""
    mask = np.zeros((8, 42), bool)
    mask[:, 1:41] = True
    original = np.full((8, 42, 3), 100, np.uint8)
    original[:, 41] = 101
    result = membrane_blend(original, np.full_like(original, 100), mask, reach=0)
    assert (result[:, 1:15] == 100).all() and (result[:, 27:41] == 101).all()


@pytest.mark.parametrize(("scale", "reach"), [(1, 8), (1.01, 9), (1.06, 9), (2.6, 21)])
def test_the_reach_grows_with_the_picture_and_is_rounded_up(scale, reach):
    original, generated = pictures((96, 96))
    mask = np.zeros((96, 96), bool)
    mask[40:56, 40:56] = True
    result = blend(original, generated, mask, scale=scale)
    assert np.array_equal(result, membrane_blend(original, generated, mask, reach))
    assert not np.array_equal(result, membrane_blend(original, generated, mask, reach - 1))


def test_the_reach_of_a_blend_is_that_of_stage_1():
    original, generated = pictures((96, 96))
    mask = np.zeros((96, 96), bool)
    mask[40:56, 40:56] = True
    assert np.array_equal(blend(original, generated, mask), membrane_blend(original, generated, mask, 8))


def changed_at(distance, reach, side, size=64):
    """Whether a known pixel so far from M, towards a side or corner, has a say in M."""
    mask = np.zeros((size, size), bool)
    mask[24:40, 24:40] = True
    original, generated = np.full((2, size, size, 3), 100, np.uint8)
    other = original.copy()
    place = tuple((23 - distance + 1, 32, 39 + distance)[1 + step] for step in side)
    other[place] = 255
    first, second = (membrane_blend(one, generated, mask, reach)[mask] for one in (original, other))
    return not np.array_equal(first, second)


@pytest.mark.parametrize("side", [(0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1)])
@pytest.mark.parametrize("reach", [0, 1, 4])
def test_known_pixels_have_a_say_from_beyond_the_reach_on(reach, side):
    assert not any(changed_at(distance, reach, side) for distance in range(1, reach + 1))
    if 0 in side:  # corners of the square that M is widened by are next to no pixel of it
        assert changed_at(reach + 1, reach, side)


@pytest.mark.parametrize(("margin", "halved"), [(9, 8), (8, 4), (5, 4), (4, 2), (3, 2), (2, 1), (1, 0)])
def test_a_reach_that_would_leave_nothing_known_is_halved_until_it_does(margin, halved):
    original, generated = pictures((40 + 2 * margin, 40 + 2 * margin))
    mask = np.zeros(original.shape[:2], bool)
    mask[margin:-margin, margin:-margin] = True
    result = membrane_blend(original, generated, mask, reach=8)
    assert np.array_equal(result, membrane_blend(original, generated, mask, halved))
    if halved:
        assert not np.array_equal(result, membrane_blend(original, generated, mask, halved // 2))


def test_values_inside_have_no_say():
    rng = np.random.default_rng(4)
    inside = np.zeros((61, 90), bool)
    inside[5:50, 7:80] = True
    values = rng.uniform(-255, 255, inside.shape).astype(np.float32)
    other = np.where(inside, rng.uniform(-1e4, 1e4, inside.shape), values).astype(np.float32)
    assert np.array_equal(membrane(values, inside), membrane(other, inside))


@pytest.mark.parametrize("shape", [(256, 256), (301, 301), (64, 801)])
def test_a_membrane_takes_few_passes(shape, monkeypatch):
    """Coarse sizes bring the start near, and each step is worth its cost: whatever the size, so many passes."""
    cells = []

    def laplacian(u, *arguments, **options):
        cells.append(u.size)
        return original(u, *arguments, **options)

    original = cv2.Laplacian
    monkeypatch.setattr(cv2, "Laplacian", laplacian)
    y, x = (np.indices(shape) / max(shape)).astype(np.float32)
    inside = np.zeros(shape, bool)
    inside[1:-1, 1:-1] = True
    membrane(np.where(inside, 0, 200 * np.sin(9 * x) * np.cos(5 * y)), inside)
    assert sum(cells) < 36 * inside.size


def test_poisson_blending_at_the_border_mirrors_the_generated_picture():
    """What lies beyond the border decides what M, widened, is joined to there: the picture in a mirror."""
    original, generated = photo(96), np.ascontiguousarray(photo(96)[::-1])
    mask = np.zeros((96, 96), bool)
    mask[:30, 20:70] = True
    result = poisson_blend(original, generated, mask)
    around = cv2.copyMakeBorder(generated, 32, 32, 32, 32, cv2.BORDER_REFLECT_101)
    within = around.copy()
    within[32:-32, 32:-32] = original
    region = np.zeros((160, 160), np.uint8)
    region[32 - 23 : 62 + 24, 52 - 23 : 102 + 24] = 255  # by a square of 48 pixels
    x, y, w, h = cv2.boundingRect(region)
    expected = cv2.seamlessClone(around, within, region, (x + w // 2, y + h // 2), cv2.NORMAL_CLONE)
    assert np.array_equal(result, expected[32:-32, 32:-32])
