"""Scripts written for the authors' code, Stable Diffusion's scripts or diffusers move over by a name."""

import json

import pytest

from hdpainter.cli import main
from hdpainter.settings import Method
from tests.hdpainter.fakes import MODEL, FakePainter, make_mask, make_picture


@pytest.fixture
def paint(tmp_path, monkeypatch):
    """Runs `inpaint` with these words on a picture; (the model's name, the record's inputs)."""
    monkeypatch.chdir(tmp_path)
    make_picture(tmp_path / "a.png")
    make_mask(tmp_path / "m.png")
    models = []

    def load(model, *_):
        models.append(model)
        return FakePainter()

    def run(*words):
        assert main(["inpaint", *words], load=load, identify=lambda *_: MODEL) == 0
        (result,) = tmp_path.glob("**/*-kite.json")
        return models[-1], json.loads(result.read_text())["inputs"]

    return run


def test_the_authors_flags(paint):
    words = "--image-path a.png --mask-path m.png --prompt kite --output-dir out --num-samples 1 --seed 1"
    words += " --model-id ds8_inp --method painta+rasg --sr-method baseline --guidance-scale 3 --rasg-eta 0.2"
    model, inputs = paint(*words.split(), "--num-steps", "9")
    assert model == "dreamshaper8" and inputs["seed"] == 1
    method = Method.from_values(inputs["method"])
    assert method.name == "hd-painter-release" and not method.superres.blend
    assert (method.sampler.guidance_scale, method.sampler.eta, method.sampler.steps) == (3, 0.2, 9)


def test_flags_of_stable_diffusion_and_diffusers(paint):
    words = "--init_image a.png --mask_image m.png --prompt kite --outdir out --ddim_steps 7 --scale 5"
    words += " --ddim_eta 0.5"
    model, inputs = paint(*words.split(), "--n_samples", "1", "--negative_prompt", "blurry", "--model", "sd2")
    sampler = inputs["method"]["sampler"]
    assert model == "sd2"
    assert (sampler["steps"], sampler["guidance_scale"], sampler["eta"]) == (7, 5, 0.5)
    assert inputs["method"]["prompts"]["negative"] == "blurry"


def test_methods_by_the_authors_names(paint):
    words = [
        "--image",
        "a.png",
        "--mask",
        "m.png",
        "--prompt",
        "kite",
        "--out",
        "out",
        "--method",
        "baseline",
    ]
    assert paint(*words)[1]["method"]["name"] == "stable-inpainting"


@pytest.mark.parametrize("command", ["inpaint", "batch", "explain"])
def test_the_help_shows_our_names_alone(capsys, command):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    said = capsys.readouterr().out
    assert (
        "--steps" in said and "--num-steps" not in said and "_path" not in said and "--sr-method" not in said
    )
