"""The benchmark's samples: bookkeeping and hulls as in the release, drawing, lists, damaged datasets."""

import hashlib
import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eval.__main__ import main
from eval.coco import Coco, read_list, sample, write_list
from hdpainter.masks import shrink
from ldm.util import CONFIGS, UserError
from tests.support import GOLDEN

FOLDER = GOLDEN / "coco"
EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Coco:
    """The annotations that the release's own code was run on."""
    root = tmp_path_factory.mktemp("coco")
    (root / "annotations").mkdir()
    shutil.copy(FOLDER / "instances.json", root / "annotations" / "instances_val2017.json")
    return Coco(root)


@pytest.fixture(scope="module")
def toy(toy_root) -> Coco:
    return Coco(toy_root)


def edited(toy_root, folder, change) -> Coco:
    """The toy dataset, without pictures, after `change` was made to its annotations."""
    content = json.loads((toy_root / "annotations" / "instances_val2017.json").read_text())
    change(content)
    (folder / "annotations").mkdir(parents=True)
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return Coco(folder)


def test_the_hash_is_of_what_was_read(toy_root, tmp_path):
    coco = edited(toy_root, tmp_path / "coco", lambda content: None)
    read = coco.file.read_bytes()
    coco.file.write_text("{}")
    assert coco.sha256 == hashlib.sha256(read).hexdigest() and coco.image_ids


def test_images_without_annotations_count(release):
    assert len(release.image_ids) == EXPECTED["n_images"]
    assert [i for i in release.image_ids if not release.segments(i)] == EXPECTED["empty_images"]


@pytest.mark.parametrize("item", EXPECTED["items"], ids=lambda item: item["image_name"])
def test_indices_labels_and_hulls_are_the_release_s(release, item):
    triplet = release.triplet(0, item["image_idx"], item["segment_idx"])
    assert (triplet.image_id, triplet.annotation_id) == (item["image_id"], item["annotation_id"])
    assert triplet.category == item["label"]
    mask = release.mask(triplet)
    assert mask.shape[::-1] == tuple(item["wh"])
    assert np.array_equal(mask, np.array(Image.open(FOLDER / item["mask_png"])) > 0)


def test_a_list_is_read_in_its_order(release):
    names = json.loads((FOLDER / "subset_expected.json").read_text())
    triplets = read_list(release, FOLDER / "subset.csv")
    assert [[f"{t.image_id}_{t.segment_idx}", t.category] for t in triplets] == names
    assert [t.index for t in triplets] == list(range(len(names)))


def test_the_authors_list_is_theirs():
    rows = (CONFIGS / "eval" / "mscoco_testset_10000.csv").read_text().splitlines()
    assert rows[:2] == ["image_idx,segment_idx", "241,5"] and len(rows) == 10_001
    assert len({row.split(",")[0] for row in rows[1:]}) == 4284


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 10), fewer=st.integers(1, 10), seed=st.integers(0, 2**32 - 1))
def test_drawing_is_deterministic_without_doubles_and_continues(toy, n, fewer, seed):
    triplets = sample(toy, n, seed)
    assert triplets == sample(toy, n, seed)
    assert len({t.annotation_id for t in triplets}) == n
    assert sample(toy, min(fewer, n), seed) == triplets[: min(fewer, n)]
    for t in triplets:
        assert t == toy.triplet(t.index, t.image_idx, t.segment_idx)


def test_every_seed_draws_another_list(toy):
    assert sample(toy, 10) == sample(toy, 10, 0) != sample(toy, 10, 1)


def test_the_other_label_is_of_nothing_in_the_image_and_the_same_in_every_list(toy):
    by_annotation = {t.annotation_id: t for t in sample(toy, 10, 0)}
    for seed in range(5):
        for t in sample(toy, 10, seed):
            present = {toy.triplet(0, t.image_idx, i).category for i in range(len(toy.segments(t.image_id)))}
            assert t.category in present and t.other not in present and t.other in toy.categories
            assert by_annotation.setdefault(t.annotation_id, t).other == t.other


