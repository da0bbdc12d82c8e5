"""Conversion, verification, and the command ``hdpainter models``."""

import argparse
import gzip
import hashlib
import json
import os
import re
import shlex
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hdpainter.models.commands import add_parser
from hdpainter.models.convert import convert
from hdpainter.models.diffusers_folder import from_diffusers
from hdpainter.models.random_weights import write_random_checkpoint
from hdpainter.models.registry import MODELS, checkpoint_folders, registry
from ldm.checkpoint import build, misfit
from ldm.util import UserError
from tests.ldm import tiny
from tests.support import GOLDEN

DIFFUSERS = json.loads(
    gzip.decompress((GOLDEN / "state_dicts" / "diffusers-to-ldm-sd1.json.gz").read_bytes())
)
PREFIX = {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "text_encoder": "cond_stage_model."}
CONFIG = tiny.config(
    "LatentInpaintDiffusion",
    in_channels=9,
    conditioning_key="hybrid",
    cond_stage_config={"target": "torch.nn.Identity"},
)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty folder where checkpoints are looked for first; the working directory is another."""
    monkeypatch.setenv("HDPAINTER_CHECKPOINTS", str(tmp_path / "checkpoints"))
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "checkpoints"


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "tiny.yaml"
    OmegaConf.save({"model": CONFIG}, path)
    return path


@pytest.fixture
def checkpoint(config, tmp_path) -> Path:
    write_random_checkpoint(config, tmp_path / "tiny.safetensors", seed=1)
    return tmp_path / "tiny.safetensors"


def run(line: str) -> int:
    """Run ``hdpainter models LINE``."""
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    args = parser.parse_args(["models", *shlex.split(line)])
    return args.run(args)


def message(function, *args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- random checkpoints ---


def test_random_checkpoints_have_the_layout_and_follow_the_seed(config, checkpoint, tmp_path):
    weights = load_file(checkpoint)
    model = build(CONFIG)
    assert weights.keys() == model.state_dict().keys() and misfit(model, weights) is None
    assert torch.equal(weights["alphas_cumprod"], model.alphas_cumprod)
    conv = weights["model.diffusion_model.input_blocks.0.0.weight"]
    assert conv.std() == pytest.approx(conv[0].numel() ** -0.5, rel=0.1)
    for seed, same in ((1, True), (2, False)):
        write_random_checkpoint(config, tmp_path / "again.safetensors", seed=seed)
        assert ((tmp_path / "again.safetensors").read_bytes() == checkpoint.read_bytes()) == same
    write_random_checkpoint(config, tmp_path / "half.safetensors", torch.float16, seed=1)
    half = load_file(tmp_path / "half.safetensors")
    assert half["alphas_cumprod"].dtype == torch.float32
    assert torch.equal(half["model.diffusion_model.input_blocks.0.0.weight"], conv.half())


# --- diffusers names ---


def diffusers_parts(older: bool = False, new_text: bool = False) -> dict[str, dict[str, torch.Tensor]]:
    """The parts of Stable Diffusion 1.5 inpainting in diffusers' layout, in full size on the meta device."""
    layout = json.loads(gzip.decompress((GOLDEN / "state_dicts" / "sd1-inpainting.json.gz").read_bytes()))
    parts = {}
    for part, prefix in PREFIX.items():
        shapes = {name: layout[prefix + key] for name, key in DIFFUSERS[part].items()}
        shapes |= {name: shape for name, shape, _ in DIFFUSERS["reshape"][part]}
        parts[part] = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    if older:
        for new, old in DIFFUSERS["vae_attention_aliases"].items():
            parts["vae"] = {
                re.sub(rf"attentions\.0\.{re.escape(new)}\.", f"attentions.0.{old}.", name): tensor
                for name, tensor in parts["vae"].items()
            }
    if new_text:
        texts = parts["text_encoder"]
        parts["text_encoder"] = {name.removeprefix("text_model."): texts[name] for name in texts}
    return parts


@pytest.mark.parametrize("form", [{}, {"older": True}, {"new_text": True}])
def test_every_diffusers_weight_gets_its_name_and_shape(form):
    parts = diffusers_parts(**form)
    parts["text_encoder"]["text_model.embeddings.position_ids"] = torch.empty(1, 77, device="meta")
    weights = from_diffusers(parts)
    wanted = {PREFIX[part] + key for part in PREFIX for key in DIFFUSERS[part].values()}
    assert weights.keys() == wanted
    model = build(OmegaConf.load(MODELS / "sd1-inpainting.yaml").model)
    assert misfit(model, weights) is None


def test_values_go_where_the_names_say():
    parts = {
        part: {name: torch.full((2, 2), float(i)) for i, name in enumerate(DIFFUSERS[part])}
        for part in PREFIX
    }
    weights = from_diffusers(parts, clip_l=True)
    for part, prefix in PREFIX.items():
        for i, key in enumerate(DIFFUSERS[part].values()):
            assert (weights[prefix + key] == i).all(), key
            assert weights[prefix + key].shape[:2] == (2, 2)


