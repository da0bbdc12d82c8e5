"""Super-resolution against the golden run of the authors' release, and what the options change."""

import numpy as np
import pytest
import torch
from PIL import Image

from hdpainter.blend import poisson_blend
from hdpainter.settings import SuperResSettings
from hdpainter.superres import BlendingSampler, SuperResolution, latent_mask
from hdpainter.tensors import to_image
from hdpainter.tiling import ramps, starts, tiled
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.models.diffusion.ddpm import LatentUpscaleDiffusion
from ldm.util import UserError
from tests.support import GOLDEN, assert_close, golden, randn, rule_w

RELEASE = SuperResSettings(grid="descend", mask="soft")
CASE, EXPECTED = golden("sr_blend")
VAE = {key: value for key, value in CASE["vae_config"].items() if key != "scale_factor"}


class Texts(torch.nn.Module):
    """A text encoder that knows the two contexts of the golden run: the negative prompt is empty."""

    def encode(self, texts):
        kind = "cond" if texts[0] else "uncond"
        rule = CASE["inputs"]["context"][kind]
        return randn(rule["seed"], rule["shape"])


@pytest.fixture(scope="module")
def model():
    model = LatentUpscaleDiffusion(
        unet_config={
            "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
            "params": CASE["unet_config"],
        },
        first_stage_config={
            "target": "ldm.models.autoencoder.AutoencoderKL",
            "params": {**VAE, "lossconfig": {"target": "torch.nn.Identity"}},
        },
        cond_stage_config={"target": f"{__name__}.Texts"},
        low_scale_config={
            "target": "ldm.modules.diffusionmodules.upscaling.ImageConcatWithNoiseAugmentation",
            "params": {
                "noise_schedule_config": {"linear_start": 0.0001, "linear_end": 0.02},
                "max_noise_level": 350,
            },
        },
        conditioning_key="hybrid-adm",
        parameterization="v",
        channels=4,
        scale_factor=CASE["vae_config"]["scale_factor"],
        use_ema=False,
        **CASE["schedule"],
    )
    rule_w(model.model.diffusion_model)
    rule_w(model.first_stage_model)
    return model.eval().requires_grad_(False)


