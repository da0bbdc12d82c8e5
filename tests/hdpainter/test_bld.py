"""Blended Latent Diffusion against the public programs, and what its docstrings promise."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from hdpainter.baselines.bld import BLDSettings, BlendedLatentDiffusion, squeezed_mask
from hdpainter.inpaint import text_conditioning
from hdpainter.tensors import to_image
from ldm.modules.diffusionmodules.gaussian import GaussianDiffusion, Schedule
from ldm.modules.diffusionmodules.util import make_beta_schedule
from ldm.modules.distributions.distributions import DiagonalGaussianDistribution
from ldm.util import UserError
from tests.support import golden, rule_w

SCALE = 0.18215


class ToyModel(GaussianDiffusion):
    """The stand-in of the golden cases: a convolution and a linear layer, and 8x8 patches as the autoencoder."""

    channels = 4
    device = torch.device("cpu")

    def __init__(self, width: int, parameterization: str = "eps"):
        super().__init__()
        self.parameterization = parameterization
        self.conv, self.text = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(width, 4)
        self.enc, self.dec = nn.Conv2d(3, 4, 8, stride=8), nn.ConvTranspose2d(4, 3, 8, stride=8)
        rule_w(self)
        self.register_schedule(Schedule(make_beta_schedule("linear", 1000, 0.00085, 0.012)))

    def apply_model(self, x, t, cond):
        if isinstance(cond, dict):
            (cond,) = cond["c_crossattn"]
        eps = self.conv(x) + self.text(cond.mean(1))[..., None, None] + 0.1 * (t / 1000).view(-1, 1, 1, 1) * x
        if self.parameterization == "eps":
            return eps
        return self.get_v(self.predict_start_from_noise(x, t, eps), eps, t)

    def get_learned_conditioning(self, prompts):
        return torch.stack([torch.full((2, self.text.in_features), len(prompt) / 10.0) for prompt in prompts])

    def encode_first_stage(self, x):
        mean = self.enc(x)
        return DiagonalGaussianDistribution(torch.cat([mean, torch.zeros_like(mean)], dim=1))

    def get_first_stage_encoding(self, latent):
        return SCALE * latent

    def decode_first_stage(self, z):
        return self.dec(z / SCALE)


def largest_error(actual, expected):
    return (actual.float() - expected.float()).abs().max().item()


def test_the_public_stable_diffusion_script():
    case, data = golden("bld_sd_loop")
    config, tolerance = case["config"], case["tolerance"]
    model = ToyModel(width=7)
    bld = BlendedLatentDiffusion(model, config["size"])
    # Pillow 12 and 13 round a resized picture differently, so the exact comparison starts after that.
    resized = data["resized_image_u8"].numpy()
    z0 = bld.source(resized)
    assert largest_error(z0, data["source_latents"]) < 1e-5
    from_original = bld.source(data["image_u8"].numpy())
    one_level = model.enc.weight.detach().abs().sum(dim=(1, 2, 3)).max().item() / 127.5
    assert largest_error(from_original, z0) < SCALE * one_level
    mask, missed = squeezed_mask(data["mask_u8"].numpy() > 127, config["size"] // 8)
    assert torch.equal(mask, data["latent_mask"].float()) and not missed
    noise = iter([data["init_noise"], *data["blend_noise"]])
    steps = []
    with torch.no_grad():
        latents = bld.sample(
            z0.repeat(2, 1, 1, 1),
            mask,
            data["text_cond"],
            data["text_uncond"],
            BLDSettings(steps=config["num_inference_steps"], skip=config["blending_percentage"]),
            lambda: next(noise),
            lambda *step: steps.append(step),
        )
    assert next(noise, None) is None
    assert steps == [(i, 5) for i in range(1, 6)]
    assert bld.sampler.ddim_timesteps[:5].tolist() == config["timesteps_used"][::-1]
    assert largest_error(latents, data["latents_after_blend"][-1]) < tolerance["latents_abs"]
    pictures = np.stack([np.array(to_image(pixels)) for pixels in model.decode_first_stage(latents).detach()])
    assert np.abs(pictures.astype(int) - data["result_u8"].numpy()).max() <= tolerance["result_u8_abs"]


def test_the_loop_of_the_original_program():
    case, data = golden("bld_ldm_loop")
    config = case["config"]
    bld = BlendedLatentDiffusion(ToyModel(width=6), config["latent"] * 8)
    noise = iter([data["start_noise"], *data["blend_noise"]])
    how = BLDSettings(
        steps=config["ddim_steps"],
        grid="uniform",
        skip=0,
        guidance_scale=config["guidance_scale"],
        background="before",
        start="source",
    )
    latents = bld.sample(
        data["source_latents"].repeat(2, 1, 1, 1),
        data["masks_latent"],
        data["text_cond"],
        data["text_uncond"],
        how,
        lambda: next(noise),
    )
    assert next(noise, None) is None
    assert bld.sampler.ddim_timesteps.tolist() == config["timesteps_used"][::-1]
    assert largest_error(latents, data["result"]) < case["tolerance"]["latents_abs"]


def inputs(seed, count=2, size=(48, 64)):
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(count)]
    masks = [np.zeros(size, bool) for _ in range(count)]
    for mask in masks:
        y, x = rng.integers(0, size[0] // 2), rng.integers(0, size[1] // 2)
        mask[y : y + 20, x : x + 20] = True
    return images, masks


@pytest.mark.parametrize("parameterization", ["eps", "v"])
def test_eps_and_v_models_that_are_the_same_make_the_same_picture(parameterization):
    images, masks = inputs(0)
    pictures = BlendedLatentDiffusion(ToyModel(7, parameterization), 64)(
        images, masks, ["cat", "dog"], [1, 2]
    )
    expected = BlendedLatentDiffusion(ToyModel(7), 64)(images, masks, ["cat", "dog"], [1, 2])
    difference = [
        np.abs(np.array(a).astype(int) - np.array(b)).max() for a, b in zip(pictures, expected, strict=True)
    ]
    assert max(difference) <= 1


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 1000),
    background=st.sampled_from(["leaving", "entering", "before"]),
    start=st.sampled_from(["noise", "source"]),
)
def test_a_batch_makes_the_pictures_of_its_samples_one_by_one(seed, background, start):
    images, masks = inputs(seed, count=3)
    how = BLDSettings(steps=5, background=background, start=start)
    bld = BlendedLatentDiffusion(ToyModel(7), 64)
    prompts, seeds = ["boat", "cat", "a kite"], [seed, seed + 1, 7]
    together = bld(images, masks, prompts, seeds, how)
    for i in range(3):
        (alone,) = bld([images[i]], [masks[i]], [prompts[i]], [seeds[i]], how)
        assert alone.size == (64, 64)
        assert np.abs(np.array(alone).astype(int) - np.array(together[i])).max() <= 1


@pytest.mark.parametrize("background", ["leaving", "entering"])
def test_what_is_known_ends_as_the_source_at_the_lowest_noise_level(background):
    model = ToyModel(7)
    z0 = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    text = model.get_learned_conditioning(["cat"])
    how = BLDSettings(steps=10, background=background)
    latents = BlendedLatentDiffusion(model, 64).sample(
        z0, mask, text, text, how, lambda: torch.zeros_like(z0)
    )
    level = float(np.sqrt(model.schedule.alphas_cumprod[0]))
    assert torch.allclose(latents[..., 4:], level * z0[..., 4:], atol=1e-6)
    assert not torch.allclose(latents[..., :4], level * z0[..., :4], atol=1e-2)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_mask_never_vanishes_and_says_when_it_would_have(seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros(tuple(rng.integers(16, 200, 2)), bool)
    y, x = (int(rng.integers(0, side)) for side in mask.shape)
    mask[y : y + int(rng.integers(1, 12)), x : x + int(rng.integers(1, 12))] = True
    small, missed = squeezed_mask(mask, 8)
    nearest = Image.fromarray(mask.astype(np.uint8) * 255).resize((8, 8), Image.Resampling.NEAREST)
    assert small.shape == (1, 1, 8, 8) and small.any()
    assert missed == (not np.array(nearest).any())
    rows, columns = np.nonzero(small[0, 0].numpy())
    for row, column in zip(rows, columns, strict=True):  # each filled cell holds something of the mask
        height, width = mask.shape
        cell = mask[
            row * height // 8 : -(-(row + 1) * height // 8),
            column * width // 8 : -(-(column + 1) * width // 8),
        ]
        assert cell.any()


def test_an_inpainting_model_is_told_to_fill_everything(painter):
    model = painter.models.inpainting
    cond = text_conditioning(model, ["a boat", "a kite"], (8, 8))
    (concat,), (text,) = cond["c_concat"], cond["c_crossattn"]
    assert concat.shape == (2, 5, 8, 8) and len(text) == 2
    assert (concat[:, 0] == 1).all()
    grey = model.encode_first_stage(torch.zeros(1, 3, 64, 64)).mode()
    assert torch.allclose(concat[:, 1:], (model.scale_factor * grey).expand(2, -1, -1, -1))


def test_it_runs_on_an_inpainting_model(painter):
    images, masks = inputs(1)
    bld = BlendedLatentDiffusion(painter.models.inpainting, 64)
    first, second = bld(images, masks, ["boat", "boat"], [1, 2], BLDSettings(steps=2))
    assert first.size == second.size == (64, 64)
    assert np.abs(np.array(first).astype(int) - np.array(second)).max() > 1


@pytest.mark.parametrize(
    ("values", "message"), [({"steps": 0}, "steps is 0"), ({"skip": 1.0}, "skip is 1.0")]
)
def test_settings_out_of_range_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        BLDSettings(**values)
