"""The toy world: same scene at every size, honest annotations, true MSCOCO files."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hdpainter.mini.scenes import DRAWING, scene_cache
from hdpainter.mini.training.masks import random_mask
from hdpainter.mini.world.objects import CATEGORIES
from hdpainter.mini.world.toycoco import annotations, describe_scene, export, main
from ldm.util import UserError

GOLDEN = Path(__file__).parents[2] / "golden"
indices = st.integers(0, 10**6)
splits = st.sampled_from(["train", "val"])


@settings(max_examples=10, deadline=None)
@given(splits, indices)
def test_a_scene_is_the_same_at_every_size(split, index):
    scene = describe_scene(split, index)
    small, large = scene.render(128), scene.render(512)
    reduced = cv2.resize(large, (128, 128), interpolation=cv2.INTER_AREA)
    difference = np.abs(small.astype(float) - reduced)
    assert difference.mean() < 1.5
    assert np.percentile(difference, 99) < 40  # only edges differ


def test_scenes_do_not_depend_on_the_machine():
    golden = cv2.cvtColor(cv2.imread(str(GOLDEN / "toycoco_val_0.png")), cv2.COLOR_BGR2RGB)
    difference = np.abs(describe_scene("val", 0).render(64).astype(int) - golden)
    assert difference.max() <= 8  # OpenCV versions may round anti-aliased edges otherwise
    assert describe_scene("val", 0).captions[0] == (
        "a picture of a donut, a pink kite and a white sports ball in front of a brick wall"
    )


def test_train_and_val_share_no_scene():
    train, val = ({_description(describe_scene(split, i)) for i in range(100)} for split in ("train", "val"))
    assert len(train) == len(val) == 100
    assert not train & val


def _description(scene):
    """All that a scene is made of, as bytes."""
    shapes = [shape for item in scene.objects for shape in (*item.shadow, *item.shapes)]
    return b"".join(shape.points.tobytes() + bytes(shape.colour) for shape in shapes)


@settings(max_examples=20, deadline=None)
@given(indices)
def test_a_scene_can_be_drawn_again(index):
    train, again = describe_scene("train", index), describe_scene("train", index)
    assert np.array_equal(again.render(32), train.render(32))
    assert again.captions == train.captions


@settings(max_examples=15, deadline=None)
@given(splits, indices)
def test_captions_name_every_object(split, index):
    scene = describe_scene(split, index)
    assert 1 <= len(scene.objects) <= 4
    for caption in scene.captions:
        for item in scene.objects:
            assert item.category.name in caption


@settings(max_examples=15, deadline=None)
@given(splits, indices)
@example("val", 88)  # has a part of one pixel
def test_annotations_outline_what_is_visible(split, index):
    scene = describe_scene(split, index)
    masks = scene.visible_masks(128)
    assert masks.sum(0).max() <= 1  # nearer objects hide farther ones
    found = annotations(scene, 128)
    visible = [mask for mask in masks if mask.any()]
    for annotation, mask in zip(found, visible, strict=True):
        drawn = np.zeros((128, 128), np.uint8)
        for polygon in annotation["segmentation"]:
            points = np.reshape(polygon, (-1, 2)) * 16 - 8  # pixel centres, 4 fractional bits
            cv2.fillPoly(drawn, [np.round(points).astype(np.int32)], 1, cv2.LINE_8, 4)
        filled = np.zeros((128, 128), np.uint8)  # an outline does not tell of holes
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(filled, contours, -1, 1, -1)
        union, common = (drawn | filled).sum(), (drawn & filled).sum()
        assert common / union > 0.8 or union - common <= 24
        x, y, w, h = annotation["bbox"]
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert np.abs(np.subtract([x, y, x + w, y + h], box)).max() <= 0.3  # a quarter inside, rounded
        assert annotation["area"] == mask.sum()


def test_categories_are_those_of_mscoco():
    names = {
        3: "car", 5: "airplane", 6: "bus", 9: "boat", 10: "traffic light", 13: "stop sign", 28: "umbrella",
        37: "sports ball", 38: "kite", 44: "bottle", 47: "cup", 52: "banana", 53: "apple", 55: "orange",
        59: "pizza", 60: "donut", 61: "cake", 85: "clock", 86: "vase", 88: "teddy bear",
    }  # fmt: skip
    assert {c.id: c.name for c in CATEGORIES} == names and len(CATEGORIES) == 20


def test_export_is_read_by_pycocotools(tmp_path, capsys):
    coco_module = pytest.importorskip("pycocotools.coco")
    out = tmp_path / "toy"
    assert main(["--split", "val", "--images", "6", "--size", "96", "--out", str(out)]) == 0
    assert "images per second" in capsys.readouterr().out
    instances = coco_module.COCO(str(out / "annotations/instances_val2017.json"))
    captions = coco_module.COCO(str(out / "annotations/captions_val2017.json"))
    assert len(instances.getImgIds()) == 6
    for number, i in zip(sorted(instances.getImgIds()), range(6), strict=True):
        info = instances.loadImgs(number)[0]
        image = cv2.imread(str(out / "val2017" / info["file_name"]))
        assert image.shape == (96, 96, 3)
        assert np.array_equal(image[..., ::-1], describe_scene("val", i).render(96))
        assert len(captions.loadAnns(captions.getAnnIds(number))) >= 1
        for annotation in instances.loadAnns(instances.getAnnIds(number)):
            mask = instances.annToMask(annotation)
            assert mask.shape == (96, 96)
            assert abs(mask.sum() - annotation["area"]) < 0.35 * annotation["area"] + 30


def test_export_leaves_nothing_half_done(tmp_path, monkeypatch):
    out = tmp_path / "toy"

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(json, "dumps", fail)
    with pytest.raises(OSError, match="disk full"):
        export("val", 2, 32, out)
    assert not out.exists()


def test_bad_requests_name_the_mistake(tmp_path):
    with pytest.raises(UserError, match="test"):
        describe_scene("test", 0)
    with pytest.raises(UserError, match="at least 1 image"):
        export("val", 0, 64, tmp_path / "a")
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match="already exists"):
        export("val", 1, 64, tmp_path / "b")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([32, 128, 256]))
def test_random_masks_are_never_empty_and_repeatable(seed, size):
    mask = random_mask(np.random.default_rng(seed), size)
    assert mask.shape == (size, size)
    assert mask.dtype == bool
    assert mask.any()
    assert np.array_equal(mask, random_mask(np.random.default_rng(seed), size))


def test_a_mask_beside_the_picture_is_drawn_again():
    assert random_mask(np.random.default_rng(17559), 64).any()  # its first box lies outside


def test_random_masks_have_all_sizes():
    rng = np.random.default_rng(0)
    shares = np.array([random_mask(rng, 64).mean() for _ in range(300)])
    assert 0.08 < (shares == 1).mean() < 0.25
    assert (shares < 0.2).mean() > 0.1
    assert (shares > 0.5).mean() > 0.2


def test_a_cache_holds_the_scenes_themselves(tmp_path):
    cache = scene_cache(tmp_path, "train", 3, 48)
    assert cache.images.shape == (3, 48, 48, 3)
    for i in range(3):
        scene = describe_scene("train", i)
        assert np.array_equal(cache.images[i], scene.render(48))
        assert tuple(cache.records[i]["captions"]) == scene.captions
    pictures = tmp_path / f"train-3-48-{DRAWING}" / "images.npy"
    stamp = pictures.stat().st_mtime_ns
    assert len(scene_cache(tmp_path, "train", 3, 48).records) == 3
    assert pictures.stat().st_mtime_ns == stamp  # not drawn again


DRAWER = """
import sys, time
from pathlib import Path
from hdpainter.mini import scenes as cache

folder, me, other = Path(sys.argv[1]), *sys.argv[2:]
drawn, describe = [], cache.describe_scene
cache.describe_scene = lambda *scene: drawn.append(scene) or describe(*scene)
(folder / me).touch()
while not (folder / other).exists():
    time.sleep(0.001)
images = cache.scene_cache(folder, "val", 40, 64).images
print(len(drawn), cache.hashlib.sha256(images).hexdigest())
"""


def test_two_processes_that_start_together_draw_a_cache_once(tmp_path):
    started = [
        subprocess.Popen([sys.executable, "-c", DRAWER, tmp_path, *pair], stdout=subprocess.PIPE, text=True)
        for pair in (("one", "two"), ("two", "one"))
    ]
    (one, seen), (two, seen_too) = (process.communicate(timeout=120)[0].split() for process in started)
    assert sorted((int(one), int(two))) == [0, 40]
    assert seen == seen_too
