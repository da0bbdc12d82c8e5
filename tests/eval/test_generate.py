"""Results of methods on samples: samples and inputs, seeds, continuing, refusals."""

import json
import shutil
import threading
import time

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from eval import generate
from eval.models import weights_in
from eval.rows import write_rows
from eval.version import code_version
from hdpainter.files import file_sha256
from hdpainter.masks import stage_size
from hdpainter.mini.scenes import DRAWING
from hdpainter.models.hashes import checkpoint_sha256
from hdpainter.models.random_weights import write_random_checkpoint
from ldm.util import UserError
from tests.eval.running import BASE, made
from tests.eval.test_coco import edited


def test_inputs_are_the_dataset_at_evaluation_size(write_config, toy_root):
    run, _ = made(write_config({"original": {"kind": "original"}}, benchmark={"size": 48}))
    assert len(run.triplets) == 6 and run.size == 48
    for sample in run.triplets:
        original = Image.open(toy_root / "val2017" / sample.file_name)
        expected = original.resize((48, 48), Image.Resampling.BICUBIC)
        assert np.array_equal(run.image(sample.index), np.array(expected))
        assert np.array_equal(run.result("original", sample.index), np.array(expected))
        assert sample.mask_share == pytest.approx(run.mask(sample.index).mean()) and sample.mask_share > 0
        assert sample.prompt == sample.category


def test_evaluation_sizes_are_the_pipeline_s(write_config):
    run, _ = made(write_config({"mean": {"kind": "mean"}}, benchmark={"size": 40}), limit=1)
    assert run.image(0).shape[:2] == stage_size(64, 64, 40)


def test_prompts_of_other_labels(write_config):
    config = write_config({"mean": {"kind": "mean"}}, benchmark={"prompt": "other"})
    run, _ = made(config, limit=1)
    assert all(sample.prompt != sample.category for sample in run.triplets)
    assert run.info["benchmark"]["prompt"] == "other" and run.info["benchmark"]["n"] == 6
    assert run.done("mean") == [0]


def test_toy_coco_is_drawn_where_it_is_not_there_and_used_again(write_config, tmp_path):
    benchmark = {"coco": "toy", "images": 3, "samples": 2, "cache": str(tmp_path / "cache")}
    config = write_config({"mean": {"kind": "mean"}}, benchmark=benchmark)
    _, said = made(config)
    assert "drawing toy COCO, 3 pictures of 64 px" in said
    (root,) = (path for path in (tmp_path / "cache").iterdir() if not path.name.startswith("."))
    (tmp_path / "again").mkdir()
    config.write_text(config.read_text().replace("/run", "/other-run"))
    assert "drawing" not in made(config)[1] and root.is_dir()


def test_toy_coco_that_another_process_draws_is_waited_for(write_config, tmp_path, toy_root, monkeypatch):
    cache = tmp_path / "cache"
    benchmark = {"coco": "toy", "images": 8, "samples": 2, "cache": str(cache)}
    config = write_config({"mean": {"kind": "mean"}}, benchmark=benchmark)
    monkeypatch.setattr("hdpainter.mini.world.toycoco.export", lambda *_: pytest.fail("drawn twice"))
    cache.mkdir()
    held = threading.Event()

    def draw():
        with FileLock(cache / ".lock"):
            held.set()
            time.sleep(0.5)
            shutil.copytree(toy_root, cache / f"toycoco-val-8-64-{DRAWING}")

    threading.Thread(target=draw).start()
    held.wait()
    run, said = made(config)
    assert "waiting for another process" in said and run.done("mean") == [0, 1]


def test_missing_images_are_found_before_anything_is_made(toy_root, tmp_path, write_config):
    edited(toy_root, tmp_path / "coco", lambda content: None)  # has no pictures
    config = write_config({"mean": {"kind": "mean"}}, benchmark={"coco": str(tmp_path / "coco")})
    with pytest.raises(UserError, match=r"^6 of 6 images are missing, the first is .*\.png$"):
        made(config)
    assert not (tmp_path / "run" / "mean").exists()


def test_runs_with_other_seeds_differ_and_say_so(write_config, tiny_pipeline):
    methods = {"stable-inpainting": {"steps": 2, "seed": [1, 2]}}
    run, _ = made(write_config(methods, model=str(tiny_pipeline)), limit=2)
    first, second = run.methods
    assert run.method(second)["varied"] == {"seed": 2} and run.method(second)["base"] == "stable-inpainting"
    assert not np.array_equal(run.result(first, 0), run.result(second, 0))
    assert [row["seed"] for row in run.manifest(second).values()] == [2_000_000, 2_000_001]


def test_results_of_another_benchmark_are_refused(write_config):
    made(write_config({"mean": {"kind": "mean"}}))
    for changed in ({"samples": 5}, {"seed": 1}, {"size": 32}, {"prompt": "other"}):
        with pytest.raises(UserError, match=r"was made with another config .*; give another --out"):
            made(write_config({"mean": {"kind": "mean"}}, benchmark=changed))


def test_results_of_a_method_with_other_settings_are_refused(write_config):
    config = write_config({"telea": {"kind": "telea"}})
    run, _ = made(config)
    with pytest.raises(UserError, match=r"has results of telea with other settings \(radius 3.0 -> 5.0\)"):
        made(write_config({"telea": {"kind": "telea", "radius": 5.0}}))
    for path in run.folder("telea").iterdir():
        path.unlink()
    assert "6 made" in made(write_config({"telea": {"kind": "telea", "radius": 5.0}}))[1]


