"""Summaries and tables of made-up runs."""

import csv
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from eval.__main__ import main
from eval.grids import grids
from eval.published import TABLES
from eval.runs import Run
from eval.summary import summarise
from eval.tables import latex, provenance, sample_rows, write_tables
from ldm.util import UserError
from tests.eval.fake_run import fake_run, write_scores

REPEATS = 200


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fake_run(tmp_path_factory.mktemp("run"), 40)


@pytest.fixture(scope="module")
def summary(run):
    return summarise(run, repeats=REPEATS)


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def cell(grid, label, head):
    row = next(row for section in grid.sections for row in section.rows if row[0] == label)
    return row[grid.head.index(head)]


def test_means_and_differences_are_those_of_the_stored_scores(run, summary):
    ours, base = (run.scores(name, "clip")["clip"] for name in ("hd-painter", "stable-inpainting"))
    assert summary.means["hd-painter", "clip"].value == pytest.approx(ours.mean())
    assert summary.differences["hd-painter", "clip"].value == pytest.approx((ours - base).mean())
    acc = run.scores("hd-painter", "accuracy")["acc"]
    assert summary.means["hd-painter", "acc"].value == pytest.approx(100 * acc.mean())
    assert summary.differences["hd-painter", "acc"].test.startswith("McNemar")
    assert summary.differences["hd-painter", "clip"].test == "bootstrap"
    assert summary.means["hd-painter", "clip"].clusters == 20  # two samples from each image


def test_saturation_is_compared_once(summary):
    """Contrast is shift and a number of the original: their differences from the baseline are the same."""
    made = {grid.key: grid for grid in grids(summary)}
    assert {"saturation shift", "saturation contrast"} <= set(made["beyond"].head)
    assert "saturation shift" in made["differences"].head
    assert "saturation contrast" not in made["differences"].head
    assert ("hd-painter", "saturation_contrast") not in summary.differences


@pytest.mark.parametrize(
    ("names", "ours"),
    [
        (["hd-painter-release", "hd-painter,eta=0.02", "hd-painter"], "hd-painter"),
        (["rasg", "hd-painter-release", "hd-painter,eta=0.02"], "hd-painter-release"),
    ],
)
def test_ours_is_hd_painter_itself_if_it_was_run_and_the_tables_say_so(tmp_path, names, ours):
    methods = {name: {"label": name.upper(), "kind": "pipeline"} for name in (*names, "stable-inpainting")}
    summary = summarise(fake_run(tmp_path / "run", 4, methods=methods), repeats=REPEATS)
    assert (summary.ours, summary.baseline) == (ours, "stable-inpainting")
    made = {grid.key: grid for grid in grids(summary)}
    assert any(f"Ours over it: {ours.upper()} preferred" in note for note in made["measured"].notes)
    assert f"Preference: of {ours.upper()} over the row, against 50%." in made["differences"].notes
    write_tables(summary, tmp_path / "out")
    for row in rows_of(tmp_path / "out" / "table.csv"):
        assert row["ours"] == (ours if row["column"] in ("probability", "win_rate") else "")


def test_preference_is_that_of_ours_over_the_row(run, summary):
    ours, base = (run.scores(name, "minipick")["logit"] for name in ("hd-painter", "stable-inpainting"))
    assert summary.means["stable-inpainting", "win_rate"].value == pytest.approx(100 * np.mean(ours > base))
    expected = 100 * np.mean(np.exp(ours) / (np.exp(ours) + np.exp(base)))
    assert summary.means["stable-inpainting", "probability"].value == pytest.approx(expected)
    assert ("hd-painter", "win_rate") not in summary.means
    made = {grid.key: grid for grid in grids(summary)}
    head = next(head for head in made["measured"].head if "wins" in head)
    assert cell(made["measured"], "HD-Painter", head) == "50 by definition"


def test_psnr_is_averaged_as_squared_error_so_that_equal_pictures_count(tmp_path):
    run = fake_run(tmp_path / "run", 4, metrics=())
    values = ["inf", 40.0, "inf", 40.0]
    write_scores(run, "painta", "fidelity", [{"index": i, "psnr": v} for i, v in enumerate(values)])
    write_scores(run, "hd-painter", "fidelity", [{"index": i, "psnr": "inf"} for i in range(4)])
    summary = summarise(run, repeats=REPEATS)
    assert summary.means["painta", "psnr"].value == pytest.approx(40 + 10 * np.log10(2))
    assert summary.means["painta", "psnr"].low <= summary.means["painta", "psnr"].high
    made = {grid.key: grid for grid in grids(summary)}
    assert cell(made["beyond"], "HD-Painter", "PSNR outside dB ↑") == "∞"


def test_bins_and_categories_divide_all_samples(run, summary):
    n = len(run.triplets)
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


def test_miniature_judges_are_labelled(summary):
    heads = [head for grid in grids(summary, TABLES["table1"]) if not grid.quoted for head in grid.head]
    for word in ("CLIP", "acc", "acc_release"):
        assert f"{word} (mini)" in " ".join(heads)
    assert not any("PickScore" in head for head in heads)  # the mini CLIP is none


