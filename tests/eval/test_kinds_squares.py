"""GLIDE and NUWA-LIP as methods of the benchmark, and the bound of their resolution, on tiny random weights."""

import numpy as np
import pytest
from PIL import Image

from eval.__main__ import main
from eval.config import Config
from eval.kinds.glide import Glide
from eval.requirements import missing, not_run, planned
from hdpainter.blend import blend
from hdpainter.models.loading import load
from hdpainter.settings import GlideMethod, NuwaLipMethod
from ldm.util import UserError
from tests.eval.running import BASE, made

JUDGES = {"fidelity": {}, "seam": {}, "saturation": {}}


@pytest.fixture
def entries(tiny_baselines):
    """The entries of both, quick."""
    return {
        "glide": {
            "kind": "glide", "label": "GLIDE", "model": str(tiny_baselines["glide"]), "steps": 3,
            "upsampler_steps": "2",
        },
        "nuwa-lip": {"kind": "nuwa-lip", "label": "NUWA-LIP", "model": str(tiny_baselines["nuwa-lip"])},
    }  # fmt: skip


@pytest.mark.parametrize("name", ["glide", "nuwa-lip"])
def test_results_are_the_baselines_own_joined_as_asked(write_config, entries, tiny_baselines, name):
    entry = {**entries[name], "known_region": ["exact", "decoded"]}
    run, _ = made(write_config({name: entry}), limit=3)
    baseline = load(tiny_baselines[name]).baseline
    glide = GlideMethod().override({"sampler.steps": 3, "glide.steps": "2"})
    pictures = baseline(
        [run.image(i) for i in range(3)],
        [run.mask(i) for i in range(3)],
        [run.triplets[i].prompt for i in range(3)],
        [1_000_000 + i for i in range(3)],
        glide if name == "glide" else NuwaLipMethod(),
    )
    for i, picture in enumerate(pictures):
        exact, decoded = (run.result(f"{name},known_region={how}", i) for how in ("exact", "decoded"))
        assert np.array_equal(decoded, np.array(picture))
        assert np.array_equal(exact, blend(run.image(i), decoded, run.mask(i)))
        assert np.array_equal(exact[~run.mask(i)], run.image(i)[~run.mask(i)])
    settings = run.method(f"{name},known_region=exact")["settings"]
    assert settings["model"]["kind"] == name and settings["known_region"] == "exact"


def test_the_bound_is_the_original_through_a_square(write_config):
    entry = {"kind": "squeezed", "known_region": ["exact", "decoded"]}
    run, _ = made(write_config({"original-256": entry}, benchmark={"size": 300}), limit=2)
    for i in range(2):
        image, mask = run.image(i), run.mask(i)
        square = Image.fromarray(image).resize((256, 256), Image.Resampling.BICUBIC)
        expected = np.array(square.resize(image.shape[1::-1], Image.Resampling.BICUBIC))
        exact, decoded = (run.result(f"original-256,known_region={how}", i) for how in ("exact", "decoded"))
        assert np.abs(decoded.astype(int) - expected).max() <= 1
        assert np.array_equal(exact, blend(image, decoded, mask, "exact", 300 / 256))
        assert not np.array_equal(exact[mask], image[mask])


def test_both_run_from_generation_to_the_table(write_config, entries, tiny_pipeline, tmp_path):
    methods = {**entries, **BASE, "original-256": {"kind": "squeezed", "label": "original through 256 px"}}
    path = write_config(methods, model=str(tiny_pipeline), metrics=JUDGES)
    words = ["--config", str(path), "--limit", "2", "--devices", "cpu"]
    assert main(["check", *words]) == 0
    assert main(["generate", *words]) == 0
    assert main(["score", str(tmp_path / "run"), "--device", "cpu"]) == 0
    assert main(["table", str(tmp_path / "run")]) == 0
    text = (tmp_path / "run" / "tables" / "table.md").read_text("utf-8").partition("## Beyond the paper")[2]
    methods, _, bounds = text.partition("**Bounds, not methods**")
    assert "| GLIDE | 2 | ∞ |" in methods and "| NUWA-LIP | 2 | ∞ |" in methods
    assert "| original through 256 px | 2 | ∞ |" in bounds


