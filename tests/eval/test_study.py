"""The user study: who takes part, what stands on the page, and what is made of the raters' files."""

import json
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from eval.__main__ import main
from eval.study import contenders, page
from eval.votes import Choice, agreement, collect, duels, markdown
from ldm.util import UserError
from tests.eval.fake_run import METHODS, fake_run

LABELS = ["Stable Inpainting", "only PAIntA", "HD-Painter"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fake_run(tmp_path_factory.mktemp("study") / "run", 8).path


def data_of(html):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html)[1])


def test_a_run_brings_its_methods_but_no_bounds(folder):
    assert [one.label for one in contenders([folder])] == LABELS
    chosen = contenders([folder / "hd-painter", folder / "painta", folder / "painta"])
    assert [one.label for one in chosen] == ["HD-Painter", "only PAIntA"]


def test_methods_of_one_name_in_two_runs_are_told_apart(folder, tmp_path):
    other = fake_run(tmp_path / "second", 8, methods={"painta": METHODS["painta"]}).path
    found = contenders([folder / "painta", folder / "hd-painter", other])
    assert [one.label for one in found] == ["only PAIntA (run)", "HD-Painter", "only PAIntA (second)"]


def test_the_page_has_every_pair_and_names_no_method(folder):
    html = page(contenders([folder]), samples=5)
    data = data_of(html)
    assert data["pairs"] == [[0, 1], [0, 2], [1, 2]] and len(data["samples"]) == 5
    assert all(len(sample["results"]) == 3 for sample in data["samples"])
    assert not any(label in html for label in [*LABELS, "hd-painter", "painta", "stable-inpainting"])
    assert "30 choices" in html and "about 3 min" in html
    assert not re.search(r"""(src|href)=["']?https?:|url\(""", html)
    only_ours = data_of(page(contenders([folder]), samples=5, ours="HD-Painter"))
    assert only_ours["pairs"] == [[0, 2], [1, 2]] and only_ours["id"] != data["id"]
    assert data_of(page(contenders([folder]), samples=5))["id"] == data["id"]
    assert data_of(page(contenders([folder]), samples=5, seed=1))["samples"] != data["samples"]


def test_samples_are_those_that_all_have(folder, tmp_path):
    run = fake_run(tmp_path / "run", 8)
    for index in (0, 3, 4):
        run.result_path("painta", index).unlink()
    data = data_of(page(contenders([run.path]), samples=5))
    assert [sample["index"] for sample in data["samples"]] == [1, 2, 5, 6, 7]
    with pytest.raises(UserError, match="share results of 5 samples, not 6: give --samples fewer"):
        page(contenders([run.path]), samples=6)


def test_mistakes_are_one_line(folder, tmp_path, capsys):
    fewer = fake_run(tmp_path / "fewer", 4).path
    larger = fake_run(tmp_path / "larger", 8, size=48).path
    empty = fake_run(tmp_path / "empty", 8, methods={"glide": METHODS["glide"]}).path
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text("[1]")
    for words, message in {
        ("--runs", folder, fewer): f"{fewer} has other triplets than {folder}: a study compares the same",
        ("--runs", folder, larger): "has other triplets than",
        ("--runs", empty): "has no results: python -m eval generate makes them",
        ("--runs", folder / "glide", folder): "glide has no results",
        ("--runs", folder / "painta"): "a study compares two methods or more",
        ("--runs", folder / "nosuch"): "has no method 'nosuch'",
        ("--runs", tmp_path): "is not a results folder",
        ("--runs", folder, "--ours", "best"): "--ours 'best' names 0 methods",
        ("--runs", folder, "--samples", 0): "--samples is 0: give 1 or more",
        ("--runs", folder, "--seed", -1): "--seed is -1",
        ("--collect", tmp_path / "nosuch.json"): "cannot be read",
        ("--collect", tmp_path / "broken.json"): "broken.json is no JSON file",
        ("--collect", tmp_path / "other.json"): "other.json is no file of a study's rater",
    }.items():
        out = ("--out", str(tmp_path / "out")) * ("--runs" in words)
        code, captured = main(["study", *map(str, words), *out]), capsys.readouterr()
        assert code == 2 and message in captured.err and len(captured.err.splitlines()) == 1, captured.err
    assert not (tmp_path / "out").exists()
    assert main(["study", "--runs", str(folder)]) == 2 and "--out is missing" in capsys.readouterr().err


def choice(question="prompt", sample=0, left="A", right="B", chosen="left"):
    return {"question": question, "sample": sample, "left": left, "right": right, "choice": chosen}


