"""Blended Latent Diffusion as a method of the benchmark."""

from functools import partial

import numpy as np
import pytest
import yaml
from PIL import Image

from eval.config import Config, seed_of
from eval.requirements import missing
from hdpainter.baselines.bld import BLDSettings, BlendedLatentDiffusion
from hdpainter.baselines.reconstruction import paste_poisson, reconstruct_background
from hdpainter.models.random_weights import write_random_checkpoint
from ldm.util import UserError
from tests.eval.running import BASE, made


def test_bld_on_the_inpainting_model(write_config, tiny_pipeline, painter):
    methods = {
        "bld": {"kind": "bld", "steps": 4, "background": ["leaving", "entering"], "known_region": "decoded"}
    }
    run, _ = made(write_config(methods, model=str(tiny_pipeline)), limit=2)
    assert run.methods == ["bld,background=leaving", "bld,background=entering"]
    assert run.label(run.methods[0]) == "bld (inpainting UNet, full mask), background leaving"
    bld = BlendedLatentDiffusion(painter.models.inpainting, 64)
    for name, background in zip(run.methods, ("leaving", "entering"), strict=True):
        expected = bld(
            [run.image(i) for i in range(2)],
            [run.mask(i) for i in range(2)],
            [run.triplets[i].prompt for i in range(2)],
            [seed_of(1, True, i) for i in range(2)],
            BLDSettings(steps=4, background=background),
        )
        for i in range(2):
            assert np.abs(run.result(name, i).astype(int) - np.array(expected[i])).max() <= 1


def test_bld_with_the_background_reconstructed(write_config, tiny_pipeline, painter, monkeypatch):
    fitted_in_a_few_steps = partial(reconstruct_background, steps=5)
    monkeypatch.setattr("hdpainter.baselines.reconstruction.reconstruct_background", fitted_in_a_few_steps)
    regions = ["decoded", "latents", "poisson"]
    methods = {"bld": {"kind": "bld", "steps": 2, "known_region": regions}}
    run, _ = made(write_config(methods, model=str(tiny_pipeline)), limit=1)
    image, mask = run.image(0), run.mask(0)
    decoded, fitted, pasted = (run.result(f"bld,known_region={region}", 0) for region in regions)
    start = Image.fromarray(decoded)
    expected = fitted_in_a_few_steps(painter.models.inpainting, start, image, mask, "latents")
    assert np.abs(fitted.astype(int) - np.array(expected)).max() <= 1
    assert np.array_equal(pasted, np.array(paste_poisson(start, image, mask)))


def test_bld_on_a_checkpoint_of_the_registry(write_config, tiny_pipeline, tmp_path, monkeypatch):
    config = yaml.safe_load((tiny_pipeline.parent / "tiny-inpainting.yaml").read_text())
    params = config["model"]["params"]
    config["model"]["target"] = "ldm.models.diffusion.ddpm.LatentDiffusion"
    params["conditioning_key"] = "crossattn"
    levels = {"channel_mult": [1, 1, 1], "attention_resolutions": [1, 2, 4]}  # the grids of public models
    params["unet_config"]["params"] |= {"in_channels": 4, **levels}
    del params["finetune_keys"]
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(config))
    write_random_checkpoint(tmp_path / "base.yaml", tmp_path / "base.safetensors")
    monkeypatch.setenv("HDPAINTER_CHECKPOINTS", str(tmp_path))
    entry = {"title": "", "file": "base.safetensors", "config": str(tmp_path / "base.yaml")}
    entry |= {"licence": "", "parameters": 1, "dtype": "float32", "urls": []}
    (tmp_path / "registry.yaml").write_text(yaml.safe_dump({"checkpoints": {"tiny-base": entry}}))
    monkeypatch.setenv("HDPAINTER_REGISTRY", str(tmp_path / "registry.yaml"))
    methods = {"bld": {"kind": "bld", "model": "tiny-base", "steps": 2}, **BASE}
    run, _ = made(write_config(methods, model=str(tiny_pipeline)), limit=2)
    assert run.label("bld") == "bld"
    assert run.done("bld") == run.done("stable-inpainting") == [0, 1]
    assert np.array_equal(run.result("bld", 0)[~run.mask(0)], run.image(0)[~run.mask(0)])


def test_what_cannot_work_is_told_before_anything_is_made(write_config, tiny_pipeline, tmp_path):
    bld = write_config({"bld": {"kind": "bld"}}, model=str(tiny_pipeline), benchmark={"size": 48})
    with pytest.raises(UserError, match="size is 48: for Blended Latent Diffusion give a multiple of 64"):
        made(bld)
    assert any("size is 48" in line for line in missing(Config.load(bld)))
    levels = write_config({"painta": {"painta_levels": [3]}}, model=str(tiny_pipeline))
    with pytest.raises(UserError, match="no cross-attention at downsampling factor 3, only at"):
        made(levels)
    assert not list((tmp_path / "run").glob("painta/*.png"))


@pytest.mark.parametrize("kind", ["bld", "reconstruction"])
def test_ways_to_join_that_a_kind_does_not_have_are_refused(write_config, tiny_pipeline, kind):
    region = "latents" if kind == "reconstruction" else "pixels"
    config = write_config({"a": {"kind": kind, "known_region": region}}, model=str(tiny_pipeline))
    with pytest.raises(UserError, match=f"known_region.*{region}"):
        Config.load(config).entries()
