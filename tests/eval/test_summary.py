"""The numbers of made-up runs: what is averaged, compared and counted."""

import json
import os
import re

import numpy as np
import pytest

from eval.__main__ import main
from eval.grids import grids
from eval.runs import Run
from eval.summary import summarise
from ldm.util import UserError
from tests.eval.fake_run import fake_run, write_scores
from tests.eval.test_tables import REPEATS, cell


def test_means_and_differences_are_those_of_the_stored_scores(scored_run, summary):
    ours, base = (scored_run.scores(name, "clip")["clip"] for name in ("hd-painter", "stable-inpainting"))
    assert summary.means["hd-painter", "clip"].value == pytest.approx(ours.mean())
    assert summary.differences["hd-painter", "clip"].value == pytest.approx((ours - base).mean())
    acc = scored_run.scores("hd-painter", "accuracy")["acc"]
    assert summary.means["hd-painter", "acc"].value == pytest.approx(100 * acc.mean())
    assert summary.differences["hd-painter", "acc"].test.startswith("McNemar")
    assert summary.differences["hd-painter", "clip"].test == "sign flips"  # 20 images
    assert summary.means["hd-painter", "clip"].clusters == 20  # two samples from each image


def test_preference_is_that_of_ours_over_the_row(scored_run, summary):
    ours, base = (
        scored_run.scores(name, "minipick")["logit"] for name in ("hd-painter", "stable-inpainting")
    )
    assert summary.means["stable-inpainting", "win_rate"].value == pytest.approx(100 * np.mean(ours > base))
    expected = 100 * np.mean(np.exp(ours) / (np.exp(ours) + np.exp(base)))
    assert summary.means["stable-inpainting", "probability"].value == pytest.approx(expected)
    assert ("hd-painter", "win_rate") not in summary.means
    made = {grid.key: grid for grid in grids(summary)}
    head = next(head for head in made["measured"].head if "wins" in head)
    assert cell(made["measured"], "HD-Painter", head) == "50 by definition"


def test_psnr_is_averaged_as_squared_error_so_that_equal_pictures_count(tmp_path):
    run = fake_run(tmp_path / "run", 40, metrics=())
    values = ["inf", 40.0] * 20
    write_scores(run, "painta", "fidelity", [{"index": i, "psnr": v} for i, v in enumerate(values)])
    write_scores(run, "hd-painter", "fidelity", [{"index": i, "psnr": "inf"} for i in range(40)])
    summary = summarise(run, repeats=REPEATS)
    assert summary.means["painta", "psnr"].value == pytest.approx(40 + 10 * np.log10(2))
    assert summary.means["painta", "psnr"].low <= summary.means["painta", "psnr"].high
    made = {grid.key: grid for grid in grids(summary)}
    assert cell(made["beyond"], "HD-Painter", "PSNR outside dB ↑") == "∞"


def test_few_images_have_no_intervals_and_no_tests_and_tables_say_so(tmp_path):
    summary = summarise(fake_run(tmp_path / "run", 38), repeats=REPEATS)  # of 19 images
    found = [*summary.means.values(), *summary.differences.values(), *summary.preferred.values()]
    assert found and all(mean.low is mean.high is None for mean in found)
    assert all(difference.p is None for difference in summary.differences.values())
    made = {grid.key: grid for grid in grids(summary)}
    for key in ("measured", "differences"):
        assert any("Fewer than 20 images: no interval and no p." in note for note in made[key].notes)
    assert "p = " not in str(made) and "McNemar," not in str(made)


def test_bins_and_categories_divide_all_samples(scored_run, summary):
    n = len(scored_run.triplets)
    for row in summary.measured:
        by_bin = [
            mean for (name, key, _), mean in summary.by_bin.items() if (name, key) == (row.name, "clip")
        ]
        assert sum(mean.n for mean in by_bin) == n
        average = sum(mean.n * mean.value for mean in by_bin) / n
        assert average == pytest.approx(summary.means[row.name, "clip"].value)
        kinds = [
            mean for (name, key, _), mean in summary.by_category.items() if (name, key) == (row.name, "acc")
        ]
        assert sum(mean.n for mean in kinds) == n and len(kinds) == 4


