"""Files of the benchmark that others made or damaged: the right thing, or one line within a second."""

import json
import time

import numpy as np
import pytest

from eval.coco import Coco, read_list, sample
from eval.kinds import KINDS
from eval.rows import write_rows
from eval.runs import Run
from eval.summary import summarise
from hdpainter.images import MAX_PIXELS
from ldm.util import UserError
from tests.eval.fake_run import fake_run
from tests.eval.test_coco import edited


def line(function, *arguments):
    """The message of the UserError that a call ends with, in time."""
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        function(*arguments)
    assert time.monotonic() - started < 2, "it took long to say so"
    text = str(caught.value)
    assert "\n" not in text and len(text) < 700
    return text


def first(kind, **values):
    """A change of the first entry of a kind, such as images."""
    return lambda content: content[kind][0].update(values)


def twice(kind):
    return lambda content: content[kind][1].update(id=content[kind][0]["id"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (twice("images"), "images: the id .* stands 2 times"),
        (twice("annotations"), "annotations: the id .* stands 2 times"),
        (twice("categories"), "categories: the id .* stands 2 times"),
        (first("annotations", id=-5), "annotations: the id -5 is no whole number from 0 up"),
        (first("images", id="7"), "images: the id '7' is no whole"),
        (first("images", id=True), "images: the id True is no whole"),
        (first("annotations", id=2**70), "annotations: the id .* is no whole"),
        (first("annotations", id=2**63), "annotations: the id .* is no whole"),
        (first("annotations", category_id=10**6), "no 1000000"),
        (first("annotations", image_id=-1), "no -1"),
        (first("images", width=10**6, height=10**6), r"has the size \[1000000, 1000000\]"),
        (first("images", width=10**4000), "has the size"),
        (first("images", width=MAX_PIXELS + 1, height=1), "has the size"),
        (first("images", width=0), "has the size"),
        (first("images", height=0), "has the size"),
        (first("images", width=-64), "has the size"),
        (first("images", height=64.0), "has the size"),
        (first("images", file_name=17), "has the file_name 17"),
        (first("images", file_name="../../secret.png"), "has the file_name"),
        (first("images", file_name="/etc/x.png"), "has the file_name"),
        (first("categories", name=3), "has the name 3, which is no text"),
        (first("categories", name=" "), "has the name ' '"),
    ],
)
def test_annotations_that_could_mean_another_object_are_refused(toy_root, tmp_path, change, says):
    with pytest.raises(UserError, match=says) as caught:
        edited(toy_root, tmp_path, change)
    assert "instances_val2017.json is damaged or not MSCOCO's" in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_the_least_id_and_the_largest_picture_are_right(toy_root, tmp_path):
    def change(content):
        content["annotations"] = [{**content["annotations"][0], "id": 0}]
        content["images"][0].update(width=MAX_PIXELS, height=1)

    coco = edited(toy_root, tmp_path, change)
    assert coco.size(coco.image_ids[0]) == (MAX_PIXELS, 1)


