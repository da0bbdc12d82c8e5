"""Pipelines, the registry of public checkpoints, and loading by name."""

import json
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hdpainter.configs import read_model_config
from hdpainter.models.hashes import checkpoint_sha256, record_sha256
from hdpainter.models.identity import identify
from hdpainter.models.loading import PipelineModels, load
from hdpainter.models.random_weights import write_random_checkpoint
from hdpainter.models.registry import (
    MODELS,
    PipelineSpec,
    find_checkpoint,
    pipeline_names,
    registry,
)
from ldm.checkpoint import build
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.util import UserError, count_params


@pytest.fixture(scope="module")
def mini(tmp_path_factory) -> Path:
    """A folder of random checkpoints of the miniatures, in half precision."""
    folder = tmp_path_factory.mktemp("checkpoints")
    (folder / "mini").mkdir()
    for name in ("mini-inpainting", "mini-upscaler"):
        write_random_checkpoint(
            MODELS / f"{name}.yaml", folder / "mini" / f"{name}.safetensors", torch.float16
        )
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty folder, the only one in which checkpoints are looked for."""
    monkeypatch.setattr("hdpainter.models.registry.checkpoint_folders", lambda: [tmp_path / "checkpoints"])
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "checkpoints"


@pytest.fixture
def with_mini(mini, monkeypatch) -> Path:
    monkeypatch.setenv("HDPAINTER_CHECKPOINTS", str(mini))
    return mini


def pipeline(path: Path, **changes) -> Path:
    """A YAML file with the mini pipeline, changed; None removes a key."""
    content = yaml.safe_load((MODELS / "mini.yaml").read_text())["pipeline"] | changes
    content = {key: value for key, value in content.items() if value is not None}
    path.write_text(yaml.safe_dump({"pipeline": content}))
    return path


def message(function, *args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- loading ---


def test_load_gives_models_ready_for_inference(with_mini):
    pipe = load("mini")
    assert "upscaler" not in vars(pipe)  # not loaded yet
    for model in (pipe.inpainting, pipe.upscaler):
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
        assert model.alphas_cumprod.dtype == torch.float32
    assert pipe.upscaler is pipe.upscaler
    assert pipe.upscaler.low_scale_model.betas.dtype == torch.float32


def test_random_weights_keep_activations_finite(with_mini):
    model = load("mini", dtype=torch.float32, superres=False).inpainting
    with torch.no_grad():
        context = model.get_learned_conditioning(["a boat", ""])
        out = model.apply_model(
            torch.randn(2, 4, 16, 16),
            torch.tensor([1, 999]),
            {"c_concat": [torch.randn(2, 5, 16, 16)], "c_crossattn": [context]},
        )
        image = model.decode_first_stage(out)
    assert out.std() > 0.01 and out.abs().max() < 100 and image.abs().max() < 100


def test_dtypes_by_stage_and_module(with_mini):
    policy = {
        "upscaler.first_stage_model": torch.float32,
        "inpainting": torch.float16,
        "": torch.bfloat16,
        "cond_stage_model": torch.float64,
        "inpainting.cond_stage_model": torch.float32,
    }
    pipe = load("mini", dtype=policy)
    for model, unet, autoencoder, text in (
        (pipe.inpainting, torch.float16, torch.float16, torch.float32),
        (pipe.upscaler, torch.bfloat16, torch.float32, torch.float64),
    ):
        parts = (model.model, model.first_stage_model, model.cond_stage_model)
        for part, dtype in zip(parts, (unet, autoencoder, text), strict=True):
            assert {parameter.dtype for parameter in part.parameters()} == {dtype}


def test_without_superres_no_upscaler_is_needed(mini, folder):
    (folder / "mini").mkdir()
    shutil.copy(mini / "mini" / "mini-inpainting.safetensors", folder / "mini")
    pipe = load("mini", superres=False)
    assert list(pipe.info) == ["model", "inpainting"]
    assert "mini-upscaler.safetensors" in message(pipe.checkpoint, "upscaler")
    assert "mini-upscaler.safetensors" in message(load, "mini")


def test_a_pipeline_may_have_no_upscaler(with_mini, tmp_path):
    assert load(pipeline(tmp_path / "one.yaml", upscaler=None)).upscaler is None


def test_a_text_to_image_model_is_stage_1_but_no_inpainting_model(with_mini, tmp_path):
    config = yaml.safe_load((MODELS / "mini-inpainting.yaml").read_text())
    config["model"]["target"] = "ldm.models.diffusion.ddpm.LatentDiffusion"
    del config["model"]["params"]["finetune_keys"]
    config["model"]["params"]["conditioning_key"] = "crossattn"
    config["model"]["params"]["unet_config"]["params"]["in_channels"] = 4
    (tmp_path / "text.yaml").write_text(yaml.safe_dump(config))
    write_random_checkpoint(tmp_path / "text.yaml", tmp_path / "text.safetensors")
    stage = {"config": "text.yaml", "checkpoint": "text.safetensors"}
    path = pipeline(tmp_path / "one.yaml", inpainting=stage, upscaler=None)
    models = load(path)
    assert models.text_to_image and type(models.stage1) is LatentDiffusion
    assert "text.yaml is not the config of an inpainting model" in message(lambda: models.inpainting)
    inpainting = {"config": "mini-inpainting.yaml", "checkpoint": "mini/mini-inpainting.safetensors"}
    two = pipeline(tmp_path / "two.yaml", upscaler=inpainting)
    assert "mini-inpainting.yaml is not the config of an upscaler model" in message(load, two)
    both = PipelineModels(PipelineSpec.load(two), torch.device("cpu"))
    assert "of a LatentInpaintDiffusion, not of a LatentUpscaleDiffusion" in message(lambda: both.upscaler)
    upscaler = {"config": "mini-upscaler.yaml", "checkpoint": "mini/mini-upscaler.safetensors"}
    swapped = pipeline(tmp_path / "swapped.yaml", inpainting=upscaler, upscaler=inpainting)
    assert "mini-upscaler.yaml is not the config of an inpainting model" in message(load, swapped)


@pytest.mark.parametrize("key", ["painta_levels", "rasg_levels"])
def test_levels_that_the_unet_lacks_are_told_before_weights_are_read(mini, tmp_path, key, monkeypatch):
    monkeypatch.setattr(
        "hdpainter.models.loading.load_into", lambda *_, **__: pytest.fail("read the weights")
    )
    path = pipeline(tmp_path / "pipe.yaml", **{key: [2, 64]})
    text = message(load, path)
    assert f"{key}: the UNet of" in text
    assert "no cross-attention at downsampling factor 64, only at 1, 2, 4, 8" in text


def test_info_names_files_and_hashes_that_are_known(mini, folder):
    shutil.copytree(mini / "mini", folder / "mini")
    file = folder / "mini" / "mini-inpainting.safetensors"
    record_sha256(file, "ab" * 32)
    info = load("mini").info
    assert info["model"] == "mini"
    assert info["inpainting"] == {
        "config": "mini-inpainting.yaml",
        "checkpoint": "mini-inpainting.safetensors",
        "bytes": file.stat().st_size,
        "sha256": "ab" * 32,
        "config_sha256": identify("mini")["inpainting"]["config"],
    }
    assert info["upscaler"]["sha256"] is None
    file.write_bytes(file.read_bytes())  # may be another file now
    assert load("mini").info["inpainting"]["sha256"] is None


def test_info_is_of_what_was_loaded(mini, folder):
    shutil.copytree(mini / "mini", folder / "mini")
    file = folder / "mini" / "mini-inpainting.safetensors"
    digest = checkpoint_sha256(file)
    models = load("mini")
    file.touch()  # no other contents
    assert models.info["inpainting"]["sha256"] == digest
    other = folder / "other"
    other.write_bytes(b"another file")
    kept = file.with_name("kept")
    file.rename(kept)
    other.rename(file)  # what was loaded stays mapped
    assert models.info["inpainting"]["sha256"] == digest
    kept.replace(file)
    with file.open("r+b") as opened:  # changes the mapped weights
        opened.seek(-4, 2)
        opened.write(b"\0\0\0\0")
    assert f"{file} was written to while it was in use" in message(lambda: models.info)


def test_a_missing_checkpoint_is_reported_before_anything_is_built(folder, monkeypatch):
    monkeypatch.setattr("hdpainter.models.loading.build", lambda config: pytest.fail("built"))
    text = message(load, "sd2")
    for words in ("512-inpainting-ema.safetensors", str(folder), "hdpainter models download sd2;"):
        assert words in text
    (folder / "512-inpainting-ema.safetensors").touch()
    assert "x4-upscaler-ema.safetensors is not in" in (text := message(load, "sd2"))
    assert "hdpainter models download sd2;" in text


def test_a_wrong_file_names_file_and_config(mini, folder):
    (folder / "mini").mkdir()
    for stage in ("mini-inpainting", "mini-upscaler"):
        shutil.copy(mini / "mini" / "mini-upscaler.safetensors", folder / "mini" / f"{stage}.safetensors")
    text = message(load, "mini")
    assert "mini-inpainting.safetensors does not fit mini-inpainting.yaml" in text


# --- where files are looked for ---


def test_search_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HDPAINTER_CHECKPOINTS", str(tmp_path / "mine"))
    name = "some-model.ckpt"
    places = [Path("checkpoints") / name, tmp_path / "mine" / name, Path(name)]
    assert name in message(find_checkpoint, name)
    converted = tmp_path / "mine" / "some-model.safetensors"
    for place in (converted, *places):  # from the last resort to what is preferred
        place.parent.mkdir(exist_ok=True)
        place.touch()
        assert find_checkpoint(name).resolve() == place.resolve()
    assert "does not exist" in message(find_checkpoint, tmp_path / "other" / name)


def test_a_pipelines_files_may_lie_beside_it(mini, tmp_path):
    for name in ("mini-inpainting", "mini-upscaler"):
        shutil.copy(mini / "mini" / f"{name}.safetensors", tmp_path)
    shutil.copy(MODELS / "mini-upscaler.yaml", tmp_path / "own.yaml")
    path = pipeline(
        tmp_path / "pipe.yaml",
        inpainting={"config": "mini-inpainting.yaml", "checkpoint": "mini-inpainting.safetensors"},
        upscaler={"config": "own.yaml", "checkpoint": "mini-upscaler.safetensors"},
    )
    pipe = load(path)
    assert pipe.spec.name == "pipe"
    assert pipe.checkpoint("upscaler").parent == tmp_path
    assert pipe.info["upscaler"]["config"] == "own.yaml"


# --- the YAML files ---


def test_every_shipped_pipeline_is_valid_and_public_files_are_registered():
    assert {"sd2", "sd15", "dreamshaper8", "mini"} <= set(pipeline_names())
    files = {entry.file for entry in registry().values()}
    for name in pipeline_names():
        spec = PipelineSpec.load(name)
        for stage in spec.stages.values():
            assert "target" in read_model_config(stage.config)
            assert stage.checkpoint in files or name == "mini"
        if spec.kind != "ldm":
            continue
        factors = read_model_config(spec.inpainting.config)["params"]["unet_config"]["params"]
        assert set(spec.painta_levels) | set(spec.rasg_levels) <= set(factors["attention_resolutions"])
    assert (PipelineSpec.load("sd2").painta_levels, PipelineSpec.load("sd2").rasg_levels) == ((2, 4), (4,))


@pytest.mark.parametrize("entry", registry().values(), ids=lambda entry: entry.name)
def test_registered_sizes_are_those_of_the_models(entry):
    assert entry.parameters == count_params(build(read_model_config(MODELS / entry.config)))
    assert entry.sha256 is None or len(entry.sha256) == 64
    assert bool(entry.urls) != bool(entry.note)
    assert all(url.startswith("https://") and url.endswith(entry.file) for url in entry.urls)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sise": 512}, "unknown key 'sise'; did you mean 'size'"),
        ({"size": "big"}, "size must be"),
        ({"size": 0}, "size is 0: give a number from 1 to 32768"),
        ({"multiple": -64}, "multiple is -64: give a multiple of 8"),
        ({"painta_levels": 4}, "painta_levels must be a list"),
        ({"rasg_levels": []}, "rasg_levels is empty"),
        ({"crop_margin": -1}, "crop_margin is -1: give a number of pixels"),
        ({"method": "hdpainter"}, "method must be one of bld, bld-hd-painter, bld-painta"),
        ({"rasg_levels": ["four"]}, "rasg_levels[0] must be a whole number"),
        ({"painta_levels": [10**5]}, "painta_levels[0] is 100000: give a downsampling factor"),
        ({"multiple": 10**6}, "multiple is 1000000: give a multiple of 8"),
        ({"max_size": 10**6}, "max_size is 1000000: give a number from 1 to 32768"),
        ({"method": "glide"}, "method must be one of bld, bld-hd-painter, bld-painta"),
        ({"kind": "glide"}, "method must be one of glide, not 'hd-painter'"),
        (
            {"kind": "glide", "method": "glide"},
            "upsampler is the second network of kind: glide; give it there",
        ),
        ({"kind": "dalle"}, "kind must be one of ldm, glide, nuwa-lip, not 'dalle'"),
        ({"upsampler": {"config": "a", "checkpoint": "b"}}, "upsampler is the second network of kind: glide"),
        ({"inpainting": None}, "'inpainting' is missing"),
        ({"inpainting": "mini.yaml"}, "inpainting must be a mapping"),
        ({"upscaler": {"config": "mini-upscaler.yaml"}}, "upscaler: 'checkpoint' is missing"),
        ({"upscaler": {"config": "a", "checkpoint": "b", "url": "c"}}, "unknown key 'url'"),
    ],
)
def test_mistakes_in_a_pipeline_are_named(tmp_path, changes, says):
    path = pipeline(tmp_path / "pipe.yaml", **changes)
    text = message(PipelineSpec.load, path)
    assert says in text and str(path) in text


@settings(max_examples=50)
@given(st.from_regex(r"[a-z_][a-z_0-9]{0,12}", fullmatch=True))
def test_no_unknown_key_passes(tmp_path_factory, key):
    assume(key not in {field.name for field in fields(PipelineSpec)})
    path = tmp_path_factory.mktemp("pipe") / "pipe.yaml"
    content = yaml.safe_load((MODELS / "mini.yaml").read_text())["pipeline"] | {key: 1}
    path.write_text(json.dumps({"pipeline": content}))  # JSON quotes words like null and true
    assert f"unknown key {key!r}" in message(PipelineSpec.load, path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("model: {target: x}", "'pipeline'"),
        ("- 1", "mapping"),
        ("a: [", "not valid YAML"),
        ("pipeline: 3", "'pipeline'"),
    ],
)
def test_other_yaml_files_are_refused(tmp_path, content, says):
    path = tmp_path / "other.yaml"
    path.write_text(content)
    text = message(PipelineSpec.load, path)
    assert says in text and str(path) in text


def test_unknown_models_and_missing_configs_are_named(with_mini, tmp_path):
    text = message(load, "sd3")
    assert "'sd3'" in text and "sd2" in text and "registry" not in text
    assert "cannot be read" in message(load, tmp_path / "none.yaml")
    stage = {"config": "none.yaml", "checkpoint": "mini/mini-inpainting.safetensors"}
    assert "none.yaml" in message(load, pipeline(tmp_path / "pipe.yaml", inpainting=stage))
    stage["config"] = "registry.yaml"
    assert "no 'model'" in message(load, pipeline(tmp_path / "pipe.yaml", inpainting=stage))


def test_a_config_that_names_what_it_may_not_runs_nothing(tmp_path):
    made = tmp_path / "made"
    evil = {"model": {"target": "os.mkdir", "params": {"path": str(made)}}}
    (tmp_path / "evil.yaml").write_text(yaml.safe_dump(evil))
    (tmp_path / "weights.safetensors").write_bytes(b"not reached")
    stage = {"config": "evil.yaml", "checkpoint": "weights.safetensors"}
    path = pipeline(tmp_path / "pipe.yaml", inpainting=stage, upscaler=None)
    for function in (identify, load):
        assert "evil.yaml: target 'os.mkdir' is no network" in message(function, path)
    assert identify(path, trusted=True)["inpainting"]["config"]
    assert "evil.yaml is not the config of an inpainting model" in message(load, path, trusted=True)
    assert not made.exists()


def test_the_registry_can_be_replaced(folder, tmp_path, monkeypatch):
    entry = {
        "title": "T",
        "file": "a.ckpt",
        "config": "c.yaml",
        "licence": "L",
        "parameters": 10,
        "dtype": "float16",
    }
    path = tmp_path / "mine.yaml"
    monkeypatch.setenv("HDPAINTER_REGISTRY", str(path))
    path.write_text(yaml.safe_dump({"checkpoints": {"a": {**entry, "urls": ["https://example.org/a.ckpt"]}}}))
    assert registry()["a"].approximate_bytes == 20
    assert "hdpainter models download a;" in message(find_checkpoint, "a.ckpt")
    monkeypatch.setenv("HDPAINTER_MIRRORS", "http://one/{file} http://two/x/{file}")
    assert registry()["a"].sources == [
        "http://one/a.ckpt",
        "http://two/x/a.ckpt",
        "https://example.org/a.ckpt",
    ]
    path.write_text(yaml.safe_dump({"checkpoints": {"a": entry}}))
    assert "'urls' is missing" in message(registry)