def test_fewer_scores_than_results_are_counted(tmp_path):
    run = fake_run(tmp_path / "run", 8)
    clip = run.scores("painta", "clip")["clip"]
    write_scores(run, "painta", "clip", [{"index": i, "clip": clip[i]} for i in (0, 2, 5)])
    summary = summarise(run, repeats=REPEATS)
    assert summary.means["painta", "clip"].value == pytest.approx(clip[[0, 2, 5]].mean())
    assert summary.differences["painta", "clip"].n == 3
    made = {grid.key: grid for grid in grids(summary)}
    assert cell(made["measured"], "only PAIntA", "CLIP (mini) ↑").endswith("(n = 3)")
    assert cell(made["differences"], "only PAIntA", "CLIP (mini) ↑").endswith("(n = 3)")
    assert "n =" not in cell(made["differences"], "HD-Painter", "CLIP (mini) ↑")


def test_only_samples_that_all_rows_have(tmp_path):
    run = fake_run(tmp_path / "run", 8)
    for i in (1, 4):
        run.result_path("painta", i).unlink()
    summary = summarise(run, common=True, repeats=REPEATS)
    there = [0, 2, 3, 5, 6, 7]
    ours = run.scores("hd-painter", "clip")["clip"]
    assert summary.means["hd-painter", "clip"].value == pytest.approx(ours[there].mean())
    assert {mean.n for mean in summary.means.values()} == {6}
    notes = " ".join(grids(summary)[0].notes)
    assert "Only the 6 triplets count that all rows have a result of." in notes
    assert "6 of the list's 8 triplets from 4 images" in notes
    bins = {grid.key: grid for grid in grids(summary)}["bins-clip"]
    assert sum(map(int, re.findall(r"\(n = (\d+)\)", " ".join(bins.head)))) == 6
    assert main(["table", str(run.path), "--common", "--repeats", "100"]) == 0


def keep(run, name, indices):
    """Leave only these results of a method."""
    for i in set(range(len(run.triplets))) - set(indices):
        run.result_path(name, i).unlink()


def test_what_is_counted_is_what_was_scored(tmp_path):
    run = fake_run(tmp_path / "run", 40)
    for name in ("stable-inpainting", "painta", "hd-painter", "original"):
        keep(run, name, range(9) if name == "painta" else range(10))
    made = {grid.key: grid for grid in grids(summarise(run, repeats=REPEATS))}
    assert made["measured"].notes[0] == "10 of the list's 40 triplets from 5 images; n: those with a result."
    assert cell(made["measured"], "only PAIntA", "n") == "9"
    bins = made["bins-clip"]
    sizes = {head: int(n) for head in bins.head for n in re.findall(r"\(n = (\d+)\)", head)}
    assert sum(sizes.values()) == 10 and "n: triplets with a score, 10 of the list's 40." in bins.notes
    short = [head for head in sizes if "(n = " in cell(bins, "only PAIntA", head)]
    assert len(short) == 1 and not any("(n = " in cell(bins, "HD-Painter", head) for head in sizes)


def test_scores_of_results_that_are_gone_or_made_again_do_not_count(tmp_path):
    run = fake_run(tmp_path / "run", 8)
    run.result_path("painta", 1).unlink()
    scores = run.score_path("painta", "clip")
    made = run.result_path("painta", 2).stat().st_mtime
    for i in range(8):
        if i != 1:
            os.utime(run.result_path("painta", i), (made - 9, made - 9))
    os.utime(scores, (made - 5, made - 5))
    run.result_path("painta", 2).touch()
    summary = summarise(run, repeats=REPEATS)
    assert (summary.row("painta").done, summary.means["painta", "clip"].n) == (7, 6)
    assert cell(grids(summary)[0], "only PAIntA", "CLIP (mini) ↑").endswith("(n = 6)")


def test_no_samples_is_a_clear_error(tmp_path):
    run = fake_run(tmp_path / "run", 0)
    with pytest.raises(UserError, match="no triplets"):
        summarise(Run.open(run.path))


def test_scores_of_different_judges_are_not_put_into_one_column(tmp_path):
    run = fake_run(tmp_path / "run", 4)
    record = run.score_path("painta", "clip").with_suffix(".json")
    record.write_text(json.dumps({"label": "CLIP", "settings": {"model": "ViT-B-16"}}))
    with pytest.raises(UserError, match=r"clip of painta and of stable-inpainting .* different settings"):
        summarise(run, repeats=REPEATS)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("clip.csv", "index,clip\n0,boat\n"),
        ("clip.json", "{"),
        ("clip.json", "[1]"),
        ("clip.json", '{"a": 1}'),
    ],
)
def test_damaged_scores_are_named(tmp_path, file, text):
    run = fake_run(tmp_path / "run", 4)
    path = run.score_path("painta", "clip").with_name(file)
    path.write_text(text)
    with pytest.raises(UserError, match=rf"painta/scores/{file} is damaged.*: delete it and score again"):
        summarise(run, repeats=REPEATS)
