"""Where stage 1 looks: windows around holes, for any mask of any picture."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hdpainter.windows import for_holes, holes, window
from ldm.util import UserError


def marked(height, width, *boxes):
    mask = np.zeros((height, width), bool)
    for top, bottom, left, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


def seen(mask, padding):
    rows, columns = window(mask, padding)
    return rows.start, rows.stop, columns.start, columns.stop


def test_a_window_is_the_bounding_box_with_its_padding_made_square():
    mask = marked(1000, 2000, (400, 420, 900, 1000))
    assert seen(mask, 50) == (310, 510, 850, 1050)  # 100 + 2 x 50 wide, and as high
    assert seen(mask, None) == (0, 1000, 0, 2000)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 10, 0, 10), (0, 42, 0, 42)),  # in the corner: nothing beyond the border
        ((90, 100, 190, 200), (58, 100, 158, 200)),
        ((45, 55, 0, 200), (0, 100, 0, 200)),  # as square as the picture allows
        ((0, 100, 95, 105), (0, 100, 50, 150)),
    ],
)
def test_a_window_stays_in_the_picture(box, expected):
    assert seen(marked(100, 200, box), 32) == expected


@given(st.data(), st.integers(1, 90), st.integers(1, 90), st.integers(8, 200))
def test_any_window_holds_the_mask_and_its_surroundings(data, height, width, padding):
    places = st.tuples(st.integers(0, height - 1), st.integers(0, width - 1))
    mask = np.zeros((height, width), bool)
    for row, column in data.draw(st.lists(places, min_size=1, max_size=4)):
        mask[row, column] = True
    top, bottom, left, right = seen(mask, padding)
    assert 0 <= top < bottom <= height and 0 <= left < right <= width
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    assert top <= max(rows[0] - padding, 0) and bottom >= min(rows[-1] + 1 + padding, height)
    assert left <= max(columns[0] - padding, 0) and right >= min(columns[-1] + 1 + padding, width)
    h, w = bottom - top, right - left
    assert h == w or (h == height and h < w) or (w == width and w < h)


def test_holes_are_parts_far_apart_from_left_to_right():
    mask = marked(320, 640, (200, 210, 10, 20), (10, 20, 300, 310), (10, 20, 315, 320), (100, 110, 600, 640))
    numbers, count = holes(mask)  # parts closer than 20 pixels are one
    assert count == 3
    assert numbers[205, 15] == 0 and numbers[15, 305] == numbers[15, 317] == 1 and numbers[105, 620] == 2
    assert set(np.unique(numbers[mask])) == {0, 1, 2} and numbers[160, 160] == -1
    assert holes(marked(64, 64, (0, 64, 0, 64)))[1] == 1


def test_specks_are_not_filled_one_by_one():
    mask = np.zeros((640, 640), bool)
    mask[::50, ::50] = True
    with pytest.raises(
        UserError, match=r"^the mask has 169 separate parts, too many .*: take the specks away"
    ):
        holes(mask)


def test_prompts_of_holes():
    assert for_holes("a boat", 3) == ["a boat"] * 3
    assert for_holes("a boat | |a red kite", 3) == ["a boat", "", "a red kite"]
    with pytest.raises(
        UserError, match=r"^2 prompts, separated by \|, for 3 holes: give one for each, from left"
    ):
        for_holes("a|b", 3)
    with pytest.raises(UserError, match=r"^2 prompts, separated by \|, for 1 hole: "):
        for_holes("a|b", 1)
