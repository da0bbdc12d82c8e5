"""Masks: the release's golden masks, and what must hold for any mask."""

import hashlib
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from PIL import Image
from torch.nn import functional as F

from hdpainter.images import load_mask
from hdpainter.masks import (
    MaskSettings,
    bbox,
    binarize,
    dilate,
    pad_to_multiple,
    padded_size,
    prepare,
    shrink,
    soft_mask,
    soft_shrink,
    stage_size,
)
from hdpainter.tensors import pyramid, stack, to_tensor
from ldm.util import UserError
from tests.support import GOLDEN, assert_close, golden

PAPER = MaskSettings()
RELEASE = MaskSettings(threshold=1, dilate=1, levels="bicubic>0.5", concat="bicubic>0", pad="zero")

many = settings(max_examples=60, deadline=None)
sizes = st.tuples(st.integers(1, 90), st.integers(1, 90))
some_masks = sizes.flatmap(lambda size: nps.arrays(bool, size)).filter(np.any)


@pytest.fixture(params=["mask_a", "mask_b", "mask_c"])
def case(request):
    """Description, tensors, the user's mask and the mask that the release makes of it."""
    entry, tensors = golden(request.param)
    height, width = entry["input_hw"]
    grey = load_mask(GOLDEN / entry["files"]["input_mask"], (width, height))
    prepared = np.array(Image.open(GOLDEN / entry["files"]["prepared"])) > 0
    return entry, tensors, grey, prepared


def test_release_prepares_any_nonzero_pixel_and_dilates(case):
    entry, _, grey, prepared = case
    ours = prepare(grey, grey.shape, 64, RELEASE)
    assert ours.shape == tuple(entry["padded_hw"])
    assert np.array_equal(ours, prepared)


def test_release_masks_at_all_levels(case):
    _, tensors, _, prepared = case
    factors = {
        512 // int(name[4:]): level
        for name, level in tensors.items()
        if name.startswith("mask") and name[4:].isdigit()
    }
    ours = pyramid([prepared], factors, RELEASE.levels)
    assert len(factors) == 4
    for factor, level in factors.items():
        assert torch.equal(ours[factor][0, 0], level.float())
    concat = pyramid([prepared], [8], RELEASE.concat)[8]
    assert torch.equal(concat[0, 0], tensors["cond_mask"].float())


def test_release_pads_the_image_and_greys_the_fill(case):
    entry, tensors, _, prepared = case
    generator = torch.Generator().manual_seed(entry["image"]["seed"])
    image = torch.randint(0, 256, (*entry["input_hw"], 3), generator=generator).to(torch.uint8).numpy()
    padded = pad_to_multiple(image, 64, RELEASE.pad)
    assert hashlib.sha1(padded.tobytes()).hexdigest() == entry["padded_image_sha1"]
    masked = to_tensor(padded) * (1 - stack([prepared]))
    assert_close(F.avg_pool2d(masked, 8)[0], tensors["masked_image_avgpool8"], 1e-6)


def test_release_soft_mask():
    entry, tensors = golden("sr_blend")
    mask = np.zeros(entry["inputs"]["mask_hw"], dtype=bool)
    for top, bottom, left, right in entry["inputs"]["mask_boxes_y0y1x0x1"]:
        mask[top:bottom, left:right] = True
    expected = tensors["lr_mask"][0, 0]
    assert_close(torch.from_numpy(soft_mask(mask, tuple(expected.shape))), expected, 1e-6)


def test_paper_counts_the_lighter_half_of_the_greys_and_does_not_dilate():
    grey = np.array([[0, 127, 128, 255]], dtype=np.uint8)
    assert prepare(grey, (1, 4), 1, PAPER).tolist() == [[False, False, True, True]]


def test_paper_mask_reaches_into_the_padding_as_the_image_does():
    grey = np.array([[0, 255], [0, 255]], dtype=np.uint8)
    assert prepare(grey, (2, 2), 4, PAPER).tolist() == [[False, True, True, True]] * 4