@pytest.mark.parametrize("value", [1e6, -1e6, float("nan"), float("inf"), True, "3", None])
def test_coordinates_are_numbers_near_a_picture(toy_root, tmp_path, value):
    def polygon(x):
        return first("annotations", segmentation=[[1, 1, x, 1, 1, 30]])

    near = edited(toy_root, tmp_path / "near", polygon(999_999))
    assert near.mask(near.triplet(0, 0, 0)).any()
    coco = edited(toy_root, tmp_path / "far", polygon(value))
    assert "is no list of polygons" in line(coco.mask, coco.triplet(0, 0, 0))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"images": ' + "[" * 100_000, '{"images": 1' + "0" * 5000])
def test_deep_and_long_annotations(tmp_path, text):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_text(text)
    assert "is damaged" in line(Coco, tmp_path)


def test_gaps_in_the_ids_of_categories_change_nothing(toy_root, tmp_path):
    def spread(content):
        for category in content["categories"]:
            category["id"] *= 7
        for annotation in content["annotations"]:
            annotation["category_id"] *= 7

    before, after = Coco(toy_root), edited(toy_root, tmp_path, spread)
    assert sample(before, 5) == sample(after, 5)
    for one in sample(after, 5):
        assert np.array_equal(before.mask(one), after.mask(one))


def test_a_label_that_two_categories_share_is_no_other_label(toy_root, tmp_path):
    def alike(content):
        for category in content["categories"][1:]:
            category["name"] = content["categories"][0]["name"]

    assert "has 0 usable triplets" in line(sample, edited(toy_root, tmp_path, alike), 1)


@pytest.mark.parametrize("shift", [-500, 500, -30_000, 900_000])
def test_a_polygon_outside_its_picture_is_not_drawn(toy_root, tmp_path, shift):
    def move(content):
        for annotation in content["annotations"][1:]:
            annotation["segmentation"] = [[value + shift for value in p] for p in annotation["segmentation"]]

    coco = edited(toy_root, tmp_path, move)
    assert "has 1 usable triplets" in line(sample, coco, 2)
    (only,) = sample(coco, 1)
    assert coco.mask(only).any()
    path = tmp_path / "list.csv"  # a list is taken as it is
    places = [(i, s) for i, number in enumerate(coco.image_ids) for s in range(len(coco.segments(number)))]
    write_rows(path, ["image_idx", "segment_idx"], [{"image_idx": i, "segment_idx": s} for i, s in places])
    outside = next(one for one in read_list(coco, path) if one.annotation_id != only.annotation_id)
    assert f"annotation {outside.annotation_id} in {coco.file} lies outside" in line(coco.mask, outside)


def test_a_polygon_that_reaches_out_of_its_picture_is_cut(toy_root, tmp_path):
    shape = [[-1000, -1000, 20, -1000, 20, 30, -1000, 30]]
    coco = edited(toy_root, tmp_path, first("annotations", segmentation=shape))
    one = coco.triplet(0, 0, 0)
    mask = coco.mask(one)
    assert mask[:31, :21].all() and mask.sum() == 31 * 21


@pytest.mark.parametrize("pattern", ["{index:999999999d}.png", "{index:>99999999}.png", "{index:{index}}"])
def test_patterns_do_not_make_endless_names(tmp_path, pattern):
    kind = KINDS["folder"](path=str(tmp_path), pattern=pattern)
    assert "does not fit the columns" in line(kind.identity)


# --- results folders ---


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"size": float("inf")}, "size is inf"),
        ({"size": 0}, "size is 0"),
        ({"size": "64"}, "size is '64'"),
        ({"methods": {"x" * 300: {"label": "x"}}}, "cannot be the path of a file"),
        ({"methods": {"a\0b": {"label": "x"}}}, "cannot be the path of a file"),
    ],
)
def test_a_damaged_run_json_is_told(run, change, says):
    file = run.path / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    text = line(Run.open, run.path)
    assert says in text and str(file) in text and len(text) < 500


@pytest.fixture
def run(tmp_path):
    return fake_run(tmp_path / "run")


def lines_of(run, name):
    return run.folder(name) / "manifest.jsonl"


@pytest.mark.parametrize(
    "row",
    ["[" * 100_000, '{"index": ' + "9" * 4000 + "}", '{"index": -1}', '{"index": true}', '{"index": 1e9}'],
)
def test_rows_of_a_manifest_that_are_none_do_not_count(run, row):
    name = next(name for name in run.methods if run.done(name))
    before = run.done(name)
    with lines_of(run, name).open("a") as file:
        file.write(row + "\n")
    assert Run.open(run.path).done(name) == before


@pytest.mark.parametrize("name", ["../outside", "/tmp/x", "a/b", "..", "a\\b", ""])
def test_methods_of_a_run_lie_in_its_folder(run, name):
    info = json.loads((run.path / "run.json").read_text())
    info["methods"][name] = next(iter(info["methods"].values()))
    (run.path / "run.json").write_text(json.dumps(info))
    assert "is damaged" in line(Run.open, run.path)


@pytest.mark.parametrize(("key", "value"), [("settings", [1]), ("varied", "x"), ("label", 3)])
def test_entries_of_methods_are_mappings(run, key, value):
    info = json.loads((run.path / "run.json").read_text())
    info["methods"]["painta"][key] = value
    (run.path / "run.json").write_text(json.dumps(info))
    assert "run.json is damaged (the entry of 'painta'" in line(Run.open, run.path)


def test_a_deep_run_file(run):
    (run.path / "run.json").write_text("[" * 100_000)
    assert "run.json is damaged (it is nested too deeply)" in line(Run.open, run.path)


@pytest.mark.parametrize("share", ["inf", "nan", "0", "-1", "2"])
def test_shares_of_a_mask_are_shares(run, share):
    path = run.path / "triplets.csv"
    rows = path.read_text().splitlines()
    place = rows[0].split(",").index("mask_share")
    rows[1] = ",".join(share if i == place else cell for i, cell in enumerate(rows[1].split(",")))
    path.write_text("\n".join(rows) + "\n")
    assert "mask_share" in line(Run.open, run.path)


@pytest.mark.parametrize("value", ["inf", "-inf", "1e400"])
def test_infinite_scores_are_damaged(run, value):
    name = next(name for name in run.methods if run.done(name))
    path = run.score_path(name, "clip")
    head, row, *rest = path.read_text().splitlines()
    cells = dict(zip(head.split(","), row.split(","), strict=True)) | {"clip": value}
    path.write_text("\n".join([head, ",".join(cells.values()), *rest]) + "\n")
    assert f"{path} is damaged (clip is infinite)" in line(summarise, run)
