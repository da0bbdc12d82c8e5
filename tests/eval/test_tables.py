"""Tables of made-up runs, in every format."""

import csv
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from eval.__main__ import main
from eval.grids import grids
from eval.published import TABLES
from eval.summary import summarise
from eval.tables import latex, provenance, sample_rows, write_tables
from ldm.util import UserError
from tests.eval.fake_run import fake_run, write_scores

REPEATS = 200


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def cell(grid, label, head):
    row = next(row for section in grid.sections for row in section.rows if row[0] == label)
    return row[grid.head.index(head)]


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


def test_samples_keep_every_stored_score(scored_run, summary, tmp_path):
    write_tables(summary, tmp_path)
    rows = rows_of(tmp_path / "table-samples.csv")
    assert len(rows) == 4 * len(scored_run.triplets)
    row = next(row for row in rows if row["method"] == "painta" and row["index"] == "7")
    assert float(row["clip (mini)"]) == scored_run.scores("painta", "clip")["clip"][7]
    assert float(row["seam"]) == scored_run.scores("painta", "seam")["seam"][7]
    assert (row["best_label (mini)"], row["seed"], row["prompt"]) == (
        "boat",
        "1",
        scored_run.triplets[7].prompt,
    )
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


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ours", "nobody"], "no method 'nobody'"),
        (["--baseline", "nobody"], "no method 'nobody'"),
        (["--repeats", "3"], "too few"),
        (["--published", "table9"], "table9"),
    ],
)
def test_mistakes_are_one_line(scored_run, flags, message, capsys):
    assert main(["table", str(scored_run.path), *flags]) == 2
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


def test_only_the_methods_of_a_config(scored_run, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(
        "out: x\nbenchmark: {coco: toy, images: 4, samples: 2}\nbaseline: painta\npublished: table2\n"
        "methods: {painta: {}, hd-painter: {}}\n"
    )
    flags = ["--config", str(config), "--out", str(tmp_path), "--repeats", "100"]
    assert main(["table", str(scored_run.path), *flags]) == 0
    assert {row["method"] for row in rows_of(tmp_path / "table2.csv")} == {"painta", "hd-painter"}
    assert {row["method"] for row in rows_of(tmp_path / "table2-samples.csv")} == {"painta", "hd-painter"}
    assert "Difference from only PAIntA" in (tmp_path / "table2.md").read_text()
    config.write_text(config.read_text().replace("hd-painter: {}", "rasg: {label: only RASG}"))
    assert main(["table", str(scored_run.path), *flags]) == 0
    assert f"- only RASG: not run: not made yet; python -m eval generate --config {config} makes it" in (
        tmp_path / "table2.md"
    ).read_text().replace("\\_", "_")
    config.write_text(config.read_text().replace("painta: {}", "bld: {kind: bld}"))
    assert main(["table", str(scored_run.path), *flags]) == 2


@pytest.mark.parametrize("name", ["table9", ["table1"]])
def test_an_unknown_published_table_is_refused(tmp_path, capsys, name):
    run = fake_run(tmp_path / "run", 6, published=name)
    assert main(["table", str(run.path)]) == 2
    assert f"the config has published: {name!r}" in capsys.readouterr().err


def test_a_full_disk_leaves_the_old_table(tmp_path, monkeypatch, summary):
    before = {path: path.read_bytes() for path in write_tables(summary, tmp_path)}

    def full(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match=r"table\.md cannot be written: No space left"):
        write_tables(summary, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