def cells(rule, cell):
    h, w = rule["hw"]
    generator = torch.Generator().manual_seed(rule["seed"])
    colours = torch.randint(0, 256, (h // cell, w // cell, 3), generator=generator, dtype=torch.int64)
    return colours.repeat_interleave(cell, 0).repeat_interleave(cell, 1).to(torch.uint8).numpy()


@pytest.fixture(scope="module")
def inputs():
    mask = np.zeros(CASE["inputs"]["mask_hw"], bool)
    for y0, y1, x0, x1 in CASE["inputs"]["mask_boxes_y0y1x0x1"]:
        mask[y0:y1, x0:x1] = True
    return cells(CASE["inputs"]["hr_image"], 16), cells(CASE["inputs"]["lr_image"], 8), mask


@pytest.fixture
def latents(monkeypatch):
    """Every latent that samplers pass on to the next step, and what the autoencoder decodes."""
    seen = {"steps": [], "known": None}
    original_sample = DDIMSampler.sample

    def sample(self, *args, **kwargs):
        result, inter = original_sample(self, *args, **{**kwargs, "log_every_t": 1})
        seen.update(steps=inter["x_inter"][1:], final=inter["pred_x0"][-1], condition=args[3]["c_concat"][0])
        seen["known"] = getattr(self, "known", None)
        seen["mask"] = getattr(self, "mask", None)
        return result, inter

    monkeypatch.setattr(DDIMSampler, "sample", sample)
    return seen


def test_equals_the_release(model, inputs, latents):
    image, low_res, mask = inputs
    steps = []
    result = SuperResolution(model)(
        image, low_res, mask, "x", RELEASE, seed=1, rounding="truncate", progress=lambda *s: steps.append(s)
    )
    tol = CASE["tolerance"]["rel_to_absmax"]
    assert_close(latents["condition"], EXPECTED["lr_augmented"], tol)
    assert_close(latents["known"], EXPECTED["hr_z0"], tol)
    torch.testing.assert_close(latents["mask"], EXPECTED["lr_mask"], atol=1 / 255, rtol=0)
    assert_close(latents["steps"][0], EXPECTED["zt_step1"], tol)
    assert_close(latents["steps"][9], EXPECTED["zt_mid"], tol)
    assert_close(latents["final"], EXPECTED["z0_final"], tol)
    assert steps == [(i, 20) for i in range(1, 21)]

    blended = poisson_blend(image, result, mask)
    expected = np.array(Image.open(GOLDEN / "sr_blend_poisson.png").convert("RGB"))
    difference = np.abs(blended.astype(int) - expected)
    assert difference.max() <= 2 and difference.mean() <= 0.1


def test_without_blending_equals_the_release(model, inputs, latents):
    case, expected = golden("sr_noblend")
    settings = SuperResSettings(grid="descend", mask="soft", blend=False)
    SuperResolution(model)(*inputs, "x", settings, seed=1)
    assert_close(latents["final"], expected["z0_final"], case["tolerance"]["rel_to_absmax"])


def test_eq_10(model):
    """The blended prediction is M x_0 + (1 - M) X_0, and eps is not computed again."""
    mask, known = (randn(1, (1, 1, 8, 8)) > 0).float(), randn(2, (1, 4, 8, 8))
    x, t = randn(3, (1, 4, 8, 8)), torch.tensor([500])
    output = randn(4, (1, 4, 8, 8))
    plain, blending = DDIMSampler(model), BlendingSampler(model, mask, known)
    e_t = model.to_eps(x, t, output)
    x_0 = plain.predict_x0(x, t, e_t, output)
    torch.testing.assert_close(
        blending.predict_x0(x, t, e_t, output), torch.where(mask > 0, x_0, known), atol=1e-6, rtol=0
    )


def test_paper_mask_is_hard_and_keeps_no_pixel_of_what_is_replaced():
    mask = np.zeros((64, 64), bool)
    mask[5:30, 7:50] = True
    hard = latent_mask(mask, (16, 16), "hard")
    assert set(hard.unique().tolist()) == {0.0, 1.0}
    covered = hard[0, 0].numpy().astype(bool).repeat(4, 0).repeat(4, 1)
    assert covered[mask].all() and covered.sum() < mask.sum() * 1.5
    soft = latent_mask(mask, (16, 16), "soft")
    assert ((soft > 0.05) & (soft < 0.95)).any()


def test_crop_computes_only_around_the_mask(model, inputs, latents):
    image, low_res, _ = inputs
    mask = np.zeros((256, 256), bool)
    mask[100:130, 90:140] = True
    cropped = SuperResSettings(steps=2, crop_margin=4)
    result = SuperResolution(model, multiple=16)(image, low_res, mask, "x", cropped)
    assert latents["final"].shape[-2:] == (16, 32)
    outside = np.ones((256, 256), bool)
    outside[84:148, 72:160] = False
    assert np.array_equal(result[outside], image[outside])
    assert (result[mask] != image[mask]).any()


@pytest.mark.parametrize(("top", "left"), [(100, 90), (0, 0), (226, 206), (100, 206)])
def test_a_crop_starts_from_the_noise_that_the_picture_has_there(model, inputs, monkeypatch, top, left):
    image, low_res, _ = inputs
    mask = np.zeros((256, 256), bool)
    mask[top : top + 30, left : left + 50] = True
    noises = []

    def remember(self, S, batch_size, shape, conditioning, *, x_T, **_):
        noises.append(x_T)
        return x_T, {}

    monkeypatch.setattr(DDIMSampler, "sample", remember)
    stage = SuperResolution(model, multiple=16)
    for margin in (None, 4):
        stage(image, low_res, mask, "x", SuperResSettings(crop_margin=margin))
    stage(image, low_res, mask, "x", SuperResSettings(), seed=0)
    whole, crop, default = noises
    assert torch.equal(whole, default)
    height, width = crop.shape[2:]
    rows, columns = stage.region(mask, 4)
    places = [
        (y, x) for y in range(64 - height + 1) for x in range(64 - width + 1)
        if torch.equal(whole[..., y : y + height, x : x + width], crop)
    ]  # fmt: skip
    assert places == [(min(rows.start, 64 - height), min(columns.start, 64 - width))]


def test_without_a_margin_all_is_computed(model):
    mask = np.zeros((64, 96), bool)
    mask[20:24, 40:44] = True
    assert SuperResolution(model).region(mask, None) == (slice(0, 16), slice(0, 24))
    assert SuperResolution(model).region(mask, 1) == (slice(4, 7), slice(9, 12))


def test_sizes_that_are_no_multiples_are_padded_and_cropped(model):
    rng = np.random.default_rng(0)
    image, low_res = rng.integers(0, 256, (84, 132, 3), np.uint8), rng.integers(0, 256, (21, 33, 3), np.uint8)
    mask = np.zeros((84, 132), bool)
    mask[80:84, 100:132] = True
    result = SuperResolution(model, multiple=16)(image, low_res, mask, "x", SuperResSettings(steps=1))
    assert result.shape == image.shape and result.dtype == np.uint8


def test_tiles_cover_everything_and_blend():
    x = randn(0, (1, 3, 100, 64))
    torch.testing.assert_close(tiled(lambda t: t, x, 32, 8, 1), x)
    doubled = tiled(lambda t: t.repeat_interleave(2, -1).repeat_interleave(2, -2), x, 48, 16, 2)
    torch.testing.assert_close(doubled, x.repeat_interleave(2, -1).repeat_interleave(2, -2))
    assert starts(100, 32, 8) == [0, 24, 48, 68] and starts(20, 32, 8) == [0]
    assert ramps(8, 4).tolist() == [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25]


def test_a_float32_autoencoder_takes_half_latents_and_nan_is_told(model):
    """The policy of hdpainter.pipeline for float16: its autoencoder computes in float32, whatever it is given."""
    latent = 30 * randn(0, (1, 4, 16, 16))
    with torch.no_grad():
        pixels = model.decode_first_stage(latent.half())
    assert pixels.dtype == torch.float32 and torch.isfinite(pixels).all()
    with pytest.raises(FloatingPointError):
        to_image(torch.full((3, 4, 4), float("nan")))


def test_a_noise_level_that_the_upscaler_does_not_know_is_refused(model, capsys):
    image, mask = np.zeros((256, 256, 3), np.uint8), np.ones((256, 256), bool)
    with pytest.raises(UserError, match=r"superres.noise_level is 350: .* with 0 to 349"):
        SuperResolution(model)(image, image[::4, ::4], mask, "x", SuperResSettings(noise_level=350))
    SuperResolution(model)(image, image[::4, ::4], mask, "x", SuperResSettings(steps=1, noise_level=349))
    assert "".join(capsys.readouterr()) == "", "progress is told to the caller alone"


def test_the_autoencoder_sees_no_more_than_a_tile(model, monkeypatch):
    seen = {"encode_first_stage": [], "decode_first_stage": []}
    for name, sizes in seen.items():
        whole = getattr(model, name)
        monkeypatch.setattr(model, name, lambda x, s=sizes, f=whole: s.append(tuple(x.shape[2:])) or f(x))
    rng = np.random.default_rng(0)
    image, mask = rng.integers(0, 256, (256, 384, 3), np.uint8), np.zeros((256, 384), bool)
    mask[60:90, 100:200] = True
    settings = SuperResSettings(steps=1, tile=256)
    result = SuperResolution(model, multiple=16)(image, image[::4, ::4], mask, "x", settings)
    assert result.shape == image.shape
    assert seen == {"encode_first_stage": [(256, 256)] * 2, "decode_first_stage": [(64, 64)] * 2}


@pytest.mark.parametrize("how", ["hard", "soft"])
def test_padding_is_reflection_of_picture_draft_and_mask(model, how):
    """A picture of no multiple of the size is that which is its own reflection at the edge."""
    stage, rng = SuperResolution(model, multiple=16), np.random.default_rng(6)
    image, low_res = rng.integers(0, 256, (56, 48, 3), np.uint8), rng.integers(0, 256, (14, 12, 3), np.uint8)
    mask = np.zeros((56, 48), bool)
    mask[30:50, 20:47] = True
    settings = SuperResSettings(steps=2, mask=how)

    def reflected(array, pixels):
        return np.pad(array, [(0, 2 * pixels), (0, 4 * pixels), (0, 0)][: array.ndim], mode="reflect")

    result = stage(image, low_res, mask, "a kite", settings, seed=1)
    whole = stage(reflected(image, 4), reflected(low_res, 1), reflected(mask, 4), "a kite", settings, seed=1)
    assert np.array_equal(result, whole[:56, :48])
