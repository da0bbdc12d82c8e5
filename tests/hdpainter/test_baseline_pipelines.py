"""GLIDE and NUWA-LIP as pipelines: a painter, the command line, batches and the page take them like any other."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from hdpainter.baselines.glide.tokens import words_cut
from hdpainter.cli import main
from hdpainter.models.identity import identify
from hdpainter.models.loading import load
from hdpainter.models.recognise import recognise
from hdpainter.models.registry import PipelineSpec
from hdpainter.pipeline import HDPainter
from hdpainter.settings import GlideMethod, Method, NuwaLipMethod
from hdpainter.values import at
from hdpainter.web.limits import Limits
from hdpainter.web.menu import Menu
from ldm.util import UserError
from tests.support import message

KINDS = ("glide", "nuwa-lip")


def quick(kind) -> Method:
    values = {"sampler.steps": 3, "glide.steps": "2"} if kind == "glide" else {}
    return Method.load(kind).override({**values, "superres.steps": 2})


@pytest.fixture(scope="module")
def painters(tiny_baselines) -> dict[str, HDPainter]:
    return {
        kind: HDPainter.from_config(path, device="cpu", dtype="float32")
        for kind, path in tiny_baselines.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_any_size_is_filled_and_known_pixels_stay(painters, photo, kind):
    picture, mask = photo(75, 50)
    filled = np.array(mask) >= 128
    results = {
        superres: painters[kind](picture, mask, "a red kite", method=quick(kind), seed=3, superres=superres)
        for superres in (True, False)
    }
    for superres, result in results.items():
        assert (result.image.size, result.low_res.size) == ((75, 50), (32, 21))
        made = np.array(result.image)
        assert np.array_equal(made[~filled], np.array(picture)[~filled])
        assert (made[filled] != np.array(picture)[filled]).any()
        facts = json.loads(json.dumps(result.metadata))
        assert (facts["superres"], facts["dtype"]["inpainting"], facts["device"]) == (
            superres,
            "float32",
            "cpu",
        )
        assert Method.from_values(facts["method"]) == quick(kind)
    assert np.array_equal(results[True].low_res, results[False].low_res)
    assert (np.array(results[True].image) != np.array(results[False].image)).any()


@pytest.mark.parametrize("kind", KINDS)
def test_stage_1_is_the_baselines_own_picture_of_the_original(painters, photo, kind):
    pairs = [photo(64, 40, seed) for seed in (1, 2)]
    results = painters[kind](
        [picture for picture, _ in pairs], [mask for _, mask in pairs], ["a kite", ""],
        method=quick(kind), seed=[5, 6], size=64,
    )  # fmt: skip
    expected = painters[kind].models.baseline(
        [np.array(picture) for picture, _ in pairs],
        [np.array(mask) >= 128 for _, mask in pairs],
        ["a kite", ""],
        [5, 6],
        quick(kind),
    )
    for result, picture in zip(results, expected, strict=True):
        assert np.array_equal(np.array(result.low_res), np.array(picture))


def test_a_draft_is_finished_as_in_one_go(painters, photo):
    picture, mask = photo(64, 40)
    how = {"method": quick("glide"), "seed": 4}
    draft = painters["glide"].draft(picture, mask, "a kite", **how)
    finished = painters["glide"].finish(picture, mask, "a kite", draft, **how)
    assert np.array_equal(finished.image, painters["glide"](picture, mask, "a kite", **how).image)


def test_adjustments_reach_both_baselines(painters, photo):
    picture, mask = photo(40, 40)

    def painted(kind, **settings):
        result = painters[kind](picture, mask, "a kite", superres=False, **settings)
        return np.array(result.low_res)

    glide = painted("glide", method=quick("glide"))
    for change in ({"steps": 4}, {"guidance_scale": 1.0}, {"negative_prompt": "a boat"}, {"seed": 1}):
        assert (painted("glide", method=quick("glide"), **change) != glide).any()
    greedy = Method.load("nuwa-lip").override({"nuwa_lip.top_k": 1})
    assert np.array_equal(painted("nuwa-lip", method=greedy), painted("nuwa-lip", method=greedy, seed=1))


def test_a_prompt_of_300_words_is_cut_and_told(painters, photo):
    picture, mask = photo(32, 32)
    prompt = "dog " * 300  # a token each
    facts = {
        kind: painters[kind](picture, mask, prompt, method=quick(kind), superres=False).metadata
        for kind in KINDS
    }
    assert facts["glide"]["words_cut"] == 300 - 12  # the tiny network reads 12 tokens
    assert facts["nuwa-lip"]["words_cut"] == 300 - 75
    assert (words_cut("dog " * 128), words_cut("a dog, " * 64), words_cut("")) == (0, 43, 0)


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        *[("glide", place) for place in ("sampler.eta", "sampler.grid", "painta", "rasg", "masks.dilate")],
        *[("nuwa-lip", place) for place in ("sampler.steps", "prompts.negative", "painta", "masks.levels")],
    ],
)
def test_what_says_nothing_to_a_baseline_may_not_be_set(tmp_path, kind, place):
    assert f"{place} says nothing to {kind}: leave it out" in message(Method.load(kind).override, {place: 1})
    part, _, key = place.partition(".")
    value = at(Method("plain"), place)
    values = {kind.replace("-", "_"): {}, part: {key: value} if key else value}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(values))
    assert f"says nothing to {kind}" in message(Method.load, path)


def test_a_baselines_values_are_checked_before_a_model_loads():
    for method, values, words in [
        ("glide", {"glide.steps": "quick"}, "respacing 'quick'"),
        ("glide", {"glide.temperature": 0}, "temperature is 0"),
        ("glide", {"sampler.steps": 2000}, "steps is 2000"),
        ("nuwa-lip", {"nuwa_lip.top_k": 0}, "top_k is 0"),
        ("nuwa-lip", {"nuwa_lip.samples": 0}, "samples is 0"),
        ("nuwa-lip", {"nuwa_lip.temperature": -1.0}, "temperature is -1"),
        ("painta", {"glide.steps": "5"}, "unknown key 'glide.steps'"),
    ]:
        assert words in message(Method.load(method).override, values)
    assert Method.load("glide") == GlideMethod() and Method.load("nuwa-lip") == NuwaLipMethod()


def test_method_and_model_must_go_together(painters, painter, photo):
    picture, mask = photo(32, 32)
    says = "method painta does not go with model tiny-glide-pipeline: give one of glide"
    assert says in message(painters["glide"], picture, mask, "a kite", method="painta")
    says = "method glide does not go with model tiny: give one of "
    assert says in message(painter, picture, mask, "a kite", method="glide")
    with pytest.raises(UserError, match="is no latent diffusion model"):
        _ = painters["glide"].models.inpainting


def test_what_was_made_before_there_were_other_kinds_keeps_its_identity(tiny_pipeline, tiny_baselines):
    assert not {"kind", "upsampler"} & set(identify(str(tiny_pipeline)))
    found = identify(str(tiny_baselines["glide"]), superres=False)
    assert found["kind"] == "glide" and found["upsampler"]["checkpoint"] != found["inpainting"]["checkpoint"]
    assert not {"glide", "nuwa_lip"} & set(vars(Method.load("hd-painter")))


# --- files -------------------------------------------------------------------------------------------------


@pytest.fixture
def copied(tiny_baselines, tmp_path):
    """The folder of the tiny baselines, to be damaged."""
    folder = shutil.copytree(tiny_baselines["glide"].parent, tmp_path / "baselines")
    return folder


def test_wrong_files_are_told_with_what_they_are(copied):
    glide, base = copied / "tiny-glide-pipeline.yaml", copied / "tiny-base.safetensors"
    whole = base.read_bytes()
    base.write_bytes(whole[: len(whole) // 2])
    assert f"{base} is damaged or cut short" in message(load, glide)
    shutil.copy(copied / "tiny-nuwa.safetensors", base)
    assert f"{base} does not fit tiny-base.yaml" in message(load, glide)
    shutil.copy(copied / "tiny-upsample.safetensors", base)
    assert "is GLIDE's upsample_inpaint.pt: give base_inpaint.pt" in message(load, glide)
    plain = {"transformer_proj.weight": torch.zeros(1), "input_blocks.0.0.weight": torch.zeros(1, 3, 3, 3)}
    base.unlink()
    torch.save(plain, base)
    assert "is GLIDE's base.pt, which does not inpaint: give base_inpaint.pt" in message(load, glide)
    base.unlink()
    assert "tiny-base.safetensors" in message(load, glide)


def test_a_baselines_file_given_alone_is_recognised(copied):
    assert "looks like a network of GLIDE: give --model glide" in message(
        recognise, copied / "tiny-base.safetensors"
    )
    assert "looks like NUWA-LIP: give --model nuwa-lip" in message(
        recognise, copied / "tiny-nuwa.safetensors"
    )


def test_missing_public_files_are_told_with_what_can_be_done(tmp_path, monkeypatch):
    monkeypatch.setenv("HDPAINTER_CHECKPOINTS", str(tmp_path))
    assert "get all that glide lacks with: hdpainter models download glide;" in message(load, "glide")
    (tmp_path / "base_inpaint.pt").touch()
    assert "upsample_inpaint.pt is not in" in message(load, "glide")
    says = message(load, "nuwa-lip")
    assert "its public links expired in March 2026; if you have it, put it there" in says
    assert "download" not in says


def test_a_file_without_a_source_is_not_downloaded(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HDPAINTER_CHECKPOINTS", str(tmp_path))
    assert main(["models", "download", "nuwa-lip-coco"]) == 2
    says = capsys.readouterr().err
    assert "epoch140-chunk-0.pth cannot be downloaded: its public links expired in March 2026" in says


# --- the doors ---------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path, photo):
    picture, mask = photo(48, 40)
    picture.save(tmp_path / "photo.png")
    mask.save(tmp_path / "mask.png")
    return tmp_path


def inpaint(files, model, *more) -> int:
    picture = ["--image", str(files / "photo.png"), "--mask", str(files / "mask.png"), "--prompt", "a kite"]
    place = ["--out", str(files / "out.png"), "--device", "cpu", "--dtype", "float32"]
    return main(["inpaint", "--model", str(model), *picture, *place, *more])


def test_the_command_line(files, tiny_baselines, tiny_pipeline, capsys):
    assert inpaint(files, tiny_baselines["glide"], "--method", "glide", "--steps", "3", "--no-superres") == 0
    record = json.loads((files / "out.json").read_text())
    assert (
        record["inputs"]["method"]["sampler"]["steps"] == 3 and record["inputs"]["model"]["kind"] == "glide"
    )
    assert Image.open(files / "out.png").size == (48, 40)
    assert inpaint(files, tiny_baselines["nuwa-lip"], "--overwrite") == 0
    for model, more, says in [
        (tiny_baselines["nuwa-lip"], ["--steps", "3"], "sampler.steps says nothing to nuwa-lip"),
        (
            tiny_baselines["glide"],
            ["--method", "rasg"],
            "method rasg does not go with model tiny-glide-pipeline",
        ),
        (tiny_pipeline, ["--method", "nuwa-lip"], "method nuwa-lip does not go with model tiny"),
    ]:
        capsys.readouterr()
        assert inpaint(files, model, *more, "--overwrite") == 2
        assert says in capsys.readouterr().err
    Image.new("L", (48, 40)).save(files / "mask.png")
    assert inpaint(files, tiny_baselines["glide"], "--overwrite") == 2
    assert "marks nothing to fill" in capsys.readouterr().err


def test_a_batch(files, tiny_baselines, capsys):
    jobs = [
        {"name": "one", "image": "photo.png", "mask": "mask.png", "prompt": "a kite", "steps": 3},
        {"name": "two", "image": "photo.png", "mask": "mask.png", "prompt": "", "steps": 3, "seed": 2},
        {"name": "bad", "image": "photo.png", "mask": "mask.png", "prompt": "", "method": "painta"},
    ]
    (files / "jobs.jsonl").write_text("\n".join(json.dumps({**job, "superres": False}) for job in jobs))
    words = ["batch", str(files / "jobs.jsonl"), "--model", str(tiny_baselines["glide"]), "--device", "cpu"]
    assert main([*words, "--dtype", "float32"]) == 1
    assert sorted(path.name for path in (files / "jobs-results").glob("*.png")) == ["one.png", "two.png"]
    assert "method painta does not go with model" in capsys.readouterr().err


def test_the_page_offers_what_goes_with_its_models(tiny_baselines, tiny_pipeline):
    glide, nuwa = (str(tiny_baselines[kind]) for kind in KINDS)
    menu = Menu({str(tiny_pipeline): True, glide: True, nuwa: True}, Limits())
    assert {"glide", "nuwa-lip", "painta"} <= set(menu.methods)
    assert "glide" not in Menu({str(tiny_pipeline): True}, Limits()).methods
    form = {
        "steps": 20,
        "guidance_scale": 7.5,
        "eta": 0.0,
        "negative_prompt": "",
        "size": 0,
        "superres": True,
    }
    recipe = menu.recipe("a kite", nuwa, method="", **form)
    assert recipe.method == NuwaLipMethod(), "what the form always sends and the method lacks is left out"
    assert menu.recipe("a kite", glide, method="glide", **form).method.sampler.steps == 20
    assert PipelineSpec.load(glide).method == "glide"
    assert "method painta does not go with" in message(menu.recipe, "a kite", glide, method="painta", **form)