@pytest.mark.parametrize("part", PREFIX)
@pytest.mark.parametrize("name", ["down_blocks.0.motion.weight", "encoder.strange.weight", "lora.up.weight"])
def test_foreign_names_are_refused(part, name):
    assert name in message(from_diffusers, {part: {name: torch.zeros(1)}})


# --- convert ---


@pytest.mark.parametrize("form", ["safetensors", "fp16.safetensors", "bin"])
def test_a_diffusers_folder_becomes_one_file(tmp_path, form):
    source, target = tmp_path / "sd", tmp_path / "sd.safetensors"
    for part in PREFIX:
        (source / part).mkdir(parents=True)
        stem = "diffusion_pytorch_model" if part != "text_encoder" else "model"
        stem = "pytorch_model" if stem == "model" and form == "bin" else stem
        tensors = {name: torch.randn(2, 2) for name in DIFFUSERS[part]}
        (torch.save if form == "bin" else save_file)(tensors, source / part / f"{stem}.{form}")
    (source / "text_encoder" / "config.json").write_text('{"hidden_act": "quick_gelu"}')
    assert run(f"convert {source} {target} --dtype float16") == 0
    with safe_open(target, "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}  # noqa: SIM118
        assert len(file.keys()) == sum(len(DIFFUSERS[part]) for part in PREFIX)
    (source / "vae" / next((source / "vae").iterdir()).name).unlink()
    assert str(source / "vae") in message(convert, source, tmp_path / "other.safetensors")


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16])
def test_a_ckpt_becomes_safetensors(checkpoint, tmp_path, dtype, capsys):
    weights = load_file(checkpoint)
    source, target = tmp_path / "model.ckpt", tmp_path / "out.safetensors"
    torch.save({"state_dict": weights | {"model_ema.x": torch.ones(2)}, "where": Path("x")}, source)
    option = f"--dtype {str(dtype).removeprefix('torch.')}" if dtype else ""
    assert run(f"convert {source} {target} {option}") == 0
    assert "left out: pathlib." in capsys.readouterr().out
    converted = load_file(target)
    assert converted.keys() == weights.keys()
    schedule = {name for name, _ in build(CONFIG).named_buffers()}
    for name, tensor in weights.items():
        wanted = tensor if name in schedule or dtype is None else tensor.to(dtype)
        assert converted[name].dtype == wanted.dtype and torch.equal(converted[name], wanted)


def test_averages_take_the_place_of_the_weights(checkpoint, tmp_path):
    weights = load_file(checkpoint)
    averaged = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): tensor + 1
        for name, tensor in weights.items()
        if name.startswith("model.")
    }
    averaged |= {"model_ema.decay": torch.tensor(0.9), "model_ema.num_updates": torch.tensor(5)}
    save_file(weights | averaged, tmp_path / "both.safetensors")
    assert run(f"convert {tmp_path}/both.safetensors {tmp_path}/ema.safetensors --ema") == 0
    converted = load_file(tmp_path / "ema.safetensors")
    assert converted.keys() == weights.keys()
    for name, tensor in weights.items():
        assert torch.equal(converted[name], tensor + 1 if name.startswith("model.") else tensor)
    assert "no moving averages" in message(convert, checkpoint, tmp_path / "x.safetensors", ema=True)
    for lost in (None, "model.diffusion_model.out.2.weight"):  # all weights, one of them
        names = [name for name in weights if name.startswith("model.") if lost in (None, name)]
        rest = {name: tensor for name, tensor in weights.items() if name not in names}
        save_file(rest | averaged, tmp_path / "averages.safetensors")
        text = message(convert, tmp_path / "averages.safetensors", tmp_path / "x.safetensors", ema=True)
        assert "averages.safetensors holds moving averages (model_ema." in text and "without the" in text
        assert ("model_ema.diffusion_modelout2weight, ..." in text) == (lost is not None)
    save_file({"first_stage_model.w": torch.ones(1)} | averaged, tmp_path / "averages.safetensors")
    assert "without the weights" in message(
        convert, tmp_path / "averages.safetensors", tmp_path / "x.safetensors"
    )
    assert not (tmp_path / "x.safetensors").exists()


def test_nothing_is_overwritten_or_left_behind(checkpoint, tmp_path):
    before = set(tmp_path.iterdir())
    assert "exists already" in message(convert, checkpoint, checkpoint)
    assert "must be named .safetensors" in message(convert, checkpoint, tmp_path / "x.ckpt")
    (tmp_path / "bad.ckpt").write_bytes(b"<html>")
    assert "web page" in message(convert, tmp_path / "bad.ckpt", tmp_path / "x.safetensors")
    assert "cannot be read" in message(convert, tmp_path / "none.ckpt", tmp_path / "x.safetensors")
    os.mkfifo(tmp_path / "pipe.ckpt")
    assert "is a pipe" in message(convert, tmp_path / "pipe.ckpt", tmp_path / "x.safetensors")
    assert "is a pipe" in message(run, f"verify {tmp_path}/pipe.ckpt --config {tmp_path}/tiny.yaml")
    assert set(tmp_path.iterdir()) == before | {tmp_path / "bad.ckpt", tmp_path / "pipe.ckpt"}


# --- verify ---


