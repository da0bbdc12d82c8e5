"""Models saved by diffusers: the networks compute what diffusers' own do, and they make pictures."""

import json
import shutil
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hdpainter.models.convert import convert
from hdpainter.models.diffusers_folder import folder_config
from hdpainter.models.identity import identify
from hdpainter.models.loading import PipelineModels, load
from hdpainter.models.registry import PipelineSpec, Stage
from ldm.checkpoint import build, load_into
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.util import UserError
from tests.hdpainter import tiny_diffusers as tiny

KINDS = [
    (1, "text", "epsilon"),
    (1, "inpainting", "epsilon"),
    (2, "text", "v_prediction"),
    (2, "inpainting", "epsilon"),
    (2, "upscaler", "v_prediction"),
]
PROMPTS = ["a red kite over the sea", ""]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"sd{kind[0]}-{kind[1]}")
def saved(request, tmp_path_factory) -> Any:
    """A tiny pipeline and the folder that it was saved to."""
    folder = tmp_path_factory.mktemp("diffusers") / "model"
    family, kind, prediction = request.param
    return SimpleNamespace(kind=kind, folder=folder, pipeline=tiny.save(folder, family, kind, prediction))


def compare(model: LatentDiffusion, theirs: Any, kind: str) -> None:
    """UNet, text features, both halves of the autoencoder and the schedule are those of diffusers' pipeline."""
    generator = torch.Generator().manual_seed(1)
    x, context, t, image = (
        torch.randn(shape, generator=generator)
        for shape in ((2, tiny.CHANNELS[kind], 8, 8), (2, 5, tiny.WIDTH), (2,), (1, 3, 32, 32))
    )
    t = torch.tensor([7, 700])
    level = torch.tensor([3, 30]) if kind == "upscaler" else None
    with torch.no_grad():
        pairs = {
            "unet": (
                model.model.diffusion_model(x, t, context, y=level),
                theirs.unet(x, t, context, class_labels=level).sample,
            ),
            "text": (
                model.cond_stage_model(PROMPTS),
                theirs.text_encoder(model.cond_stage_model.tokenize(PROMPTS))[0],
            ),
            "mean": (model.first_stage_model.encode(image).mean, theirs.vae.encode(image).latent_dist.mean),
            "image": (model.first_stage_model.decode(x[:, :4]), theirs.vae.decode(x[:, :4]).sample),
            "schedule": (model.alphas_cumprod, theirs.scheduler.alphas_cumprod),
        }
    for name, (ours, wanted) in pairs.items():
        assert wanted.std() > 0.1, name
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-5, msg=name)
    assert model.scale_factor == theirs.vae.config.scaling_factor
    predicted = {"eps": "epsilon", "v": "v_prediction"}[model.parameterization]
    assert predicted == theirs.scheduler.config.prediction_type


def test_a_folder_is_loaded_as_it_is(saved):
    stage = Stage(None, str(saved.folder))
    spec = PipelineSpec("folder", stage, stage, painta_levels=(1,), rasg_levels=(1,))
    models = PipelineModels(spec, torch.device("cpu"))
    compare(models.upscaler if saved.kind == "upscaler" else models.stage1, saved.pipeline, saved.kind)
    stage = "upscaler" if saved.kind == "upscaler" else "inpainting"
    weights = sum(file.stat().st_size for file in saved.folder.glob("*/*.safetensors"))
    told = {"config": "model", "checkpoint": "model", "bytes": weights, "sha256": None}
    assert models.info[stage].items() >= told.items()
    identify(spec)  # which hashes the files
    assert models.info[stage]["sha256"] is None  # what was loaded


def test_a_folder_becomes_one_file(saved, tmp_path):
    convert(saved.folder, tmp_path / "one.safetensors")
    model = build(folder_config(saved.folder))
    load_into(model, tmp_path / "one.safetensors", "its config")
    compare(model.eval(), saved.pipeline, saved.kind)