def test_a_folder_without_its_description_is_refused(write_config):
    config = write_config({"mean": {"kind": "mean"}})
    run, _ = made(config, limit=2)
    (run.path / "run.json").unlink()
    for folder in ("inputs", "mean"):
        with pytest.raises(UserError, match=rf"has {folder}/.* but no run\.json"):
            made(config)
        shutil.rmtree(run.folder(folder))
    assert "6 made" in made(config)[1]


def test_scores_of_unknown_samples_are_refused(write_config):
    run, _ = made(write_config({"original": {"kind": "original"}}))
    write_rows(run.score_path("original", "clip"), ["index", "clip"], [{"index": 0, "clip": 30}])
    for path in (
        *run.folder("original").glob("*.*"),
        *(run.path / "inputs").iterdir(),
        run.path / "run.json",
    ):
        path.unlink()
    with pytest.raises(UserError, match=r"has original/scores/clip\.csv but no run\.json.* delete .*scores"):
        made(write_config({"original": {"kind": "original"}}, benchmark={"seed": 1}))


def test_results_of_other_settings_do_not_count(write_config):
    config = write_config({"mean": {"kind": "mean"}})
    run, _ = made(config)
    path = run.folder("mean") / "manifest.jsonl"
    first, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([json.dumps({**json.loads(first), "settings": "others"}) + "\n", *rest]))
    assert run.done("mean") == [1, 2, 3, 4, 5]
    assert "1 made, 5 made before" in made(config)[1]


def test_one_method_is_of_one_dtype(write_config, tiny_pipeline):
    config = write_config({**BASE, "mean": {"kind": "mean"}}, model=str(tiny_pipeline))
    run, _ = made(config, limit=1)
    assert (run.dtypes("stable-inpainting"), run.dtypes("mean")) == ({"float32"}, set())
    other = write_config({**BASE, "mean": {"kind": "mean"}}, model=str(tiny_pipeline), dtype="bfloat16")
    with pytest.raises(
        UserError, match=r"stable-inpainting in float32, and now it would be bfloat16: give --dt"
    ):
        made(other)
    assert "2 made, 1 made before" in made(other, methods=["mean"], limit=3)[1]
    path = run.folder("stable-inpainting") / "manifest.jsonl"
    path.write_text(path.read_text().replace('"dtype"', '"of old"'))  # older results do not say
    assert "1 made, 1 made before" in made(other, methods=["stable-inpainting"], limit=2)[1]


def test_one_method_is_of_one_file_of_weights(write_config, tiny_pipeline, tmp_path):
    shutil.copytree(tiny_pipeline.parent, tmp_path / "models")
    weights = tmp_path / "models" / "tiny-inpainting.safetensors"
    model = str(tmp_path / "models" / tiny_pipeline.name)
    config = write_config({**BASE, "mean": {"kind": "mean"}}, model=model)
    run, _ = made(config, limit=1)
    first = file_sha256(weights)
    assert weights_in(run.method("stable-inpainting")["settings"]) == first
    assert weights_in(run.method("mean")["settings"]) is None
    assert run.noted("stable-inpainting", "code") == run.noted("mean", "code") == {code_version()}

    write_random_checkpoint(tmp_path / "models" / "tiny-inpainting.yaml", weights, seed=1)
    second = file_sha256(weights)
    with pytest.raises(UserError) as refused:
        made(config)
    for word in ("results of stable-inpainting", first[:12], second[:12], str(weights), "give another --out"):
        assert word in str(refused.value)
    assert "\n" not in str(refused.value)

    added = write_config({"painta": {"steps": 2}, "mean": {"kind": "mean"}}, model=model)
    run, said = made(added, limit=2)
    assert "3 made, 1 made before" in said, "methods without these weights go on, and others may be added"
    found = {name: weights_in(run.method(name)["settings"]) for name in run.methods}
    assert found == {"stable-inpainting": first, "painta": second, "mean": None}


def test_weights_that_are_replaced_before_they_are_loaded_make_nothing(
    write_config, tiny_pipeline, tmp_path, monkeypatch
):
    folder = shutil.copytree(tiny_pipeline.parent, tmp_path / "models")
    write = generate.write_inputs

    def meanwhile(*arguments):
        write(*arguments)
        write_random_checkpoint(
            folder / "tiny-inpainting.yaml", folder / "tiny-inpainting.safetensors", seed=1
        )
        checkpoint_sha256(folder / "tiny-inpainting.safetensors")

    monkeypatch.setattr(generate, "write_inputs", meanwhile)
    with pytest.raises(UserError, match=r"tiny\.yaml: the weights have changed since the run began"):
        made(write_config(BASE, model=str(folder / tiny_pipeline.name)), limit=1)


def test_methods_can_be_added_and_those_of_before_stay(write_config):
    made(write_config({"mean": {"kind": "mean"}, "telea": {"kind": "telea"}}))
    run, said = made(write_config({"original": {"kind": "original"}, "telea": {"kind": "telea"}}))
    assert "6 made, 6 made before" in said
    assert run.methods == ["original", "telea", "mean"]
    assert all(run.done(name) == list(range(6)) for name in run.methods)