def test_verify_accepts_a_good_file_and_remembers_its_hash(checkpoint, config, capsys):
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert run(f"verify {checkpoint} --config {config}") == 0
    assert f"fit tiny.yaml; SHA-256 {digest}" in capsys.readouterr().out
    assert checkpoint.with_name("tiny.safetensors.sha256").read_text() == f"{digest}  tiny.safetensors\n"
    data = bytearray(checkpoint.read_bytes())
    data[-1] ^= 1
    checkpoint.write_bytes(data)
    assert run(f"verify {checkpoint} --config {config}") == 1
    assert f"should be {digest}" in capsys.readouterr().out


def test_verify_finds_what_is_wrong(checkpoint, config, tmp_path, capsys):
    weights = load_file(checkpoint)
    name = "first_stage_model.decoder.conv_out.bias"
    save_file(weights | {name: torch.full_like(weights[name], torch.nan)}, tmp_path / "nan.safetensors")
    del weights[name]
    save_file(weights, tmp_path / "less.safetensors")
    assert run(f"verify {tmp_path}/nan.safetensors {tmp_path}/less.safetensors --config {config}") == 1
    nan, less = capsys.readouterr().out.splitlines()
    assert f"1 tensors have infinite values or NaN ({name})" in nan
    assert f"does not fit tiny.yaml: keys 1 missing ({name})" in less
    assert not list(tmp_path.glob("*.sha256"))


def test_verify_by_name(folder):
    write_random_checkpoint(MODELS / "mini-inpainting.yaml", folder / "mini-inpainting.safetensors")
    assert "not a registered checkpoint" in message(run, f"verify {folder}/mini-inpainting.safetensors")
    assert run("verify mini") == 0  # which ships, in the folder mini/
    assert "hdpainter models download sd2-inpainting" in message(run, "verify sd2")
    (folder / "512-inpainting-ema.safetensors").write_bytes(b"<html>")
    assert "web page" in message(run, "verify sd2-inpainting")
    assert "web page" in message(run, f"verify {folder}/512-inpainting-ema.safetensors")


def test_verify_compares_with_the_registry(folder, checkpoint, config, tmp_path, monkeypatch, capsys):
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    (folder / "tiny.safetensors").write_bytes(checkpoint.read_bytes())
    for known, status in ((digest, 0), ("0" * 64, 1)):
        entry = {"title": "T", "file": "tiny.safetensors", "config": str(config), "licence": "L"}
        entry |= {"parameters": 1, "dtype": "float32", "urls": [], "sha256": known}
        OmegaConf.save({"checkpoints": {"tiny": entry}}, tmp_path / "registry.yaml")
        monkeypatch.setenv("HDPAINTER_REGISTRY", str(tmp_path / "registry.yaml"))
        assert run("verify tiny") == status
    assert f"should be {'0' * 64}, as recorded in the registry" in capsys.readouterr().out


# --- list and download ---


def test_list_shows_everything_and_what_is_here(folder, capsys):
    (folder / "x4-upscaler-ema.safetensors").touch()
    assert run("list") == 0
    out = capsys.readouterr().out
    checkpoints = out[out.index("\nCHECKPOINT ") :].splitlines()  # a pipeline may have the name of one
    for entry in registry().values():
        line = next(line for line in checkpoints if line.startswith(f"{entry.name} "))
        here = "here" if entry.name == "x4-upscaler" else "not here"
        assert line.endswith(f"{entry.file} ({here})") and entry.licence in line
        assert (" GB" in line) == bool(entry.dtype)
    for name in ("sd2", "sd15", "dreamshaper8", "mini"):
        assert re.search(rf"^{name} ", out, re.MULTILINE)
    assert str(checkpoint_folders()[0]) in out


def test_download_fetches_what_is_missing(folder, tmp_path, monkeypatch, capsys):
    fetched = []

    def download(urls, target, *, sha256, approximate_bytes):
        fetched.append((urls[0], target, sha256, approximate_bytes))
        target.parent.mkdir(exist_ok=True)
        target.touch()
        return target

    monkeypatch.setattr("hdpainter.models.commands.download", download)
    monkeypatch.setenv("HDPAINTER_MIRRORS", "http://mirror/{file}")
    entries = registry()
    assert run("download sd2 x4-upscaler") == 0
    for name, (url, target, sha256, size) in zip(("sd2-inpainting", "x4-upscaler"), fetched, strict=True):
        entry = entries[name]
        assert url == f"http://mirror/{entry.file}" and target == folder / entry.file
        assert (sha256, size) == (entry.sha256, entry.approximate_bytes)
    assert entries["sd2-inpainting"].licence in capsys.readouterr().out
    assert run("download sd2") == 0 and len(fetched) == 2
    assert "is here already" in capsys.readouterr().out
    assert run(f"download x4-upscaler --to {tmp_path}/other") == 0
    assert fetched[-1][1] == tmp_path / "other" / "x4-upscaler-ema.safetensors"
    assert run("download mini") == 0 and "mini is here already" in capsys.readouterr().out
    assert "'sd3'; did you mean 'sd2'? known: " in message(run, "download sd3")
