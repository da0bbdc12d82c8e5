"""``python -m eval score``: what is scored, kept, refused."""

import io
import json
import os
import re

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from eval.__main__ import main
from eval.metrics import Metric
from eval.rows import read_rows, write_rows
from eval.runs import Run
from eval.score import of_folders, of_run, score
from eval.summary import summarise
from hdpainter.files import file_sha256
from hdpainter.images import load_image
from ldm.util import UserError

from .fake_run import fake_run
from .judges import tiny_clip


class Brightness(Metric):
    """The mean of a result; counts what it is asked, and can fail."""

    name, columns, label = "brightness", ("mean", "word"), "Brightness"

    def __init__(self, settings=(), fail_after=None):
        self.asked, self.given, self.fail_after = [], dict(settings), fail_after

    @property
    def settings(self):
        return self.given

    def __call__(self, images, masks, prompts, originals):
        if self.fail_after is not None and len(self.asked) >= self.fail_after:
            raise RuntimeError("out of memory")
        self.asked += prompts
        return {
            "mean": [float(i.mean()) for i in images],
            "word": [None if p == "cat" else p for p in prompts],
        }


@pytest.fixture
def run(tmp_path):
    return fake_run(tmp_path / "run", 10, metrics=())


def scored(run, metric, **options):
    path = run.score_path("painta", metric.name)
    return score(of_run(run, "painta"), metric, path, batch_size=4, stream=io.StringIO(), **options)


def age(path, seconds=10):
    """Make a file older."""
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def test_every_finished_result_gets_a_row(run):
    rows = scored(run, Brightness())
    expected = [run.result("painta", i).mean() for i in range(10)]
    stored = run.scores("painta", "brightness")
    np.testing.assert_allclose(stored["mean"], expected)
    assert list(stored["word"]) == [s.prompt.replace("cat", "") for s in run.triplets]
    assert [row["index"] for row in rows] == list(range(10))
    record = json.loads(run.score_path("painta", "brightness").with_suffix(".json").read_text())
    assert (record["label"], record["notes"]) == ("Brightness", [])


def test_nothing_is_scored_twice_unless_it_changed(run):
    scored(run, Brightness())
    again = Brightness()
    assert scored(run, again)[3]["index"] == "3"
    assert again.asked == []

    for path in run.folder("painta").rglob("*.*"):
        age(path)
    Image.fromarray(255 - run.result("painta", 7)).save(run.result_path("painta", 7))  # made again, otherwise
    assert np.isnan(run.scores("painta", "brightness")["mean"][7])
    scored(run, again)
    assert again.asked == [run.triplets[7].prompt]
    np.testing.assert_allclose(run.scores("painta", "brightness")["mean"][7], run.result("painta", 7).mean())

    other = Brightness({"model": "larger"})
    scored(run, other)
    assert len(other.asked) == 10


def test_copies_are_not_scored_again(run):
    """Copying makes files new; with the pictures' digests in the manifest and the scores they are known."""
    rows = [
        {**row, "sha256": file_sha256(run.result_path("painta", i))}
        for i, row in sorted(run.manifest("painta").items())
    ]
    (run.folder("painta") / "manifest.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    scored(run, Brightness())
    age(run.score_path("painta", "brightness"))
    for i in range(10):
        run.result_path("painta", i).touch()
    assert np.isfinite(run.scores("painta", "brightness")["mean"]).all()
    metric = Brightness()
    scored(run, metric)
    assert metric.asked == []
    age(run.score_path("painta", "brightness"))
    Image.fromarray(255 - run.result("painta", 3)).save(run.result_path("painta", 3))
    scored(run, metric)
    assert metric.asked == [run.triplets[3].prompt]


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"settings": {}, "columns": ["mean"]}'])
def test_scores_without_a_sound_record_are_made_again(run, damage):
    scored(run, Brightness())
    run.score_path("painta", "brightness").with_suffix(".json").write_text(damage)
    metric = Brightness()
    scored(run, metric)
    assert len(metric.asked) == 10


def test_a_judge_that_cannot_work_costs_no_scores(run):
    scored(run, Brightness())
    with pytest.raises(RuntimeError):
        scored(run, Brightness({"model": "mistaken"}, fail_after=0))
    metric = Brightness()
    scored(run, metric)
    assert metric.asked == []