def test_hulls_hold_the_polygons_and_fit_the_picture(toy):
    for t in sample(toy, 10, 0):
        mask, image = toy.mask(t), toy.image(t)
        assert image.shape == (*mask.shape, 3) and image.dtype == np.uint8
        (annotation,) = [a for a in toy.segments(t.image_id) if a["id"] == t.annotation_id]
        for polygon in annotation["segmentation"]:
            x, y = np.clip(np.reshape(polygon, (-1, 2)).astype(int), 0, 63).T
            assert mask[y, x].all()
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        assert len(contours) == 1


@pytest.mark.parametrize(
    "segmentation",
    [
        {"counts": [0, 64, 4032], "size": [64, 64]},
        [],
        [[]],
        [[3, 3, 3, 3, 3, 3]],
        [[1, 1, 5, 5, 9, 9]],
        [[1.2, 1.2, 1.8, 1.1, 1.3, 1.9]],
    ],
)
def test_crowds_empty_and_degenerate_hulls_are_not_drawn(toy_root, tmp_path, segmentation):
    def change(content):
        content["annotations"][0]["segmentation"] = segmentation

    toy = Coco(toy_root)
    whole = sum(toy.usable(a) for i in toy.image_ids for a in toy.segments(i))
    coco = edited(toy_root, tmp_path, change)
    drawn = sample(coco, whole - 1)
    assert len(drawn) == whole - 1 and 10_000_001 not in {t.annotation_id for t in drawn}
    with pytest.raises(UserError, match=f"samples is {whole}: .* has {whole - 1} usable triplets"):
        sample(coco, whole)


def test_an_image_with_things_of_all_categories_is_not_drawn(toy_root, tmp_path):
    def change(content):
        first = content["annotations"][0]
        for number, category in enumerate(content["categories"]):
            crowd = {"segmentation": {"counts": [], "size": [64, 64]}, "iscrowd": 1}
            content["annotations"].append({**first, **crowd, "id": 5 + number, "category_id": category["id"]})

    coco = edited(toy_root, tmp_path, change)
    segments = coco.segments(coco.image_ids[0])
    assert segments and not any(coco.usable(annotation) for annotation in segments)
    assert coco.triplet(0, 0, 0).other == ""


def test_a_precise_mask_is_the_union_of_the_polygons(toy_root, tmp_path):
    corner = [[2, 2, 20, 2, 20, 8, 8, 8, 8, 20, 2, 20], [], [15, 5, 30, 5, 30, 25, 15, 25]]

    def change(content):
        content["annotations"][0].update(segmentation=corner)
        for image in content["images"]:
            image.update(width=80)

    coco = edited(toy_root, tmp_path, change)
    triplet = coco.triplet(0, 0, 0)
    expected = np.zeros((64, 80), bool)
    expected[2:9, 2:21] = expected[2:21, 2:9] = expected[5:26, 15:31] = True
    assert np.array_equal(coco.mask(triplet, precise=True), expected)
    hull = coco.mask(triplet)
    assert hull[expected].all() and hull.sum() > expected.sum()


def test_the_command_draws_by_seed_0_or_resolves_a_list(toy_root, tmp_path, capsys):
    drawn, again = tmp_path / "a.csv", tmp_path / "b.csv"
    coco = ["triplets", "--coco", str(toy_root)]
    assert main([*coco, "--samples", "5", "--out", str(drawn)]) == 0
    assert read_list(Coco(toy_root), drawn) == sample(Coco(toy_root), 5, 0)
    assert main([*coco, "--list", str(drawn), "--out", str(again)]) == 0
    assert again.read_bytes() == drawn.read_bytes()
    for wrong in (
        [*coco[:1], "--samples", "5", "--out", "x"],
        [*coco, "--out", "x"],
        [*coco, "--samples", "5"],
    ):
        assert main(wrong) == 2


