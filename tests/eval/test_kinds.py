"""What each kind of method makes."""

import io

import cv2
import numpy as np
from PIL import Image

from eval.config import Config, seed_of
from eval.generate import generate
from eval.requirements import planned
from hdpainter.blend import blend
from tests.eval.running import made


def test_bounds(write_config):
    run, _ = made(
        write_config({name: {"kind": name} for name in ("original", "mean", "telea")}),
    )
    for i in range(6):
        image, mask = run.image(i), run.mask(i)
        assert np.array_equal(run.result("original", i), image)
        filled = run.result("mean", i)
        assert np.array_equal(filled[~mask], image[~mask])
        assert np.abs(filled[mask] - image[~mask].mean(axis=0)).max() <= 0.5
        expected = cv2.inpaint(image, mask.astype(np.uint8), 3, cv2.INPAINT_TELEA)
        assert np.array_equal(run.result("telea", i), expected)


def test_the_pipeline_makes_what_hdpainter_makes(write_config, tiny_pipeline, painter):
    methods = {"painta": {"steps": 2}, "rasg": {"steps": 2, "seed": 7, "eta": 0.1}}
    run, _ = made(write_config(methods, model=str(tiny_pipeline)), limit=3)
    for name, base, eta in (("painta", 1, None), ("rasg", 7, 0.1)):
        for i in range(3):
            expected = painter(
                run.image(i), run.mask(i), run.triplets[i].prompt,
                method=name, steps=2, eta=eta, seed=seed_of(base, True, i), size=64, superres=False,
            )  # fmt: skip
            result = run.result(name, i)
            assert np.abs(result.astype(int) - np.array(expected.image)).max() <= 1
            assert np.array_equal(result[~run.mask(i)], run.image(i)[~run.mask(i)])


def test_values_of_a_method_can_be_replaced_by_their_place(write_config, tiny_pipeline):
    methods = {
        "painta": {"steps": 2},
        "same": {"method": "painta", "steps": 2, "painta.until": 500},
        "never": {"method": "painta", "steps": 2, "painta.until": 999},
        "base": {"method": "stable-inpainting", "steps": 2},
        "one level": {"method": "painta", "steps": 2, "painta_levels": [2]},
    }
    run, _ = made(write_config(methods, model=str(tiny_pipeline)), limit=1)
    pictures = {name: run.result(name, 0).astype(int) for name in methods}
    assert np.array_equal(pictures["painta"], pictures["same"])
    assert np.abs(pictures["never"] - pictures["base"]).max() <= 1
    assert not np.array_equal(pictures["painta"], pictures["base"])
    assert not np.array_equal(pictures["painta"], pictures["one level"])


def test_reconstruction_keeps_the_known_region_unless_told_otherwise(write_config, tiny_pipeline):
    methods = {
        "reconstruction": {"kind": "reconstruction"},
        "decoded": {"kind": "reconstruction", "known_region": "decoded"},
    }
    run, _ = made(write_config(methods, model=str(tiny_pipeline)), limit=2)
    for i in range(2):
        image, mask, decoded = run.image(i), run.mask(i), run.result("decoded", i)
        assert not np.array_equal(decoded[~mask], image[~mask])
        assert np.array_equal(run.result("reconstruction", i), blend(image, decoded, mask))


def test_folders_of_results_made_elsewhere(write_config, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    methods = {
        "theirs": {"kind": "folder", "path": str(theirs), "pattern": "{image_id}-{annotation_id}.png"},
        "resized": {"kind": "folder", "path": str(theirs), "pattern": "{index}.png", "resize": "lanczos"},
        "joined": {"kind": "folder", "path": str(theirs), "pattern": "{index}.png", "resize": "lanczos",
                   "known_region": "exact"},
        "missing": {"kind": "folder", "path": None, "why_not": "not published"},
    }  # fmt: skip
    config = write_config({"mean": {"kind": "mean"}, **methods})
    run, _ = made(config, methods=["mean"])
    assert run.methods == ["mean", "missing"]
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in run.triplets]
    for sample, picture in zip(run.triplets, pictures, strict=True):
        Image.fromarray(picture).save(theirs / f"{sample.image_id}-{sample.annotation_id}.png")
        Image.fromarray(picture[::2, ::2]).save(theirs / f"{sample.index}.png")
    run, _ = made(config)
    assert run.methods == ["mean", "theirs", "resized", "joined", "missing"]
    for i, picture in enumerate(pictures):
        assert np.array_equal(run.result("theirs", i), picture)
        resized = Image.fromarray(picture[::2, ::2]).resize((64, 64), Image.Resampling.LANCZOS)
        assert np.array_equal(run.result("resized", i), np.array(resized))
        assert np.array_equal(run.result("joined", i)[~run.mask(i)], run.image(i)[~run.mask(i)])
    assert run.method("missing")["why_not"] == "not published" and run.done("missing") == []


def test_results_of_another_size_and_missing_ones_are_reported_and_the_rest_goes_on(write_config, tmp_path):
    (tmp_path / "theirs").mkdir()
    for i, side in enumerate((64, 32, 64)):
        Image.new("RGB", (side, 64)).save(tmp_path / "theirs" / f"{i:06d}.png")
    config = Config.load(write_config({"theirs": {"kind": "folder", "path": str(tmp_path / "theirs")}}))
    tally = generate(config, devices=["cpu"], limit=4, stream=io.StringIO())
    assert tally.run.done("theirs") == [0, 2] and tally.made == 2
    (_, first, wrong), (_, second, gone) = tally.failures
    assert first == 1 and "is 32 x 64 pixels instead of 64 x 64: set resize" in wrong
    assert second == 3 and "000003.png is not there" in gone


def test_results_made_elsewhere_are_copied_again_where_they_changed(write_config, tmp_path):
    (tmp_path / "theirs").mkdir()
    files = [tmp_path / "theirs" / f"{i:06d}.png" for i in range(4)]
    for file in files:
        Image.new("RGB", (64, 64)).save(file)
    config = Config.load(write_config({"theirs": {"kind": "folder", "path": str(tmp_path / "theirs")}}))

    def again():
        return generate(config, devices=["cpu"], limit=4, stream=io.StringIO())

    assert again().made == 4
    assert again().made == 0
    Image.new("RGB", (64, 64), "red").save(files[1])
    Image.new("RGB", (32, 32)).save(files[2])
    files[3].unlink()
    assert planned(config, limit=4).results == 2, "check announces what generate does"
    tally = again()
    run = tally.run
    assert (tally.made, tally.skipped, len(tally.failures)) == (1, 2, 1)
    assert (run.result("theirs", 1) == (255, 0, 0)).all()
    assert run.done("theirs") == [0, 1, 3], "what does not fit any more is gone; what is nowhere else stays"
