"""The detector of the miniature tables: views, boxes, average precision; with mmdet also its training."""

from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hdpainter.mini.scenes import SceneCache
from hdpainter.mini.training.decoys import decoy
from hdpainter.mini.training.detector import (
    DetectorTraining,
    Views,
    average_precision,
    build_detector,
    coverage,
    crop_view,
)
from hdpainter.mini.world.objects import CATEGORIES

CONFIGS = Path(__file__).parents[3] / "configs"
sides = st.integers(12, 100)
corners = st.integers(0, 24)


@settings(max_examples=40, deadline=None)
@given(corners, corners, sides, sides)
def test_a_view_keeps_colours_under_their_boxes(x0, y0, w, h):
    image = np.zeros((128, 128, 3), np.uint8)
    image[50:70, 40:80] = (10, 200, 90)
    boxes, labels = np.array([[40.0, 50.0, 80.0, 70.0]]), np.array([4])
    window = [x0, y0, min(x0 + w, 128), min(y0 + h, 128)]
    view, found, kept = crop_view(image, boxes, labels, window, 96)
    overlap = max(min(window[2], 80) - max(x0, 40), 0) * max(min(window[3], 70) - max(y0, 50), 0)
    assume(overlap != 240)  # three tenths of the box to the pixel: rounding of the view's coordinates decides
    assert view.shape == (96, 96, 3)
    assert len(found) == len(kept) == int(overlap > 0.3 * 800)
    for u0, v0, u1, v1 in found:
        assert 0 <= u0 < u1 <= 96
        assert 0 <= v0 < v1 <= 96
        assert np.array_equal(view[int((v0 + v1) / 2), int((u0 + u1) / 2)], (10, 200, 90))


@settings(max_examples=60, deadline=None)
@given(corners, corners, sides, sides, st.integers(0, 2**32 - 1))
def test_a_decoy_takes_an_objects_place_and_nothing_else(x0, y0, w, h, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (128, 128, 3), np.uint8)
    window = np.array([x0, y0, min(x0 + w, 128), min(y0 + h, 128)])
    before, out = image.copy(), decoy(image, window, rng)
    changed = np.argwhere((out != image).any(-1))[:, ::-1]
    assert np.array_equal(image, before) and out.dtype == np.uint8
    assert len(changed) > 0.2 * (window[2:] - window[:2]).prod()
    assert (changed >= window[:2]).all() and (changed < window[2:]).all()


def test_what_a_decoy_covers_is_no_longer_labelled():
    image = np.full((1, 128, 128, 3), 90, np.uint8)
    objects = [{"category": 3, "box": [0.1, 0.1, 0.5, 0.5]}, {"category": 7, "box": [0.6, 0.6, 0.9, 0.9]}]
    views = Views(SceneCache(image, [{"objects": objects, "captions": []}]), 1, 128, 0)
    rng = np.random.default_rng(0)
    for _ in range(200):
        view, _, labels = views.view(rng)
        spoilt = len(np.unique(view.reshape(-1, 3), axis=0)) > 2  # the picture's and the padding's
        assert not spoilt or len(labels) < 2
    boxes = np.array([[0.0, 0, 10, 10], [5, 5, 15, 15], [20, 20, 30, 30]])
    assert coverage(boxes, np.array([0, 0, 10, 10])).tolist() == [1, 0.25, 0]


def scene(*objects):
    return {"objects": [{"category": c, "box": box} for c, box in objects]}


def detections(*found):
    boxes, labels, scores = ([f[i] for f in found] for i in range(3))
    return SimpleNamespace(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.long),
        scores=torch.tensor(scores),
    )


def test_average_precision_rewards_the_right_box_and_label_only():
    pytest.importorskip("pycocotools")
    records = [scene((3, [0.1, 0.1, 0.5, 0.5])), scene((3, [0.2, 0.2, 0.6, 0.9]))]
    right = [detections(([10, 10, 50, 50], 3, 0.9)), detections(([20, 20, 60, 90], 3, 0.8))]
    assert average_precision(records, right, 100) == pytest.approx(1.0)
    half = [right[0], detections(([70, 70, 99, 99], 3, 0.7))]
    assert average_precision(records, half, 100) == pytest.approx(0.5, abs=0.02)
    wrong = [detections((d.bboxes[0].tolist(), 5, 0.9)) for d in right]
    assert average_precision(records, wrong, 100) == pytest.approx(0.0)
    assert average_precision(records, [detections(), detections()], 100) == 0.0


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mmdet") is None, reason="needs mmdet")
def test_the_detector_learns_and_looks(tmp_path):
    training = DetectorTraining(
        str(CONFIGS / "models/mini-rtmdet.py"), tmp_path, size=64, scenes=8, held_out=2, batch=2, workers=1,
        steps=5, minutes=1, matrix_lr=0.01,
    )  # fmt: skip
    assert training.network.bbox_head.num_classes == len(CATEGORIES)
    assert isinstance(training.data, Views)
    loss, parts = training.loss(next(iter(training.data)))
    assert torch.isfinite(loss)
    assert {"loss_cls", "loss_bbox"} <= set(parts)
    loss.backward()
    assert set(training.evaluate()) == {"map50", "found_in_crops", "found_in_decoys"}
    assert training.sheet().dtype == np.uint8
    build_detector(CONFIGS / "models/mini-rtmdet.py").load_state_dict(training.weights(), strict=True)
