"""Runs of a method with several seeds: one row of a summary."""

import numpy as np
import pytest

from eval.summary import summarise
from tests.eval.fake_run import METHODS, fake_run, write_scores

REPEATS = 200


def seeds(n=3):
    entry = {"kind": "pipeline", "base": "hd-painter"}
    many = {
        f"hd-painter,eta=0.1,seed={s}": {
            **entry,
            "label": f"HD-Painter, eta 0.1, seed {s}",
            "varied": {"eta": 0.1, "seed": s},
        }
        for s in range(n)
    }
    return {"stable-inpainting": METHODS["stable-inpainting"], **many}


def test_seeds_are_averaged_for_each_sample(tmp_path):
    run = fake_run(tmp_path / "run", 20, methods=seeds())
    summary = summarise(run, repeats=REPEATS)
    assert [row.name for row in summary.rows] == ["stable-inpainting", "hd-painter,eta=0.1"]
    row = summary.rows[1]
    each = [run.scores(name, "accuracy")["acc"] for name in run.methods[1:]]
    np.testing.assert_allclose(row.values["acc"], 100 * np.mean(each, axis=0))
    assert row.label == "HD-Painter, eta 0.1 (3 seeds)" and summary.ours == row.name
    assert summary.differences[row.name, "acc"].test == "sign flips"  # an average is no yes or no
    ours = [run.scores(name, "minipick")["logit"] for name in run.methods[1:]]
    base = run.scores("stable-inpainting", "minipick")["logit"]
    wins = np.mean([logits > base for logits in ours])
    assert summary.means["stable-inpainting", "win_rate"].value == pytest.approx(100 * wins)


def test_a_seed_counts_once_however_its_method_is_named(tmp_path):
    """A method whose config got seeds later: its first run, with the config's own seed, is one of them."""

    def entry(seed, varied, radius=3):
        label = ", ".join(["Telea", *(f"seed {value}" for value in varied.values())])
        settings = {"seed": seed, "per_sample": True, "radius": radius}
        return {"kind": "telea", "base": "telea", "label": label, "varied": varied, "settings": settings}

    methods = {
        "telea": entry(1, {}),
        "telea,seed=1": entry(1, {"seed": 1}),
        "telea,seed=2": entry(2, {"seed": 2}),
        "telea,seed=3": entry(3, {"seed": 3}, radius=5),
    }
    run = fake_run(tmp_path / "run", 4, methods=methods)
    one, other = summarise(run, repeats=100).rows
    assert (one.name, one.label, one.members) == ("telea", "Telea (2 seeds)", ("telea", "telea,seed=2"))
    assert (other.name, other.members) == ("telea,seed=3", ("telea,seed=3",))
    run.result_path("telea", 0).unlink()
    assert summarise(run, repeats=100).rows[0].members == ("telea,seed=1", "telea,seed=2")
    assert summarise(run, repeats=100).rows[0].label == "Telea (2 seeds)"


def test_psnr_of_several_seeds_is_that_of_their_mean_squared_error(tmp_path):
    run = fake_run(tmp_path / "run", 4, methods=seeds(2), metrics=())
    for name, value in zip(run.methods[1:], ("inf", 40.0), strict=True):
        write_scores(run, name, "fidelity", [{"index": i, "psnr": value} for i in range(4)])
    found = summarise(run, repeats=REPEATS).means["hd-painter,eta=0.1", "psnr"]
    assert found.value == pytest.approx(40 + 10 * np.log10(2))


def test_other_settings_than_the_seed_stay_apart(tmp_path):
    methods = seeds(2)
    methods["hd-painter,eta=0.5,seed=0"] = {
        "kind": "pipeline",
        "base": "hd-painter",
        "label": "strong",
        "varied": {"eta": 0.5, "seed": 0},
    }
    names = [row.name for row in summarise(fake_run(tmp_path / "run", 4, methods=methods), repeats=100).rows]
    assert names == ["stable-inpainting", "hd-painter,eta=0.1", "hd-painter,eta=0.5"]