def test_measured_and_quoted_figures_are_apart(summary, tmp_path):
    made = grids(summary, TABLES["table1"])
    quoted = [grid for grid in made if grid.quoted]
    assert [grid.key for grid in quoted] == ["quoted"]
    assert "Source: the paper" in quoted[0].sections[0].heading
    assert len(quoted[0].sections) == 1 and quoted[0].sections[0].rows[0] == (
        "GLIDE",
        "24.92",
        "44.0",
        "62.7",
    )
    write_tables(summary, tmp_path, "table1")
    assert "24.92" not in (tmp_path / "table1.csv").read_text()
    assert {row["source"] for row in rows_of(tmp_path / "table1-quoted.csv")} == {TABLES["table1"].source}


def test_what_was_not_run_has_a_reason_and_never_a_number(summary, tmp_path):
    write_tables(summary, tmp_path, "table1")
    text = (tmp_path / "table1.md").read_text()
    assert "\n- GLIDE: not run: weights not included\n" in text  # below the table, not in its column n
    assert "Not run" not in text and not re.search(r"GLIDE \| not", text)
    assert (
        r"GLIDE & \multicolumn{6}{l}{not run: weights not included}" in (tmp_path / "table1.tex").read_text()
    )
    (row,) = [row for row in rows_of(tmp_path / "table1.csv") if row["method"] == "glide"]
    assert row["not_run"] == "weights not included" and row["value"] == ""
    assert "glide" not in {row["method"] for row in rows_of(tmp_path / "table1-samples.csv")}


def test_bounds_are_set_apart(summary):
    sections = {section.heading: section.rows for section in grids(summary)[0].sections}
    assert [row[0] for row in sections["Bounds, not methods"]] == ["original image"]
    assert "original image" not in [row[0] for row in sections["Methods"]]


def test_samples_keep_every_stored_score(run, summary, tmp_path):
    write_tables(summary, tmp_path)
    rows = rows_of(tmp_path / "table-samples.csv")
    assert len(rows) == 4 * len(run.triplets)
    row = next(row for row in rows if row["method"] == "painta" and row["index"] == "7")
    assert float(row["clip (mini)"]) == run.scores("painta", "clip")["clip"][7]
    assert float(row["seam"]) == run.scores("painta", "seam")["seam"][7]
    assert (row["best_label (mini)"], row["seed"], row["prompt"]) == ("boat", "1", run.triplets[7].prompt)
    assert not {"clip", "acc", "acc_release", "best_label", "best_score", "logit"} & row.keys()


def test_samples_keep_the_logits_of_both_judges(tmp_path):
    run = fake_run(tmp_path / "run", 4)
    write_scores(run, "painta", "pickscore", [{"index": i, "logit": 20 + i} for i in range(4)])
    (row,) = [row for row in sample_rows(summarise(run, ["painta"], repeats=REPEATS)) if row["index"] == 3]
    assert row["pickscore.logit"] == 23
    assert row["minipick.logit (mini)"] == run.scores("painta", "minipick")["logit"][3]


def test_missing_scores_are_named_in_the_table(tmp_path):
    summary = summarise(fake_run(tmp_path / "run", 6, metrics=("clip",)), repeats=REPEATS)
    measured = grids(summary)[0]
    assert [head for head in measured.head if "acc" in head] == []
    assert any("Not scored: acc; acc_release" in note for note in measured.notes)
    no_scores = summarise(fake_run(tmp_path / "bare", 6, metrics=()), repeats=REPEATS)
    assert grids(no_scores)[0].head == ("method", "n")


def test_a_method_without_a_score_that_others_have_has_a_dash(tmp_path):
    run = fake_run(tmp_path / "run", 8)
    run.score_path("painta", "clip").unlink()
    measured = grids(summarise(run, repeats=REPEATS))[0]
    assert cell(measured, "only PAIntA", "CLIP (mini) ↑") == "–"


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


ODD = 'a|b & <i>50%_#1</i> \\ "x", {y} ~^ ∞ `*`'