@many
@given(st.data(), st.integers(1, 9), st.integers(1, 9), st.integers(1, 8), st.integers(1, 8))
def test_nearest_is_torchs(data, h, w, down, right):
    mask = data.draw(nps.arrays(bool, (h * down, w * right)))
    mask[0, 0] = True  # so that something is left
    theirs = F.interpolate(stack([mask]), (h, w), mode="nearest")[0, 0]
    assert np.array_equal(shrink(mask, (h, w), "nearest"), theirs.bool())


@many
@given(nps.arrays(bool, (16, 24)).filter(np.any))
def test_nearest_in_two_steps_is_nearest_in_one(mask):
    middle = mask[::2, ::2]
    if mask[::8, ::8].any():
        assert np.array_equal(shrink(middle, (2, 3), "nearest"), shrink(mask, (2, 3), "nearest"))


@many
@given(some_masks, sizes, st.sampled_from(["nearest", "bicubic>0.5", "bicubic>0"]))
def test_shrinking_keeps_full_masks_full_and_never_empties(mask, size, how):
    small = shrink(mask, size, how)
    assert small.shape == size and small.dtype == bool and small.any()
    assert shrink(np.ones_like(mask), size, how).all()


@many
@given(st.data(), st.integers(1, 9), st.integers(1, 9))
def test_no_part_of_a_mask_is_lost_however_thin(data, height, width):
    grey = data.draw(nps.arrays(np.uint8, (5 * height, 4 * width), elements=st.sampled_from([0, 0, 0, 255])))
    grey[0, 0] = 255
    small = prepare(grey, (height, width), 1, PAPER)
    rows, columns = np.nonzero(grey)
    for y, x in zip(rows // 5, columns // 4, strict=True):
        assert small[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].any()


def test_a_wire_beside_a_blob_is_kept_whole_and_the_blob_does_not_grow():
    y, x = np.mgrid[:600, :800]
    grey = np.where((x - 400) ** 2 + 2 * (y - 300) ** 2 < 90**2, np.uint8(255), np.uint8(0))
    blob = np.array(Image.fromarray(grey).resize((200, 150), Image.Resampling.BICUBIC)) > 127
    assert np.array_equal(prepare(grey, (150, 200), 1, PAPER), blob)
    grey[100, :] = grey[300, :] = 255
    both = prepare(grey, (150, 200), 1, PAPER)
    assert both[25].all() and both[75].all()
    assert both.sum() <= (blob.sum() + 400 - blob[75].sum()) + 4  # where the wire leaves the blob


@pytest.mark.parametrize("variant", [PAPER, RELEASE])
@pytest.mark.parametrize("place", [(0, 0), (1023, 511), (500, 301)])
def test_one_pixel_survives_to_every_level(variant, place):
    grey = np.zeros((1024, 512), dtype=np.uint8)
    grey[place] = 255
    mask = prepare(grey, (512, 256), 64, variant)
    for factor, level in pyramid([mask], (8, 16, 32, 64), variant.levels).items():
        assert level.sum() >= 1
        y, x = (level[0, 0].nonzero().float().mean(0) + 0.5) * 2 * factor
        assert abs(y - place[0]) <= 2 * factor and abs(x - place[1]) <= 2 * factor


@many
@given(nps.arrays(bool, st.tuples(st.integers(1, 16), st.integers(1, 16))).filter(np.any), st.integers(0, 6))
def test_dilation_is_a_diamond(mask, pixels):
    ys, xs = np.nonzero(mask)
    rows, columns = np.indices(mask.shape)
    distance = (abs(rows[..., None] - ys) + abs(columns[..., None] - xs)).min(-1)
    assert np.array_equal(dilate(mask, pixels), distance <= pixels)


@many
@given(sizes, st.integers(1, 130), st.sampled_from(["edge", "zero", "reflect"]))
def test_padding_keeps_the_picture_and_reaches_the_multiple(size, multiple, mode):
    image = np.random.default_rng(0).integers(1, 256, (*size, 3), dtype=np.uint8)
    padded = pad_to_multiple(image, multiple, mode)
    height, width = size
    assert padded.shape[:2] == padded_size(*size, multiple)
    assert all(
        p % multiple == 0 and 0 <= p - s < multiple for p, s in zip(padded.shape[:2], size, strict=True)
    )
    assert np.array_equal(padded[:height, :width], image)
    if mode == "zero":
        assert not padded[height:].any() and not padded[:, width:].any()
    else:
        rows, columns = (_source(np.arange(p), s, mode) for p, s in zip(padded.shape[:2], size, strict=True))
        assert np.array_equal(padded, image[np.ix_(rows, columns)])


def _source(index, size, mode):
    """Which pixel a padded one repeats: the last, or the one in a mirror through the first and last pixels."""
    if mode == "edge" or size == 1:
        return np.minimum(index, size - 1)
    return size - 1 - abs(index % (2 * size - 2) - (size - 1))


@many
@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(64, 2048))
def test_stage_size_has_the_long_side_and_the_shape(height, width, long_side):
    h, w = stage_size(height, width, long_side)
    assert max(h, w) == long_side and min(h, w) >= 1
    for small, side in ((h, height), (w, width)):
        exact = Fraction(side * long_side, max(height, width))
        assert small == (math.floor(exact) if exact >= 1 else 1)


