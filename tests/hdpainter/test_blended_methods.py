"""PAIntA and RASG in Blended Latent Diffusion: any text-to-image model as an inpainter."""

import json
import re

import numpy as np
import pytest
import torch
import yaml

from eval.config import Config
from hdpainter import HDPainter
from hdpainter.baselines.bld import BLDSettings, BlendedLatentDiffusion
from hdpainter.cli import main
from hdpainter.inpaint import Inpainting, text_conditioning
from hdpainter.masks import prepare
from hdpainter.models.loading import load
from hdpainter.models.registry import PipelineSpec, pipeline_names, registry
from hdpainter.settings import Adjustments, Method
from hdpainter.tensors import to_tensor
from ldm.models.diffusion.ddim import draw_noise
from ldm.util import UserError

METHODS = ["bld", "bld-painta", "bld-rasg", "bld-hd-painter"]
PROMPT = "a red kite"
SEED, STEPS = 5, 4


@pytest.fixture(scope="module")
def text_painter(tiny_text_to_image):
    return HDPainter.from_config(tiny_text_to_image, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def sample(photo):
    """A picture and a mask of stage 1's size, which needs no padding."""
    return photo(64, 48)


def inputs(model, sample, method):
    """z_0 and M at the latents' size, by plain means."""
    picture, mask = sample
    with torch.no_grad():
        z0 = model.get_first_stage_encoding(model.encode_first_stage(to_tensor(picture)).mode())
    fill = prepare(np.array(mask), (48, 64), 16, method.masks)
    return z0, Inpainting(model).latent_mask([fill], method)


def seen(painter, sample, method):
    """x_t as the UNet gets it at each step, conditional half: [steps, C, h, w]; and the timesteps."""
    steps, unet = {}, painter.models.stage1.model.diffusion_model
    begin = type(unet).begin

    def look(self, x, timesteps, *rest):
        steps.setdefault(int(timesteps[0]), x[-1, :4].detach().clone())
        return begin(self, x, timesteps, *rest)

    patched = pytest.MonkeyPatch()
    patched.setattr(type(unet), "begin", look)
    try:
        painter(*sample, PROMPT, method=method, seed=SEED, steps=STEPS, superres=False)
    finally:
        patched.undo()
    return torch.stack(list(steps.values())), list(steps)


@pytest.mark.parametrize("which", ["painter", "text_painter"])
def test_bld_is_blended_latent_diffusion(request, sample, which):
    """The same latents as the original paper's loop, which golden cases pin (tests/hdpainter/test_bld.py)."""
    painter = request.getfixturevalue(which)
    model = painter.models.stage1
    method = Method.load("bld").override({"sampler.grid": "uniform", "sampler.steps": STEPS})
    z0, mask = inputs(model, sample, method)
    texts = [text_conditioning(model, [words], z0.shape[-2:]) for words in (PROMPT, "")]
    generator, count = torch.Generator().manual_seed(SEED), 0

    def noise():
        nonlocal count
        count += 1
        drawn = draw_noise(z0.shape, [generator])
        if count > 1:  # DDIM's own, drawn also where it has no weight
            draw_noise(z0.shape, [generator])
        return drawn

    settings = BLDSettings(steps=STEPS, grid="uniform", skip=0, background="before", start="noise")
    latents = BlendedLatentDiffusion(model, 64).sample(z0, mask, *texts, settings, noise)
    with torch.no_grad():
        expected = model.decode_first_stage(latents)
    picture, grey = sample
    fill = prepare(np.array(grey), (48, 64), 16, method.masks)
    found = Inpainting(model, (1, 2), (2,))([np.array(picture)], [fill], [PROMPT], method, [SEED])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_the_known_part_is_put_back_before_each_step(text_painter, sample, name):
    """x_t outside M is z_0 noised to t; the noise is drawn after x_T's, and for RASG nothing else is."""
    model, method = text_painter.models.stage1, Method.load(name)
    z0, mask = inputs(model, sample, method)
    known = mask[0, 0] == 0
    x, timesteps = seen(text_painter, sample, name)
    assert len(timesteps) == STEPS and known.any() and not known.all()
    generator = torch.Generator().manual_seed(SEED)
    start = torch.randn(z0.shape[1:], generator=generator)
    torch.testing.assert_close(x[0][:, ~known], start[:, ~known])
    for x_t, t in zip(x, timesteps, strict=True):
        noise = torch.randn(z0.shape[1:], generator=generator)
        a = float(model.schedule.alphas_cumprod[t])
        torch.testing.assert_close(x_t[:, known], (a**0.5 * z0[0] + (1 - a) ** 0.5 * noise)[:, known])
        if method.rasg is None:
            torch.randn(z0.shape[1:], generator=generator)


def test_the_four_methods_differ_and_leave_the_known_pixels(text_painter, sample):
    picture, mask = sample
    pixels, known = np.array(picture), np.array(mask) == 0
    made = {}
    for name in METHODS:
        result = text_painter(*sample, PROMPT, method=name, seed=SEED, steps=STEPS, superres=False)
        assert (np.array(result.image)[known] == pixels[known]).all()
        made[name] = result.image.tobytes()
    assert len(set(made.values())) == 4
    own = text_painter(*sample, PROMPT, seed=SEED, steps=STEPS, superres=False)
    assert (
        own.image.tobytes() == made["bld-hd-painter"] and own.metadata["method"]["name"] == "bld-hd-painter"
    )


def test_rasg_lowers_the_score_on_a_text_to_image_model(text_painter, sample):
    """With the noise of DDPM, at which the tiny networks' random attention can be moved."""
    scores = {}
    for name in ("bld-rasg", "bld"):
        method = Method.load("bld-rasg").override({"rasg.sigma": "cumulative", "sampler.eta": 1.0})
        if name == "bld":
            method = method.override({"rasg.sigma": "per_step", "sampler.eta": 0.0})  # the same, unguided
        found = []
        text_painter(
            *sample, PROMPT, method=method, seed=SEED, steps=8, superres=False,
            observer=lambda sampler, pred_x0, step, found=found: found.append(float(sampler.score)),
        )  # fmt: skip
        scores[name] = found
    assert scores["bld-rasg"][0] == scores["bld"][0]
    assert scores["bld-rasg"][-1] < scores["bld"][-1]


def test_a_batch_is_its_pictures_one_by_one(text_painter, photo):
    samples = [photo(64, 48), photo(64, 48, seed=2)]
    settings = {"method": "bld-hd-painter", "steps": 2, "superres": False}
    together = text_painter(
        *map(list, zip(*samples, strict=True)), [PROMPT, "a cat"], seed=[1, 2], **settings
    )
    for one, prompt, seed, result in zip(samples, [PROMPT, "a cat"], [1, 2], together, strict=True):
        alone = text_painter(*one, prompt, seed=seed, **settings)
        difference = np.abs(np.array(alone.image, int) - np.array(result.image, int))
        assert difference.max() <= 1


def test_public_text_to_image_models_are_inpainters():
    checkpoints = registry()
    for name in ("sd2-base", "sd15-base"):
        spec = PipelineSpec.load(name)
        assert name in pipeline_names() and spec.method == "bld-hd-painter"
        assert spec.inpainting.checkpoint == checkpoints[name].file
        Method.load(spec.method).check_model(name, text_to_image=True)


def test_a_method_that_does_not_fit_is_told_before_a_model_loads(
    text_painter, tiny_text_to_image, sample, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for image, name in zip(sample, ("a.png", "m.png"), strict=True):
        image.save(name)
    model, files = str(tiny_text_to_image), ("--image", "a.png", "--mask", "m.png", "--prompt", "a kite")
    (tmp_path / "jobs.yaml").write_text(yaml.safe_dump({
        "model": model,
        "jobs": [{"image": "a.png", "mask": "m.png", "prompt": "a kite", "method": "painta"}],
    }))  # fmt: skip
    message = "tiny-base.* is text-to-image: take bld-hd-painter or another"
    for words in (
        ("inpaint", "--model", model, *files, "--method", "hd-painter", "--out", "o.png"),
        ("batch", "jobs.yaml", "--out", "o"),
        ("explain", "--model", model, *files, "--out", "e"),
    ):
        code = main(words, load=lambda *_: pytest.fail("loaded the model"))
        output = "".join(capsys.readouterr())
        told = [line for line in output.splitlines() if re.search(message, line)]
        assert code != 0 and len(told) == 1 and "Traceback" not in output, output
    with pytest.raises(UserError, match=message):
        text_painter(*sample, "a kite", method="painta")
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({
        "out": str(tmp_path / "run"), "model": model, "methods": {"painta": {}},
        "benchmark": {"coco": "toy", "images": 1, "samples": 1, "size": 64},
    }))  # fmt: skip
    with pytest.raises(UserError, match="needs an inpainting model"):
        Config.load(str(config)).runs()[0].described(seed=0, per_sample=False)
    code = main(("inpaint", "--model", model, *files, "--steps", "1", "--no-superres", "--out", "o.png"))
    assert code == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "o.json").read_text())["inputs"]["method"]["name"] == "bld-hd-painter"


def test_other_models_are_no_stage_1(tiny_pipeline, tmp_path):
    path = tiny_pipeline.with_name("wrong.yaml")
    path.write_text(
        "pipeline:\n  inpainting: {config: tiny-upscaler.yaml, checkpoint: tiny-upscaler.safetensors}\n"
    )
    with pytest.raises(UserError, match=r"tiny-upscaler\.yaml is not the config of an inpainting model"):
        load(path)


def test_adjusting_keeps_the_background():
    assert Method.load("bld").adjusted(Adjustments(steps=3)).sampler.background == "blended"