def test_odd_names_do_not_break_any_format(tmp_path):
    methods = {"odd": {"label": ODD, "kind": "pipeline"}}
    run = fake_run(tmp_path / "run", 6, methods=methods, prompts=[ODD])
    summary = summarise(run, repeats=REPEATS)
    write_tables(summary, tmp_path / "out")
    table = (tmp_path / "out" / "table.md").read_text()
    assert "<i>" not in table
    for block in table.split("\n\n"):
        if block.startswith("|"):
            widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
            assert len(widths) == 1, block
    text = latex(grids(summary))
    body = text.replace("% needs \\usepackage{booktabs,graphicx}", "")
    assert not re.search(r"(?<!\\)[%#_]", body.replace("\\label{tab:bins-acc_release}", ""))
    assert body.count("{") - body.count("\\{") == body.count("}") - body.count("\\}")
    assert rows_of(tmp_path / "out" / "table.csv")[0]["label"] == ODD
    assert rows_of(tmp_path / "out" / "table-samples.csv")[0]["prompt"] == ODD


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_the_latex_compiles_and_fits_the_page(tmp_path):
    methods = {
        "odd": {"label": ODD, "kind": "pipeline"},
        "long": {"label": "a name as long as " * 9, "kind": "pipeline"},
        "none": {"label": "[*] none", "kind": "folder", "why_not": "make it with python -m eval --here"},
    }
    run = fake_run(tmp_path / "run", 6, methods=methods)
    write_tables(summarise(run, repeats=REPEATS), tmp_path, "table2")
    page = (
        r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}\input{table2}\end{document}"
    )
    (tmp_path / "page.tex").write_text(page)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


@pytest.mark.parametrize("label", ["[2] ours", "*ours"])
def test_labels_are_not_taken_for_arguments_of_a_line_s_end(tmp_path, label):
    run = fake_run(tmp_path / "run", 4, methods={"x": {"label": label, "kind": "pipeline"}})
    text = latex(grids(summarise(run, repeats=REPEATS)))
    assert not re.search(r"\\\\\s*[\[*]", text) and label in text


def test_the_tables_say_in_what_was_computed(tmp_path):
    run = fake_run(tmp_path / "run", 4)
    for name, dtype in (("painta", "bfloat16"), ("hd-painter", "float32"), ("original", "float16")):
        path = run.folder(name) / "manifest.jsonl"
        path.write_text(path.read_text().replace("}", f', "dtype": "{dtype}"}}'))
    about = dict(provenance(summarise(run, repeats=REPEATS)))
    assert about["dtype"] == "bfloat16 (only PAIntA); float32 (HD-Painter)"
    assert dict(provenance(summarise(run, ["painta"], repeats=REPEATS)))["dtype"] == "bfloat16"


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


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ours", "nobody"], "no method 'nobody'"),
        (["--baseline", "nobody"], "no method 'nobody'"),
        (["--repeats", "3"], "too few"),
        (["--published", "table9"], "table9"),
    ],
)
def test_mistakes_are_one_line(run, flags, message, capsys):
    assert main(["table", str(run.path), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1


def test_command_does_as_the_runs_config_said(tmp_path, capsys):
    run = fake_run(tmp_path / "run", 6, published="table2", ours="painta")
    assert main(["table", str(run.path), "--repeats", "100"]) == 0
    written = {path.name for path in (run.path / "tables").iterdir()}
    assert written == {"table2.md", "table2.tex", "table2.csv", "table2-quoted.csv", "table2-samples.csv"}
    assert set(capsys.readouterr().out.split()) == {str(run.path / "tables" / name) for name in written}
    assert "only PAIntA preferred to the row" in (run.path / "tables" / "table2.md").read_text()
    out = tmp_path / "out"
    assert (
        main(["table", str(run.path), "--published", "table1", "--ours", "hd-painter", "--out", str(out)])
        == 0
    )
    assert "HD-Painter preferred to the row" in (out / "table1.md").read_text()


def test_only_the_methods_of_a_config(run, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(
        "out: x\nbenchmark: {coco: toy, images: 4, samples: 2}\nbaseline: painta\npublished: table2\n"
        "methods: {painta: {}, hd-painter: {}}\n"
    )
    flags = ["--config", str(config), "--out", str(tmp_path), "--repeats", "100"]
    assert main(["table", str(run.path), *flags]) == 0
    assert {row["method"] for row in rows_of(tmp_path / "table2.csv")} == {"painta", "hd-painter"}
    assert {row["method"] for row in rows_of(tmp_path / "table2-samples.csv")} == {"painta", "hd-painter"}
    assert "Difference from only PAIntA" in (tmp_path / "table2.md").read_text()
    config.write_text(config.read_text().replace("hd-painter: {}", "rasg: {label: only RASG}"))
    assert main(["table", str(run.path), *flags]) == 0
    assert f"- only RASG: not run: not made yet; python -m eval generate --config {config} makes it" in (
        tmp_path / "table2.md"
    ).read_text().replace("\\_", "_")
    config.write_text(config.read_text().replace("painta: {}", "bld: {kind: bld}"))
    assert main(["table", str(run.path), *flags]) == 2


@pytest.mark.parametrize("name", ["table9", ["table1"]])
def test_an_unknown_published_table_is_refused(tmp_path, capsys, name):
    run = fake_run(tmp_path / "run", 6, published=name)
    assert main(["table", str(run.path)]) == 2
    assert f"the config has published: {name!r}" in capsys.readouterr().err


def test_a_full_disk_leaves_the_old_table(run, tmp_path, monkeypatch, summary):
    before = {path: path.read_bytes() for path in write_tables(summary, tmp_path)}

    def full(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match=r"table\.md cannot be written: No space left"):
        write_tables(summary, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
