"""What stage 1 gives to the UNet, against the golden set-up of the authors' release."""

import numpy as np
import pytest
import torch
from PIL import Image

from hdpainter.inpaint import Inpainting, text_conditioning
from hdpainter.masks import prepare
from hdpainter.prompts import token_indices
from hdpainter.rasg import RASGSampler
from hdpainter.settings import Method
from ldm.models.diffusion import ddim
from ldm.models.diffusion.ddpm import LatentInpaintDiffusion
from tests.support import assert_close, golden, randn, rule_w

CASE, EXPECTED = golden("hdp_setup")
RELEASE = Method.load("hd-painter-release")


class Texts(torch.nn.Module):
    """Remembers what it is asked for; the contexts of the golden run."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def encode(self, texts):
        self.asked.append(list(texts))
        rule = CASE["context"]["cond" if len(self.asked) == 1 else "uncond"]
        return randn(rule["seed"], rule["shape"])


@pytest.fixture(scope="module")
def model():
    vae = {**CASE["vae_config"], "lossconfig": {"target": "torch.nn.Identity"}}
    scale_factor = vae.pop("scale_factor")
    model = LatentInpaintDiffusion(
        unet_config={
            "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
            "params": CASE["unet_config"],
        },
        first_stage_config={"target": "ldm.models.autoencoder.AutoencoderKL", "params": vae},
        cond_stage_config={"target": f"{__name__}.Texts"},
        scale_factor=scale_factor,
        channels=4,
        finetune_keys=None,
        use_ema=False,
    )
    rule_w(model.first_stage_model)
    return model.eval()


def picture() -> np.ndarray:
    generator = torch.Generator().manual_seed(CASE["image"]["seed"])
    cells = torch.randint(0, 256, (16, 16, 3), generator=generator)
    return cells.repeat_interleave(32, 0).repeat_interleave(32, 1).to(torch.uint8).numpy()


def test_condition_equals_the_release(model):
    """Mask channel and latent of the grey-filled picture: posterior mean, any touched latent counts as mask."""
    grey = np.zeros(CASE["image"]["hw"], np.uint8)
    for y0, y1, x0, x1 in CASE["mask_boxes_y0y1x0x1"]:
        grey[y0:y1, x0:x1] = 255
    mask = prepare(grey, grey.shape, 64, RELEASE.masks)
    with torch.no_grad():
        model.cond_stage_model.asked.clear()
        cond, uncond = Inpainting(model).conditioning([picture()], [mask], [CASE["prompt"]], RELEASE)
    assert_close(cond["c_concat"][0], EXPECTED["unet_condition"], 1e-5)
    assert cond["c_concat"][0] is uncond["c_concat"][0]
    prompt, negative = model.cond_stage_model.asked
    assert prompt == [f"{CASE['prompt']}, {CASE['positive_prompt']}"]
    assert negative == [RELEASE.prompts.negative]


def test_tokens_equal_the_release():
    assert token_indices(CASE["prompt"], CASE["positive_prompt"]) == CASE["token_idx"]


def test_noise_starts_as_torchs_seed_and_never_repeats(painter, photo, monkeypatch):
    drawn = []

    def remember(*args, draw=ddim.draw_noise):
        drawn.append(draw(*args))
        return drawn[-1]

    monkeypatch.setattr(ddim, "draw_noise", remember)
    method = Method.load("stable-inpainting").override({"sampler.steps": 3, "sampler.eta": 1.0})
    painter(*photo(64, 64), "boat", method=method, seed=1, superres=False)
    torch.manual_seed(1)
    assert torch.equal(drawn[0], torch.randn(drawn[0].shape))
    assert len({noise.sum().item() for noise in drawn}) == len(drawn) > 3


def test_every_part_of_a_method_acts_and_steps_are_told(painter, photo, capsys):
    names = ("stable-inpainting", "painta", "rasg", "hd-painter", "bld", "bld-painta", "bld-rasg")
    pictures, told = {}, []
    for name in names:
        method = Method.load(name).override({"sampler.steps": 2})
        options = {
            "method": method,
            "seed": 1,
            "superres": False,
            "progress": lambda *step: told.append(step),
        }
        pictures[name] = np.array(painter(*photo(64, 64), "boat", **options).low_res)
    for name in names:
        assert not any(np.array_equal(pictures[name], pictures[other]) for other in names if other != name)
    steps = [step for stage, *step in told if stage == "inpainting"]
    assert steps == [[1, 2], [2, 2]] * len(names)
    assert "".join(capsys.readouterr()) == "", "steps are told to the caller alone"


@pytest.mark.parametrize("name", ["rasg", "hd-painter-diffusers"])
def test_rasgs_mask_is_that_of_the_method(painter, photo, monkeypatch, name):
    """Of zeros and ones like PAIntA's, but for the port of diffusers."""
    masks = []

    def remember(self, S, batch_size, shape, conditioning, *, mask, **_):
        masks.extend(mask.values())
        return torch.zeros(batch_size, *shape), {}

    monkeypatch.setattr(RASGSampler, "sample", remember)
    image, _ = photo(64, 64)
    mask = Image.fromarray(np.uint8(255) * (np.hypot(*np.mgrid[-32:32, -32:32]) < 21))
    method = Method.load(name)
    painter(image, mask, "boat", method=method, superres=False)
    (found,) = masks
    assert (set(found.unique().tolist()) <= {0.0, 1.0}) is (method.masks.rasg == "levels")


def test_an_inpainting_model_paints_by_text_where_all_is_to_be_filled(model):
    """A mask of ones, and the latents of a picture that is grey, 0 in [-1, 1]."""
    with torch.no_grad():
        concat = text_conditioning(model, ["a", "b"], (8, 4))["c_concat"][0]
        grey = model.get_first_stage_encoding(model.encode_first_stage(torch.zeros(1, 3, 64, 32)).mode())
    assert torch.equal(concat[:, :1], torch.ones(len(concat), 1, 8, 4))
    assert torch.equal(concat[:, 1:], grey.expand(len(concat), -1, -1, -1))


def test_the_levels_are_those_of_stable_diffusion_2_at_512_pixels(model):
    stage = Inpainting(model)
    grids = {level: tuple(mask.shape[2:]) for level, mask in stage.level_masks(
        [np.ones((512, 512), bool)], {*stage.painta_levels, *stage.rasg_levels}, "nearest"
    ).items()}  # fmt: skip
    assert grids == {2: (32, 32), 4: (16, 16)} and stage.rasg_levels == (4,)