def test_what_is_missing_is_told_with_the_command_that_gets_it(write_config, tmp_path, monkeypatch):
    monkeypatch.setenv("HDPAINTER_CHECKPOINTS", str(tmp_path))
    methods = {
        "glide": {"kind": "glide", "model": "glide"},
        "nuwa": {"kind": "nuwa-lip", "model": "nuwa-lip"},
    }
    base, upsampler, nuwa_lip = missing(Config.load(write_config(methods, metrics=JUDGES)))
    assert "base_inpaint.pt is not in" in base and "hdpainter models download glide" in base
    assert "upsample_inpaint.pt is not in" in upsampler
    assert "epoch140-chunk-0.pth" in nuwa_lip and "public links expired" in nuwa_lip


def test_a_row_may_be_left_out_where_its_files_are_missing(write_config, entries, tmp_path, monkeypatch):
    monkeypatch.setenv("HDPAINTER_CHECKPOINTS", str(tmp_path))
    lost = {"kind": "nuwa-lip", "model": "nuwa-lip", "if_missing": "no longer offered"}
    config = Config.load(write_config({"lost": lost, "here": {**entries["nuwa-lip"], "if_missing": "lost"}}))
    assert [entry.why_not for entry in config.entries()] == ["no longer offered", None]
    assert list(planned(config).entries) == ["here"]
    told, how = not_run(config)
    assert told == "lost is not run: no longer offered" and "epoch140-chunk-0.pth is not in" in how
    run, _ = made(write_config({"lost": lost, "mean": {"kind": "mean"}}), limit=1)
    assert run.method("lost")["why_not"] == "no longer offered"


def test_table_1_runs_all_five_methods_of_the_paper(tmp_path, monkeypatch):
    monkeypatch.setenv("HDPAINTER_CHECKPOINTS", str(tmp_path))
    entries = {entry.name: entry for entry in Config.load("table1").entries()}
    kinds = {
        name: entries[name].kind for name in ("glide", "nuwa-lip", "bld", "stable-inpainting", "hd-painter")
    }
    assert list(kinds.values()) == ["glide", "nuwa-lip", "bld", "pipeline", "pipeline"]
    assert entries["nuwa-lip"].why_not == "its weights are no longer offered"
    assert [name for name, entry in entries.items() if entry.why_not] == ["nuwa-lip"]
    (tmp_path / "epoch140-chunk-0.pth").touch()
    assert "nuwa-lip" in {entry.name for entry in Config.load("table1").runs()}


def test_costs_grow_with_steps():
    assert Glide().cost() == pytest.approx(99, abs=1)
    assert Glide(steps=50).cost() < Glide(steps=50, upsampler_steps="50").cost() < Glide().cost() + 50


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"kind": "glide", "steps": 2000}, "steps is 2000"),
        ({"kind": "glide", "upsampler_steps": "quick"}, "respacing 'quick'"),
        ({"kind": "glide", "known_region": "poisson"}, "known_region must be one of exact, blended, decoded"),
        ({"kind": "nuwa-lip", "samples": 0}, "samples is 0"),
        ({"kind": "nuwa-lip", "model": "sd2"}, "model sd2 is of kind ldm: give the entry model: nuwa-lip"),
        ({"kind": "pipeline", "method": "glide"}, "method glide does not go with model"),
        ({"kind": "pipeline", "model": "GLIDE"}, "give the entry kind: glide"),
        ({"kind": "reconstruction", "model": "GLIDE"}, "is no latent diffusion model"),
    ],
)
def test_entries_that_make_no_sense_are_one_line(write_config, tiny_baselines, tiny_pipeline, values, says):
    kind = {"glide": "glide", "nuwa-lip": "nuwa-lip"}.get(values["kind"])
    model = str(tiny_baselines[kind]) if kind else str(tiny_pipeline)
    if values.get("model") == "GLIDE":
        values = {**values, "model": str(tiny_baselines["glide"])}
    with pytest.raises(UserError, match=says) as caught:
        made(write_config({"painta": {"model": model, **values}}, model=str(tiny_pipeline)), limit=1)
    assert "\n" not in str(caught.value)
