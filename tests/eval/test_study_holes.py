"""studies/holes.py: each method fills the same holes, and a sheet shows them all."""

from itertools import islice

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hdpainter import HDPainter
from hdpainter.mini.holes import free_holes
from hdpainter.mini.world.objects import CATEGORIES
from hdpainter.models.registry import PipelineSpec
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


def test_other_weights_are_computed_with_as_the_models_own(tiny_pipeline, tmp_path):
    own = HDPainter.from_config(str(tiny_pipeline), "cpu", superres=False).models.inpainting.state_dict()
    half = {key: 2 * value.half() if value.ndim == 4 else value.clone() for key, value in own.items()}
    save_file(half, tmp_path / "other.safetensors")
    spec = study.with_weights(str(tiny_pipeline), tmp_path / "other.safetensors")
    found = HDPainter.from_config(spec, "cpu", superres=False).models.inpainting
    assert {value.dtype for value in found.parameters()} == {torch.float32}  # half is very slow on a CPU
    name, value = next((name, value) for name, value in found.named_parameters() if value.ndim == 4)
    assert torch.allclose(value, 2 * own[name], rtol=1e-2)
    assert study.with_weights("mini", None) == PipelineSpec.load("mini")


def test_settings_are_read_as_yaml():
    assert study.setting("guidance_scale=4") == ("guidance_scale", 4)
    assert study.setting("negative_prompt=a=b") == ("negative_prompt", "a=b")
    with pytest.raises(UserError, match="give name=value"):
        study.setting("steps")