def write_ballot(path, *answers, study="s", rater="r", **values):
    content = {"study": study, "rater": rater, "name": "", "complete": True, "answers": answers, **values}
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([choice(chosen="both")], "answer 1: choice must be one of left, right, tie"),
        ([choice(question="beauty")], "answer 1: question must be one of prompt, quality"),
        ([choice(), {"question": "prompt"}], "answer 2 needs question, sample, left, right, choice"),
        ([choice(right="A")], "answer 1 has 'A' on both sides"),
        ([choice(), choice(left="B", right="A")], "answers twice: prompt, sample 0, A and B"),
        ([choice(sample=-1)], "sample is -1"),
    ],
)
def test_a_file_that_no_page_saved_is_refused(tmp_path, answers, message):
    with pytest.raises(UserError, match=message):
        collect([write_ballot(tmp_path / "a.json", *answers)])


def test_files_of_two_studies_are_not_mixed(tmp_path):
    files = [write_ballot(tmp_path / f"{study}.json", choice(), study=study) for study in "ab"]
    with pytest.raises(UserError, match="is of another study than"):
        collect(files)


def test_a_rater_counts_once(tmp_path):
    early = write_ballot(tmp_path / "early.json", choice(), complete=False)
    late = write_ballot(tmp_path / "late.json", choice(), choice("quality"))
    other = write_ballot(tmp_path / "other.json", choice(), rater="else")
    for files in ([early, late, other], [late, early, other]):
        assert [len(ballot.choices) for ballot in collect(files)] == [2, 1]


def test_wins_and_their_intervals_are_wilsons(tmp_path):
    """A beats B in 7 of 10 decided choices, on whichever side it stands; by Wilson's formula."""
    answers = [choice(sample=i, chosen="left") for i in range(4)]
    answers += [choice(sample=i, left="B", right="A", chosen="right") for i in range(4, 7)]
    answers += [choice(sample=i, chosen="right") for i in range(7, 10)]
    answers += [choice(sample=i, chosen="tie") for i in range(10, 12)]
    *totals, pair = duels([Choice(**answer) for answer in answers])
    assert (pair.first, pair.second, pair.wins, pair.losses, pair.ties) == ("A", "B", 7, 3, 2)
    assert [(duel.first, duel.second, duel.wins) for duel in totals] == [("A", "", 7), ("B", "", 3)]
    z, n, share = norm.ppf(0.975), 10, 0.7
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    np.testing.assert_allclose(pair.interval, (centre - half, centre + half), rtol=1e-9)
    np.testing.assert_allclose(pair.p, 2 * (120 + 45 + 10 + 1) / 1024)  # at least 7 heads of 10, or as few
    text = markdown(collect([write_ballot(tmp_path / "a.json", *answers)]))
    assert f"| A | B | 7 | 3 | 2 | 70.0 [{100 * (centre - half):.1f}, {100 * (centre + half):.1f}]" in text
    assert "Nobody was asked" in text and f"p = {pair.p:.3f} | – | – |" in text


def test_alpha_is_krippendorffs():
    """The nominal example of his "Computing Krippendorff's Alpha-Reliability" (2011): 0.743."""
    observers = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    votes = [(unit, value) for row in observers for unit, value in enumerate(row) if value != "."]
    assert agreement(votes).alpha == pytest.approx(0.743, abs=5e-4)


def test_agreement_of_all_and_of_none():
    assert agreement([(0, "A"), (0, "A"), (1, "B"), (1, "B")]) == (
        found := agreement([(0, 1), (0, 1), (1, 2), (1, 2)])
    )
    assert (found.pairs, found.share, found.alpha) == (2, 1.0, 1.0)
    assert agreement([(0, "A"), (1, "B")]).share is None
    same = agreement([(0, "A"), (0, "A")])
    assert same.share == 1.0 and same.alpha is None  # nothing to disagree about
    assert agreement([(0, "A"), (0, "B"), (1, "A"), (1, "B")]).alpha < 0


trials = st.lists(st.lists(st.sampled_from("ABt"), min_size=1, max_size=5), min_size=1, max_size=6)


@given(trials)
def test_agreement_counts_pairs_of_raters(units):
    found = agreement([(i, value) for i, values in enumerate(units) for value in values])
    pairs = Counter(a == b for values in units for i, a in enumerate(values) for b in values[i + 1 :])
    assert found.pairs == pairs.total()
    if found.pairs:
        assert found.share == pytest.approx(pairs[True] / pairs.total())
