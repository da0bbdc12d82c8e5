"""Checkpoints and LoRAs in place of a model's own: what is recognised, what is told, and pictures by them."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from hdpainter import HDPainter
from hdpainter.cli import main
from hdpainter.models.choice import ModelChoice
from hdpainter.models.identity import identify
from hdpainter.models.loading import load
from hdpainter.models.recognise import read_weights, recognise
from hdpainter.models.registry import MODELS, PipelineSpec, Stage, find_checkpoint
from hdpainter.models.text_layouts import as_open_clip, as_transformers
from ldm.util import UserError
from tests.support import layout

MINI = find_checkpoint("mini/mini-inpainting.safetensors")
TEXT = "cond_stage_model."


def message(function: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def skeleton(path: Path, name: str, dtype: torch.dtype = torch.float16, **changes: torch.Tensor) -> Path:
    """A file with the names and the decisive shapes of a public checkpoint, and next to no data."""
    every = layout(name)
    ends = ("input_blocks.0.0.weight", "attn2.to_k.weight")
    keys = [next(key for key in every if key.endswith(end)) for end in ends]
    shapes = {key: every[key] for key in (*keys, "first_stage_model.quant_conv.bias")} | {
        TEXT + "anything": [1]
    }
    save_file({key: torch.zeros(shape, dtype=dtype) for key, shape in shapes.items()} | changes, path)
    return path


# --- what is recognised ---


@pytest.mark.parametrize(
    ("name", "pipeline"),
    [("sd1-inpainting", "dreamshaper8"), ("sd2-inpainting", "sd2"), ("sd2-base", "sd2-base")],
)
def test_public_layouts_are_recognised(tmp_path, name, pipeline):
    path = skeleton(tmp_path / "mine.safetensors", name)
    assert recognise(path).name == f"{name}.yaml"
    spec = ModelChoice(checkpoint=str(path)).resolve()
    base = PipelineSpec.load(pipeline)
    assert spec.name == "mine" and spec.inpainting == Stage(None, str(path))
    assert (spec.upscaler, spec.size, spec.painta_levels) == (base.upscaler, base.size, base.painta_levels)
    chosen = ModelChoice(model="mini", checkpoint=str(path)).resolve()
    assert chosen.size == 256 and chosen.inpainting == spec.inpainting


def test_the_upscaler_is_no_stage_1(tmp_path):
    path = skeleton(tmp_path / "up.safetensors", "x4-upscaler")
    assert recognise(path).name == "x4-upscaler.yaml"
    assert f"{path} is an x4 upscaler" in message(ModelChoice(checkpoint=str(path)).resolve)


def test_what_a_model_predicts_is_read_told_or_guessed(tmp_path):
    def kind(name: str, metadata: dict | None = None, **changes: Any) -> tuple[str, str]:
        path = skeleton(tmp_path / "a.safetensors", name, **changes)
        save_file(load_file(path), path, metadata)
        found = recognise(path)
        return found.config["params"].get("parameterization", "eps"), " ".join(found.notes)

    assert kind("sd2-base")[0] == "eps" and "does not say whether" in kind("sd2-base")[1]
    assert kind("sd2-base", v_pred=torch.zeros(1)) == ("v", "")
    assert kind("sd2-base", {"modelspec.architecture": "stable-diffusion-v2-768-v"}) == ("v", "")
    assert kind("sd2-base", {"modelspec.prediction_type": "epsilon"}) == ("eps", "")
    assert "ztsnr" in kind("sd2-base", v_pred=torch.zeros(1), ztsnr=torch.zeros(1))[1]
    assert kind("sd2-inpainting") == ("eps", "") and kind("sd1-inpainting") == ("eps", "")
    assert recognise(tmp_path / "a.safetensors", "v").config["params"]["parameterization"] == "v"
    assert recognise(MINI).config["params"]["parameterization"] == "v"  # as its config has it


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (
            ["conditioner.embedders.0.transformer.x", "model.diffusion_model.y"],
            "looks like a Stable Diffusion XL model",
        ),
        (["model.diffusion_model.joint_blocks.0.x"], "looks like a transformer such as Stable Diffusion 3"),
        (["lora_unet_down_blocks_0.lora_up.weight"], "looks like a LoRA: give it with --lora"),
        (["control_model.input_blocks.0.0.weight"], "looks like a ControlNet"),
        (["emb_params"], "looks like a textual inversion"),
        (["down_blocks.0.resnets.0.conv1.weight"], "looks like a part of a diffusers folder"),
        (["decoder.conv_in.weight", "encoder.conv_in.weight"], "looks like an autoencoder alone"),
        (["a", "b"], "is no Stable Diffusion checkpoint: its tensors are called a, b"),
    ],
)
def test_what_is_no_model_is_told_apart(tmp_path, names, says):
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "x.safetensors")
    text = message(ModelChoice(checkpoint=str(tmp_path / "x.safetensors")).resolve)
    assert says in text and text.startswith(str(tmp_path / "x.safetensors"))


def test_unets_of_other_sizes_are_named(tmp_path):
    path = skeleton(tmp_path / "x.safetensors", "sd2-base")
    weights = load_file(path)
    stem = "model.diffusion_model.input_blocks.0.0.weight"
    save_file(weights | {stem: torch.zeros(320, 5, 3, 3)}, path)
    assert "looks like a depth-to-image model with 5 input channels" in message(recognise, path)
    save_file({name: tensor for name, tensor in weights.items() if "diffusion_model" in name}, path)
    assert "looks like a UNet alone: it has no first_stage_model.*" in message(recognise, path)


# --- names of text encoders ---


def test_text_encoders_go_from_one_naming_to_the_other_and_back():
    text = {k.removeprefix(TEXT): t for k, t in load_file(MINI).items() if k.startswith(TEXT)}
    there = as_transformers(text)
    assert "transformer.text_model.encoder.layers.0.self_attn.k_proj.bias" in there
    back = as_open_clip(there)
    needless = {name for name in text if "visual" in name} | {"model.text_projection", "model.logit_scale"}
    assert back.keys() == text.keys() - needless
    assert all(torch.equal(tensor, text[name]) for name, tensor in back.items())
    old = {name.replace("transformer.text_model.", "transformer."): tensor for name, tensor in there.items()}
    assert as_transformers(old).keys() == there.keys()
    del there["transformer.text_model.encoder.layers.0.self_attn.k_proj.bias"]
    assert "needs q, k and v" in message(as_open_clip, there)
    assert "no weight of a CLIP text encoder" in message(as_open_clip, {"lora.weight": torch.zeros(1)})


# --- pictures ---


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The current folder, with a picture, a mask, and the miniature as other tools might save it."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save("a.png")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 40, 40))
    mask.save("mask.png")
    return tmp_path


def painted(**weights: Any) -> np.ndarray:
    painter = HDPainter.from_config(device="cpu", superres=False, **weights)
    result = painter("a.png", "mask.png", "boat", method="painta", steps=1, size=64, superres=False)
    return np.asarray(result.image)


def test_any_form_of_a_checkpoint_makes_the_same_picture(here):
    weights = load_file(MINI)
    wanted = painted(name_or_yaml="mini")
    text = {name.removeprefix(TEXT): tensor for name, tensor in weights.items() if name.startswith(TEXT)}
    others = {name: tensor for name, tensor in weights.items() if not name.startswith(TEXT)}
    forms: dict[str, dict[str, torch.Tensor]] = {
        "plain": weights,
        "transformers": others | {TEXT + name: tensor for name, tensor in as_transformers(text).items()},
        "extras": weights | {"v_pred": torch.zeros(1), "denoiser.sigmas": torch.zeros(1000)},
    }
    for name, form in forms.items():
        save_file(form, f"{name}.safetensors")
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assert np.array_equal(painted(checkpoint=f"{name}.safetensors"), wanted), name
        notes = [str(note.message) for note in told if name in str(note.message)]
        assert len(notes) == (name == "extras"), notes
    assert notes == ["extras.safetensors has 1 tensors that are not used (denoiser.sigmas)"]
    torch.save({"state_dict": weights}, "plain.ckpt")
    assert np.array_equal(painted(checkpoint="plain.ckpt"), wanted)
    assert not np.array_equal(painted(checkpoint="plain.ckpt", parameterization="eps"), wanted)


def test_moving_averages_are_taken_or_told(here):
    weights = load_file(MINI)
    averages = {
        f"model_ema.{name.removeprefix('model.').replace('.', '')}": tensor * 2
        for name, tensor in weights.items()
        if name.startswith("model.")
    }
    save_file(weights | averages, "both.safetensors")
    named, notes = read_weights(Path("both.safetensors"))
    assert named is None and notes == [
        f"has {len(averages)} moving averages (model_ema.*) that are not used; --ema takes them"
    ]
    name = "model.diffusion_model.out.2.weight"
    for ema, factor in ((False, 1), (True, 2)):
        spec = ModelChoice(checkpoint="both.safetensors", ema=ema).resolve()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = load(spec, dtype=torch.float32, superres=False).inpainting
        assert torch.equal(model.get_parameter(name), weights[name].float() * factor)
        assert identify(spec, False)["inpainting"].get("ema", False) == ema
    assert "no moving averages" in message(
        load, ModelChoice(model="mini", ema=True).resolve(), superres=False
    )


def test_commands_and_job_files_take_a_checkpoint(here, capsys):
    (here / "mine.safetensors").write_bytes(MINI.read_bytes())
    picture = ["--image", "a.png", "--mask", "mask.png", "--prompt", "boat"]
    settings = ["--method", "painta", "--steps", "1", "--size", "64", "--no-superres", "--device", "cpu"]
    assert main(["inpaint", *picture, *settings, "--out", "named.png"]) == 0
    assert main(["inpaint", *picture, *settings, "--checkpoint", "mine.safetensors", "--out", "own.png"]) == 0
    own, named = (json.loads((here / f"{name}.json").read_text()) for name in ("own", "named"))
    assert (here / "own.png").read_bytes() != b"" and own["metadata"]["models"]["model"] == "mine"
    assert own["inputs"]["model"]["inpainting"] == named["inputs"]["model"]["inpainting"]
    assert np.array_equal(np.asarray(Image.open("own.png")), np.asarray(Image.open("named.png")))
    (here / "jobs").mkdir()
    (here / "mine.safetensors").rename(here / "jobs" / "mine.safetensors")
    job = {"image": "../a.png", "mask": "../mask.png", "prompt": "boat", "name": "own"}
    content = {"checkpoint": "mine.safetensors", "jobs": [job]}
    (here / "jobs" / "jobs.yaml").write_text(yaml.safe_dump(content))
    assert main(["batch", "jobs/jobs.yaml", *settings, "--out", "results"]) == 0
    assert np.array_equal(np.asarray(Image.open("results/own.png")), np.asarray(Image.open("own.png")))
    capsys.readouterr()
    (here / "jobs" / "jobs.yaml").write_text(yaml.safe_dump(content | {"checkpoint": 3}))
    assert main(["batch", "jobs/jobs.yaml"]) == 2
    assert "jobs.yaml: checkpoint must be text" in capsys.readouterr().err
    assert main(["inpaint", *picture, "--checkpoint", "none.ckpt", "--out", "x.png"]) == 2
    assert "checkpoint none.ckpt is not in" in capsys.readouterr().err
    assert main(["inpaint", *picture, "--parameterization", "u", "--out", "x.png"]) == 2
    assert "parameterization must be one of eps, v" in capsys.readouterr().err


def test_a_pipelines_yaml_may_leave_the_config_out(here):
    content = {"pipeline": {"inpainting": {"checkpoint": str(MINI)}, "size": 256}}
    Path("own.yaml").write_text(yaml.safe_dump(content))
    assert load("own.yaml").info["inpainting"]["config"] == "mini-inpainting.yaml"
    assert (MODELS / "mini-inpainting.yaml").is_file()