def test_one_category_that_is_not_in_the_image_is_enough(toy_root, tmp_path):
    def change(content):
        first = content["annotations"][0]
        content["annotations"] = [first]
        content["categories"] = [{"id": 1000, "name": "other"}] + [
            entry for entry in content["categories"] if entry["id"] == first["category_id"]
        ]

    coco = edited(toy_root, tmp_path, change)
    assert [triplet.other for triplet in sample(coco, 1)] == ["other"]
    assert coco.categories[-1] == "other"  # by their ids, whatever the file's order


@pytest.mark.parametrize(
    ("points", "right"),
    [
        ([5, 5, 20, 5, 5, 20], True),
        ([-9, 5, 20, 5, 5, 20], True),  # what is outside is cut off
        ([5, 5, 90, 5, 5, 90], True),
        ([-9, 5, -2, 5, -2, 20], False),
        ([5, -9, 20, -9, 5, -2], False),
        ([70, 5, 90, 5, 70, 20], False),
        ([5, 70, 20, 70, 5, 90], False),
    ],
)
def test_a_triangle_within_the_picture_is_enough(toy_root, tmp_path, points, right):
    def change(content):
        content["annotations"] = [{**content["annotations"][0], "segmentation": [points]}]

    coco = edited(toy_root, tmp_path, change)
    assert [coco.usable(a) for i in coco.image_ids for a in coco.segments(i)] == [right]
    if right:
        assert coco.mask(sample(coco, 1)[0]).any()


@pytest.mark.parametrize(
    ("folders", "used"),
    [(("val2017", "images"), "val2017"), (("images",), "images"), ((), "val2017"), (("val2017",), "val2017")],
)
def test_pictures_lie_in_the_folder_of_the_split_or_in_images(toy_root, tmp_path, folders, used):
    coco = edited(toy_root, tmp_path / "coco", lambda content: None)
    for name in folders:
        (tmp_path / "coco" / name).mkdir()
    assert coco.image_path(coco.triplet(0, 0, 0)).parent == tmp_path / "coco" / used


def test_a_written_list_is_read_back(toy, tmp_path):
    triplets = sample(toy, 9, 3)
    write_list(triplets, tmp_path / "list.csv")
    assert read_list(toy, tmp_path / "list.csv") == triplets
    columns = (tmp_path / "list.csv").read_text().splitlines()[0].split(",")
    assert columns[:2] == ["image_idx", "segment_idx"]
    assert sorted(columns[2:]) == ["annotation_id", "category", "file_name", "image_id", "other"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "has no column 'image_idx'; it has a, b"),
        ("", "has no column 'image_idx'; it has none"),
        ("image_idx,segment_idx\n", "lists no samples"),
        (
            "image_idx,segment_idx\n0,0\n8,0\n",
            "line 3 does not match the dataset: .* has no image 8, only 0 to 7",
        ),
        ("image_idx,segment_idx\n-1,0\n", "line 2 does not match the dataset"),
        ("image_idx,segment_idx\n0,70\n", r"no segment 70 in image 0 \(id 10000001\), which has"),
        ("image_idx,segment_idx\n0,x\n", "line 2: image_idx and segment_idx must be whole numbers"),
        ("image_idx,segment_idx\n0\n", "line 2 does not have 2 values"),
        ("image_idx,segment_idx,category\n0,0,unicorn\n", "category is 'unicorn' in the list"),
        ("image_idx,segment_idx,other\n0,0,unicorn\n", "other is 'unicorn' in the list"),
        ("image_idx,segment_idx,image_id\n0,0,139\n", "image_id is '139' in the list, '10000001' in"),
        ("\xff\xfe\x00", "is not a CSV file|has no column"),
    ],
)
def test_lists_that_are_none_or_do_not_match(toy, tmp_path, text, message):
    path = tmp_path / "list.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=message) as error:
        read_list(toy, path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "polygons", [[[1, 2, 3]], ["abc"], [1, 2], [None], [[None, 1]], [[1e9, 1]], [["1", 2]]]
)
def test_a_segmentation_that_is_no_polygons_is_one_line(toy_root, tmp_path, polygons):
    def change(content):
        content["annotations"][0]["segmentation"] = polygons

    coco = edited(toy_root, tmp_path / "coco", change)
    with pytest.raises(
        UserError, match=r"instances_val2017\.json: the segmentation of annotation \d+ is no list"
    ):
        sample(coco, 1)