def test_a_converted_text_encoder_lacks_only_what_stable_diffusion_2_does_not_use(tmp_path):
    """Its config has one block more, which `penultimate` leaves out."""
    theirs = tiny.save(tmp_path / "model", 2, "inpainting")
    config = folder_config(tmp_path / "model")
    encoder = config["params"]["cond_stage_config"]["params"]
    encoder["layer"] = "penultimate"
    encoder["arch"]["text_cfg"]["layers"] += 1
    convert(tmp_path / "model", tmp_path / "one.safetensors")
    model = build(config)
    load_into(model, tmp_path / "one.safetensors", "its config")
    compare(model.eval(), theirs, "inpainting")
    encoder["layer"] = "last"
    with pytest.raises(UserError, match="12 missing"):
        load_into(build(config), tmp_path / "one.safetensors", "its config")


def test_half_precision_and_bin_files(tmp_path):
    theirs = tiny.pipeline(2, "inpainting")
    theirs.to(torch.float16).save_pretrained(tmp_path / "half", variant="fp16")
    stage = Stage(None, str(tmp_path / "half"))
    spec = PipelineSpec("half", stage, painta_levels=(1,), rasg_levels=(1,))
    compare(load(spec, dtype=torch.float32).inpainting, theirs.to(torch.float32), "inpainting")
    for file in (tmp_path / "half").glob("*/*.safetensors"):
        stem = "pytorch_model" if file.parent.name == "text_encoder" else "diffusion_pytorch_model"
        torch.save(load_file(file), file.with_name(f"{stem}.bin"))
        file.unlink()
    compare(load(spec, dtype=torch.float32).inpainting, theirs, "inpainting")


def test_identity_follows_weights_and_config(tmp_path):
    tiny.save(tmp_path / "model", 2, "inpainting")
    spec = PipelineSpec("x", Stage(None, str(tmp_path / "model")))
    first = identify(spec)["inpainting"]
    assert identify(spec)["inpainting"] == first
    shutil.copytree(tmp_path / "model", tmp_path / "other")
    assert identify(PipelineSpec("x", Stage(None, str(tmp_path / "other"))))["inpainting"] == first
    path = tmp_path / "model" / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    save_file({name: tensor + 1 for name, tensor in weights.items()}, path)
    assert identify(spec)["inpainting"]["checkpoint"] != first["checkpoint"]
    assert identify(spec)["inpainting"]["config"] == first["config"]


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        (
            "unet",
            {"addition_embed_type": "text_time"},
            "addition_embed_type is 'text_time', where",
        ),
        (
            "unet",
            {"in_channels": 8},
            "a UNet of 8 channels is no text-to-image, inpainting or upscaling model",
        ),
        ("unet", {"down_block_types": ["AttnDownBlock2D", "DownBlock2D"]}, "AttnDownBlock2D"),
        ("unet", {"cross_attention_dim": None, "block_out_channels": None}, "do not describe a model"),
        ("vae", {"block_out_channels": [8, 12]}, "are not multiples"),
        ("scheduler", {"prediction_type": "flow"}, "a scheduler of 'flow'"),
        ("scheduler", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr is True"),
    ],
)
def test_models_that_are_no_stable_diffusion_are_refused(tmp_path, file, changes, says):
    parts = {
        "unet": tiny.unet(2, "text").config,
        "vae": tiny.autoencoder(2).config,
        "text_encoder": {},
        "scheduler": tiny.pipeline(2, "text").scheduler.config,
    }
    for part, values in parts.items():
        path = tmp_path / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
        path.parent.mkdir()
        path.write_text(json.dumps({**values, **(changes if part == file else {})}))
    with pytest.raises(UserError) as caught:
        folder_config(tmp_path)
    assert says in str(caught.value) and str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    (tmp_path / "vae" / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"vae.config\.json is not valid JSON"):
        folder_config(tmp_path)
