"""The results folder: what is written is read back, what is damaged says so."""

import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from eval.runs import MANIFEST, Run
from hdpainter.images import save_png
from ldm.util import UserError
from tests.eval.fake_run import fake_run, write_scores

EMPTY = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return fake_run(tmp_path_factory.mktemp("runs") / "run", 6)


texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)
numbers = st.floats(allow_nan=False, width=64) | st.none()


@EMPTY
@given(rows=st.dictionaries(st.integers(0, 5), st.tuples(numbers, texts | st.none()), max_size=6))
def test_scores_come_back_aligned_with_the_samples(run, rows):
    written = [{"index": i, "value": number, "best": text} for i, (number, text) in rows.items()]
    write_scores(run, "painta", "something", written)
    scores = run.scores("painta", "something")
    if not rows:
        assert scores == {}
        return
    assert set(scores) == {"value", "best"} and len(scores["value"]) == len(scores["best"]) == 6
    for i in range(6):
        number, text = rows.get(i, (None, None))
        assert scores["value"][i] == number or (number is None and math.isnan(scores["value"][i]))
        read = scores["best"][i]
        if scores["best"].dtype == object:
            assert read == (text or "")
        else:  # all of its texts are numbers, or there are none
            assert math.isnan(read) if not text else (read == float(text) or math.isnan(float(text)))


def test_scores_that_were_not_computed_are_none(run):
    assert run.scores("hd-painter", "nothing") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "no column 'index'"),
        ("index,clip\nx,2\n", "is damaged"),
        ("index,clip\n6,2\n", "an index is out of range"),
        ("index,clip\n-1,2\n", "an index is out of range"),
        ("index,clip\n1\n", "line 2 does not have 2 values"),
    ],
)
def test_damaged_scores(run, text, message):
    path = run.score_path("painta", "damaged")
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        run.scores("painta", "damaged")
    assert str(path) in str(error.value)


def test_pictures_and_masks(run):
    image, mask = run.image(0), run.mask(0)
    assert image.shape == (*mask.shape, 3) and image.dtype == np.uint8
    assert mask.dtype == bool and mask.any() and not mask.all()
    assert run.result("painta", 0).shape == image.shape
    assert run.result("glide", 0) is None
    assert run.methods[0] == "stable-inpainting" and run.label("painta") == "only PAIntA"
    assert run.method("glide")["why_not"] == "weights not included"
    assert np.array_equal(run.mask_shares, [sample.mask_share for sample in run.triplets])
    with pytest.raises(UserError, match="has no method 'dalle'; it has stable-inpainting"):
        run.method("dalle")


def test_done_is_what_the_manifest_lists_and_what_is_there(tmp_path):
    run = fake_run(tmp_path / "run", 5)
    path = run.folder("painta") / MANIFEST
    rows = [json.dumps({"index": i, "seed": 1}) for i in (3, 0, 4)]
    path.write_text("\n".join([*rows, "[1]", '{"seed": 2}', '{"index": 2, "se']))
    assert run.done("painta") == [0, 3, 4]
    assert run.manifest("painta")[3] == {"index": 3, "seed": 1}
    run.result_path("painta", 3).unlink()
    assert run.done("painta") == [0, 4]
    assert run.done("glide") == []


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.tuples(st.integers(1, 20), st.integers(1, 20)), seed=st.integers(0, 2**32 - 1))
def test_pictures_are_lossless(tmp_path, size, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    run = Run(tmp_path, {"methods": {}, "size": 20}, [])
    run.folder("a").mkdir(exist_ok=True)
    save_png(Image.fromarray(pixels), run.result_path("a", 7), scratch=tmp_path)
    assert np.array_equal(run.result("a", 7), pixels)
    assert [path.name for path in run.folder("a").iterdir()] == ["000007.png"]
    assert not list(tmp_path.glob("*.png"))


def test_folders_that_are_no_run(tmp_path):
    with pytest.raises(UserError, match=r"is not a results folder: it has no run\.json"):
        Run.open(tmp_path)
    run = fake_run(tmp_path / "run", 3)
    whole = (run.path / "run.json").read_text()
    start = '{"size": 1, "benchmark": {}, "methods": '
    for text in (whole[:50], "[]", "{}", f"{start}[]}}", f'{start}{{"a": 3}}}}', f'{start}{{"a": {{}}}}}}'):
        (run.path / "run.json").write_text(text)
        with pytest.raises(UserError, match=r"run\.json is damaged"):
            Run.open(run.path)
    (run.path / "run.json").write_text(whole)
    lines = (run.path / "triplets.csv").read_text().splitlines()
    for damaged in ([lines[0], lines[2]], [lines[0], lines[1].replace("100", "x")], lines[1:]):
        (run.path / "triplets.csv").write_text("\n".join(damaged))
        with pytest.raises(UserError, match=r"triplets\.csv (is damaged|has no column)"):
            Run.open(run.path)
