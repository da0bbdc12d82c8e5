"""studies/holes.py: each method fills the same holes, and a sheet shows them all."""

from itertools import islice

import numpy as np
import pytest

from hdpainter import HDPainter
from hdpainter.mini.holes import free_holes
from hdpainter.mini.world.objects import CATEGORIES
from ldm.util import UserError
from studies import holes as study


@pytest.fixture(scope="module")
def holes():
    return [hole for category in CATEGORIES[:2] for hole in islice(free_holes(category, 64), 6)]


def test_fills_are_those_of_the_pipeline_and_leave_the_rest_alone(holes, tiny_pipeline):
    painter = HDPainter.from_config(str(tiny_pipeline), superres=False)
    pictures = study.fill(painter, holes, "painta", 64, steps=1)
    assert len(pictures) == len(holes) == study.BATCH + 2  # more than a batch
    for hole, picture in zip(holes, pictures, strict=True):
        original = hole.scene.render(64)
        assert np.array_equal(picture[~hole.mask], original[~hole.mask])
        assert not np.array_equal(picture, original)


def test_a_sheet_has_a_cell_for_each_hole_in_red_where_it_fails(holes):
    hits = [1] + [0] * (len(holes) - 1)
    sheet = np.array(study.sheet([hole.scene.render(64) for hole in holes], holes, hits))
    assert sheet.shape[1] == study.COLUMNS * (study.CELL + 3) - 3
    first, second = (
        sheet[: study.HEAD, i * (study.CELL + 3) : i * (study.CELL + 3) + study.CELL] for i in (0, 1)
    )
    assert (first[..., 0] == first[..., 1]).all() and first.min() < 100
    assert (second[..., 0] > second[..., 1]).any()
    assert study.by_category(holes, hits) == {c.name: int(c is CATEGORIES[0]) for c in CATEGORIES}


def test_settings_are_read_as_yaml():
    assert study.setting("guidance_scale=4") == ("guidance_scale", 4)
    assert study.setting("negative_prompt=a=b") == ("negative_prompt", "a=b")
    with pytest.raises(UserError, match="give name=value"):
        study.setting("steps")