def test_a_full_disk_is_one_line(run, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(UserError, match=r"brightness\.json cannot be written: No space left"):
        scored(run, Brightness())
    monkeypatch.setattr(FileLock, "acquire", full)
    with pytest.raises(UserError, match=r"brightness\.csv cannot be written: No space left"):
        scored(run, Brightness())


def test_new_results_are_added_and_vanished_ones_dropped(run):
    manifest = run.folder("painta") / "manifest.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(lines[:6]))
    scored(run, Brightness())
    assert np.isfinite(run.scores("painta", "brightness")["mean"]).sum() == 6
    manifest.write_text("".join(lines[1:]))
    metric = Brightness()
    scored(run, metric)
    assert len(metric.asked) == 4
    assert list(np.isnan(run.scores("painta", "brightness")["mean"])) == [True] + [False] * 9
    manifest.write_text("".join(lines[5:]))
    scored(run, metric)
    assert list(np.isnan(run.scores("painta", "brightness")["mean"])) == [True] * 5 + [False] * 5


def test_a_stopped_run_goes_on_where_it_was(run):
    with pytest.raises(RuntimeError, match="out of memory"):
        scored(run, Brightness(fail_after=8))
    assert np.isfinite(run.scores("painta", "brightness")["mean"]).sum() == 8
    metric = Brightness()
    scored(run, metric)
    assert len(metric.asked) == 2
    assert np.isfinite(run.scores("painta", "brightness")["mean"]).all()


def test_a_run_that_stops_with_other_settings_leaves_no_mixture(run):
    scored(run, Brightness())
    with pytest.raises(RuntimeError):
        scored(run, Brightness({"model": "larger"}, fail_after=4))
    assert np.isfinite(run.scores("painta", "brightness")["mean"]).sum() == 4
    metric = Brightness()
    scored(run, metric)
    assert len(metric.asked) == 10


def test_two_processes_do_not_write_one_file(run):
    path = run.score_path("painta", "brightness")
    path.parent.mkdir(parents=True)
    with (
        FileLock(path.with_name(".brightness.lock")),
        pytest.raises(UserError, match="another process is writing"),
    ):
        scored(run, Brightness())
    assert len(scored(run, Brightness())) == 10


def test_the_command_scores_methods_with_results(run, capsys):
    assert main(["score", str(run.path), "--metric", "saturation", "fidelity", "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    assert "hd-painter: Saturation shift" in told
    assert "LPIPS not run" in told
    assert "glide" not in told
    for method in ("stable-inpainting", "painta", "hd-painter", "original"):
        scores = run.scores(method, "fidelity")
        assert (scores["psnr"] == np.inf).all()
        assert (scores["max_difference"] == 0).all()
        assert np.isnan(scores["lpips"]).all()
        assert run.scores(method, "saturation")["saturation_shift"].shape == (10,)
    assert main(["score", str(run.path), "--metric", "seam", "--methods", "painta", "--device", "cpu"]) == 0
    assert run.scores("painta", "seam") is not None
    assert run.scores("original", "seam") is None


def counts(text):
    """[("3", "10"), ...] of lines that begin with [3/10]."""
    return re.findall(r"^\[(-?\d+)/(-?\d+)\]", text, re.MULTILINE)


def test_the_command_counts_what_there_is_to_score(run, capsys, monkeypatch):
    monkeypatch.setattr("eval.score.SAVE_SECONDS", -1)  # a line for each batch
    words = ["score", str(run.path), "--metric", "seam", "saturation", "--device", "cpu", "--batch-size", "5"]
    assert main([*words, "--methods", "painta"]) == 0
    assert counts(capsys.readouterr().err) == [("5", "20"), ("10", "20"), ("15", "20"), ("20", "20")]
    run.score_path("painta", "seam").unlink()
    assert main([*words, "--methods", "painta", "original"]) == 0
    assert counts(capsys.readouterr().err)[-1] == ("30", "30"), "what was scored before does not count"


def test_a_single_picture_is_one_of_one(tmp_path, capsys):
    run = fake_run(tmp_path / "run", 1, metrics=())
    assert main(["score", str(run.path), "--metric", "seam", "--methods", "painta", "--device", "cpu"]) == 0
    told = capsys.readouterr().err
    assert counts(told) == [("1", "1")] and "left" not in told


def test_the_printed_means_are_those_of_the_tables(tmp_path, capsys):
    """PSNR as that of the mean squared error: a picture without any change does not make it infinite."""
    run = fake_run(tmp_path / "run", 10, metrics=())
    for i in range(0, 10, 2):
        spoilt = run.result("painta", i)
        spoilt[~run.mask(i)] ^= 1 + i
        Image.fromarray(spoilt).save(run.result_path("painta", i))
    whole = Image.fromarray(np.full((32, 32), 255, np.uint8))
    whole.save(run.mask_path(3))  # nothing is outside of it
    words = ["score", str(run.path), "--metric", "fidelity", "--methods", "painta", "original"]
    assert main([*words, "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    found = summarise(Run.open(run.path), repeats=100).means["painta", "psnr"]
    assert 20 < found.value < 60 and found.n == 9
    assert f"psnr {found.value:.1f} dB (n = 9), max_difference" in told and "; n = 10\n" in told
    assert (
        "original: Fidelity outside the mask: psnr ∞ dB (n = 9), max_difference 0.0 (n = 9); n = 10" in told
    )


def test_the_config_may_be_the_runs_own_or_given(run, tmp_path, capsys):
    params = tiny_clip(tmp_path)
    info = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(
        json.dumps(info | {"metrics": {"clip": {**params, "label": "tiny CLIP"}}})
    )
    words = ["score", str(run.path), "--methods", "painta", "--device", "cpu"]
    assert main(words) == 0
    assert "painta: tiny CLIP: clip" in capsys.readouterr().out
    given = tmp_path / "given.yaml"
    given.write_text(json.dumps({"metrics": {"minipick": params}}))
    assert main([*words, "--config", str(given)]) == 0
    assert np.isfinite(run.scores("painta", "clip")["clip"]).all()
    assert np.isfinite(run.scores("painta", "minipick")["logit"]).all()


@pytest.fixture
def folders(run, tmp_path):
    """The run's PAIntA results as plain folders; paths by flag."""
    root = tmp_path / "plain"
    for name in ("images", "originals", "masks"):
        (root / name).mkdir(parents=True)
    for i in range(10):
        Image.fromarray(run.result("painta", i)).save(root / "images" / f"r{i}.png")
        Image.fromarray(run.image(i)).save(root / "originals" / f"r{i}.webp", lossless=True)
        Image.fromarray(run.mask(i)).save(root / "masks" / f"r{i}.png")
    rows = [{"image": f"r{s.index}.png", "prompt": s.prompt} for s in run.triplets]
    write_rows(root / "prompts.csv", ["image", "prompt"], rows)
    return {name: root / name for name in ("images", "originals", "masks")} | {
        "prompts": root / "prompts.csv"
    }


def words(folders):
    return [word for name, path in folders.items() for word in (f"--{name}", str(path))]


def test_plain_folders_score_like_a_run(run, folders, tmp_path, capsys):
    assert (
        main(["score", *words(folders), "--metric", "seam", "--device", "cpu", "--out", str(tmp_path / "s")])
        == 0
    )
    assert "; n = 10\n" in capsys.readouterr().out
    assert main(["score", str(run.path), "--metric", "seam", "--methods", "painta", "--device", "cpu"]) == 0
    rows = read_rows(tmp_path / "s" / "seam.csv", ["image", "seam"])
    assert [row["image"] for row in rows] == [f"r{i}.png" for i in range(10)]
    found = [float(row["seam"]) if row["seam"] else np.nan for row in rows]
    np.testing.assert_allclose(found, run.scores("painta", "seam")["seam"])


def test_plain_folders_are_scored_again_where_anything_is_another(folders, capsys):
    def asked():
        items = of_folders(*folders.values())
        metric = Brightness()
        score(items, metric, folders["images"] / "scores" / "brightness.csv", stream=io.StringIO())
        return len(metric.asked)

    assert (asked(), asked()) == (10, 0)
    rows = read_rows(folders["prompts"], ["image", "prompt"])
    write_rows(folders["prompts"], ["image", "prompt"], [rows[0] | {"prompt": "a zebra"}, *rows[1:]])
    assert (asked(), asked()) == (1, 0)
    mask = np.array(load_image(folders["masks"] / "r3.png"))
    Image.fromarray(255 - mask).save(folders["masks"] / "r3.png")
    original = np.array(load_image(folders["originals"] / "r5.webp"))
    Image.fromarray(255 - original).save(folders["originals"] / "r5.webp", lossless=True)
    for path in (folders["masks"] / "r3.png", folders["originals"] / "r5.webp"):
        age(path)
    assert (asked(), asked()) == (2, 0)

    # lists of other pictures of the folder, in turn, cost each other nothing
    for part, new in ((rows[:4], 1), (rows[4:], 0), (rows[:4], 0)):
        write_rows(folders["prompts"], ["image", "prompt"], part)
        assert asked() == new
    assert len(read_rows(folders["images"] / "scores" / "brightness.csv", ["image"])) == 10
    text = folders["prompts"].read_text(encoding="utf-8")
    folders["prompts"].write_text(text, encoding="utf-8-sig")  # as spreadsheets do
    assert asked() == 0

    write_rows(folders["prompts"], ["image", "prompt"], [*rows, rows[0] | {"prompt": "a zebra"}])
    assert main(["score", *words(folders), "--metric", "seam", "--device", "cpu"]) == 2
    assert "line 12 names r0.png again" in capsys.readouterr().err


def test_plain_folders_must_belong_together(folders, capsys):
    def complaint():
        assert main(["score", *words(folders), "--metric", "seam", "--device", "cpu"]) == 2
        return capsys.readouterr().err

    Image.new("RGB", (9, 9)).save(folders["images"] / "r4.png")
    assert "r4.png is 9 x 9 pixels but its original is 32 x 32" in complaint()
    Image.new("L", (32, 32)).save(folders["masks"] / "r2.png")
    assert "the mask of" in complaint()
    (folders["masks"] / "r3.png").unlink()
    assert "has 0 pictures named r3" in complaint()
    (folders["images"] / "r1.png").write_bytes(b"no picture")
    (folders["masks"] / "r3.png").write_bytes(b"")
    assert "r1.png" in complaint()
    (folders["images"] / "r0.png").unlink()
    assert "names r0.png, which is not in" in complaint()
    folders["prompts"].write_text("file,text\n")
    assert "no column 'image'" in complaint()


@pytest.mark.parametrize(
    ("extra", "complaint"),
    [
        (["--metric", "clop"], "invalid choice: 'clop'"),
        (["--methods", "nobody", "--metric", "seam"], "no method 'nobody'"),
        (["--methods", "glide", "--metric", "seam"], "no results of glide yet"),
        (["--metric", "clip", "--device", "tpu"], "device 'tpu' is not available"),
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--images", "x"], "give either"),
        (["--config", "nowhere"], "nowhere.yaml is neither"),
        (["--metric", "clip"], "/run --metric clip --download"),
        (["--metric", "clip", "--config", "metrics"], "/run --config metrics --metric clip --download"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, monkeypatch, capsys, extra, complaint):
    monkeypatch.setenv("HDPAINTER_CHECKPOINTS", str(tmp_path / "none"))
    monkeypatch.setattr("eval.metrics.weights.try_to_load_from_cache", lambda *_, **__: None)
    assert main(["score", str(run.path), *extra]) == 2
    told = capsys.readouterr().err
    assert complaint in told
    assert told.count("\n") == 1


def test_weights_can_be_fetched_without_results(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HDPAINTER_CHECKPOINTS", str(tmp_path))
    monkeypatch.setattr("eval.metrics.weights.try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr("eval.metrics.weights.download", lambda urls, target: target)
    assert main(["score", "--metric", "clip", "--download", "--device", "cpu"]) == 0
    assert "weights of clip" in capsys.readouterr().out
    assert main(["score", "--metric", "clip"]) == 2
    assert "give a results folder" in capsys.readouterr().err


def test_folders_load_what_a_run_loads(run, folders):
    plain = of_folders(folders["images"], folders["originals"], folders["masks"], folders["prompts"])
    for ours, theirs in zip(of_run(Run.open(run.path), "painta"), plain, strict=True):
        assert ours.prompt == theirs.prompt
        for a, b in zip(ours.load(), theirs.load(), strict=True):
            np.testing.assert_array_equal(a, b)
    assert load_image(plain[0].path).size == (32, 32)