def test_stage_size_of_the_release():
    assert stage_size(2048, 1318, 512) == (512, 329)  # 329.5 is cut


@many
@given(some_masks, st.integers(0, 30), st.sampled_from([1, 4, 64]))
def test_bbox_holds_the_mask_and_its_margin(mask, margin, multiple):
    top, bottom, left, right = bbox(mask, margin, multiple)
    assert mask[top:bottom, left:right].sum() == mask.sum()
    for (first, last), places, size in zip(
        ((top, bottom), (left, right)), np.nonzero(mask), mask.shape, strict=True
    ):
        assert 0 <= first <= max(places.min() - margin, 0) and first % multiple == 0
        assert min(places.max() + 1 + margin, size) <= last <= size and (last % multiple == 0 or last == size)
        assert (
            max(places.min() - margin, 0) - first < multiple and last - (places.max() + 1 + margin) < multiple
        )


def test_an_empty_mask_has_no_bbox():
    with pytest.raises(ValueError, match="an empty mask has no bounding box"):
        bbox(np.zeros((4, 5), bool))


@many
@given(some_masks)
def test_soft_mask_is_between_known_and_fill(mask):
    h, w = -(-mask.shape[0] // 4), -(-mask.shape[1] // 4)
    soft = soft_mask(mask, (h, w))
    assert soft.shape == (h, w) and soft.dtype == np.float32
    assert soft.min() >= 0 and soft.max() <= 1
    assert soft_mask(np.ones_like(mask), (h, w)).min() > 0.999


def test_masks_of_several_images_stack():
    masks = [np.eye(64, dtype=bool), np.ones((64, 64), dtype=bool)]
    levels = pyramid(masks, (8, 16), "nearest")
    assert {f: tuple(m.shape) for f, m in levels.items()} == {8: (2, 1, 8, 8), 16: (2, 1, 4, 4)}
    for index, mask in enumerate(masks):
        alone = pyramid([mask], (8, 16), "nearest")
        assert all(torch.equal(levels[f][index : index + 1], alone[f]) for f in levels)


def test_empty_mask_is_refused():
    with pytest.raises(UserError, match=r"hole\.png marks nothing to fill.*brightest value 1"):
        binarize(np.array([[0, 1]], dtype=np.uint8), 128, "hole.png")
    assert binarize(np.array([[0, 1]], dtype=np.uint8), 1).tolist() == [[False, True]]


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 0},
        {"threshold": 256},
        {"dilate": -1},
        {"levels": "bilinear"},
        {"concat": ""},
        {"pad": "wrap"},
    ],
)
def test_settings_name_the_field_that_is_wrong(wrong):
    with pytest.raises(UserError, match=f"^{next(iter(wrong))} "):
        MaskSettings(**wrong)