def test_crowds_are_not_drawn_even_as_polygons(toy_root, tmp_path):
    def change(content):
        for annotation in content["annotations"][1:]:
            annotation["iscrowd"] = 1

    with pytest.raises(UserError, match="has 1 usable triplets"):
        sample(edited(toy_root, tmp_path / "coco", change), 2)
    with pytest.raises(UserError, match="seed is -1: "):
        sample(Coco(toy_root), 1, -1)


def test_a_list_that_is_not_there(toy, tmp_path):
    with pytest.raises(UserError, match=r"none\.csv cannot be read: No such file"):
        read_list(toy, tmp_path / "none.csv")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "",
        lambda text: '{"images": []}',
        lambda text: text.replace('"file_name"', '"name"'),
        lambda text: text.replace('"category_id"', '"kind"'),
        lambda text: text.replace('"categories"', '"labels"'),
        lambda text: text.replace('"segmentation"', '"outline"'),
        lambda text: text.replace('"width"', '"breadth"'),
        lambda text: text.replace('"height": 64', '"height": "64"'),
        lambda text: "\x00\x01",
    ],
)
def test_damaged_annotations_are_one_line(toy_root, tmp_path, damage):
    (tmp_path / "annotations").mkdir()
    file = tmp_path / "annotations" / "instances_val2017.json"
    file.write_text(damage((toy_root / "annotations" / file.name).read_text()))
    with pytest.raises(UserError, match=r"is damaged or not MSCOCO's|lists no images") as error:
        Coco(tmp_path)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_folders_that_are_no_dataset(toy_root, tmp_path):
    with pytest.raises(UserError, match=r"has no instances_\*\.json: give the folder of MSCOCO 2017"):
        Coco(tmp_path)
    with pytest.raises(UserError, match=r"instances_train2017\.json is not there"):
        Coco(toy_root, "train")
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        shutil.copy(
            toy_root / "annotations" / "instances_val2017.json",
            tmp_path / "annotations" / f"instances_{split}2017.json",
        )
    with pytest.raises(UserError, match="say which with --split"):
        Coco(tmp_path)
    assert Coco(tmp_path, "val").file.name == "instances_val2017.json"


def test_pictures_of_another_dataset_are_refused(toy_root, tmp_path):
    root = tmp_path / "coco"
    shutil.copytree(toy_root, root)
    coco = Coco(root)
    triplet = sample(coco, 1)[0]
    Image.new("RGB", (32, 48)).save(coco.image_path(triplet))
    with pytest.raises(UserError, match=r"is 32 x 48 pixels, but .* says 64 x 64"):
        coco.image(triplet)
    coco.image_path(triplet).unlink()
    with pytest.raises(UserError, match=r"is not there"):
        coco.image(triplet)


def test_an_annotation_without_points_has_no_mask(toy_root, tmp_path):
    def change(content):
        content["annotations"][0]["segmentation"] = []

    coco = edited(toy_root, tmp_path, change)
    with pytest.raises(UserError, match=r"annotation 10000001 in .* has no polygon points"):
        coco.mask(replace(coco.triplet(0, 0, 0), annotation_id=10_000_001))


def test_a_mask_at_evaluation_size_keeps_what_it_holds():
    mask = np.zeros((480, 640), bool)
    mask[100, 200] = True
    assert shrink(mask, (384, 512), "bicubic>0").any()