def test_the_defaults_are_the_papers():
    """Grey counts from the half up, M is neither dilated nor blurred, and shrinks by nearest neighbours (3.1)."""
    assert binarize(np.array([[0, 127, 128]], np.uint8)).tolist() == [[False, False, True]]
    grey = np.zeros((96, 70), np.uint8)
    grey[20:53, 30:47] = 255
    mask = prepare(grey, grey.shape, 64, MaskSettings())
    assert np.array_equal(mask[:96, :70], grey > 0) and not mask[96:].any()
    for how in (MaskSettings().levels, MaskSettings().concat):
        assert np.array_equal(shrink(mask, (16, 16), how), mask[::8, ::8])
    assert bbox(mask) == (20, 53, 30, 47)


@pytest.mark.parametrize("pad", ["edge", "zero", "reflect"])
def test_any_padding_may_be_set(pad):
    grey = np.array([[0, 255, 255]], np.uint8)
    last = {"edge": True, "zero": False, "reflect": True}[pad]
    assert prepare(grey, (1, 3), 4, MaskSettings(pad=pad))[0].tolist() == [False, True, True, last]


def dark(zeros, **greys):
    """A mask of 100 x 100 with so many black pixels, so many of each grey (`v3=10`), and white elsewhere."""
    values = np.full(10_000, 255, np.uint8)
    counts = {0: zeros, **{int(name[1:]): count for name, count in greys.items()}}
    values[: sum(counts.values())] = np.repeat([*counts], [*counts.values()])
    return values.reshape(100, 100)


@pytest.mark.parametrize(
    ("zeros", "greys", "right"),
    [
        (500, {"v3": 500}, True),  # 5% of the picture may always be: soft edges
        (499, {"v3": 501}, False),
        (6000, {"v3": 1500}, True),  # a fifth of what is black
        (6000, {"v3": 1501}, False),
        (6000, {"v4": 1501}, True),  # not black to the eye, and has black beside it
        (0, {"v4": 1501}, False),
        (100, {"v127": 1900}, True),
        (99, {"v127": 1901}, False),
        (99, {"v128": 1901}, True),
    ],
)
def test_what_is_nearly_black_is_not_meant_to_be_filled(zeros, greys, right):
    """Where a method fills all but black, as the release does."""
    mask = dark(zeros, **greys)
    if right:
        assert np.array_equal(binarize(mask, 1), mask > 0)
    else:
        with pytest.raises(UserError, match=r"mask has values from .* where it should be black"):
            binarize(mask, 1)


@pytest.mark.parametrize(("brightest", "right"), [(127, True), (128, False)])
def test_a_mask_without_white_means_its_greys(brightest, right):
    mask = np.minimum(dark(100, v3=3000), brightest).astype(np.uint8)
    if right:
        assert binarize(mask, 1).sum() == 9900
    else:
        with pytest.raises(UserError, match="save it with black as 0"):
            binarize(mask, 1)


@pytest.mark.parametrize("long_side", [3, 100])
def test_the_short_side_of_a_strip_is_one_pixel(long_side):
    assert stage_size(1, 1000, long_side) == (1, long_side) and stage_size(1000, 1, long_side) == (
        long_side,
        1,
    )


@pytest.mark.parametrize("away", [(0, 2), (0, -2), (2, 0), (-2, 0), (2, 2), (-2, -2)])
def test_a_dot_two_cells_from_a_blob_is_a_part_of_its_own(away):
    grey = np.zeros((160, 160), np.uint8)
    grey[80:90, 80:90] = 255  # one cell
    y, x = 80 + 10 * away[0] + 4, 80 + 10 * away[1] + 4
    grey[y, x] = 255
    small = prepare(grey, (16, 16), 1, PAPER)
    assert small[8, 8] and small[8 + away[0], 8 + away[1]] and small.sum() == 2


def test_a_soft_mask_counts_shares():
    mask = np.zeros((64, 64), bool)
    assert not soft_shrink(mask, (8, 8)).any()
    mask[:, :36] = True  # four columns and a half of cells
    soft = soft_shrink(mask, (8, 8))
    assert soft.dtype == np.float32 and (soft[:, :3] == 1).all() and (soft[:, 6:] == 0).all()
    assert np.allclose(soft[:, 4], 0.5, atol=0.01) and (soft_shrink(~mask, (8, 8)) + soft == 1).mean() > 0.8
