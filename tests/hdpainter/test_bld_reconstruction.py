"""Background reconstruction against the public program, and on the miniature."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from hdpainter.baselines.reconstruction import RATES, fit, paste_poisson, reconstruct_background
from tests.support import golden, rule_w


class ToyDecoder(nn.Module):
    """The stand-in of the golden cases."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)
        rule_w(self)

    def forward(self, z):
        return self.conv2(F.interpolate(F.silu(self.conv1(z)), scale_factor=8, mode="nearest"))


@pytest.mark.parametrize("mode", ["weights", "latents"])
def test_losses_and_result_are_the_public_programs(mode):
    case, data = golden(f"bld_reconstruct_{mode}")
    decoder = ToyDecoder()
    latents = data["latent"].clone()
    variables = list(decoder.parameters()) if mode == "weights" else [latents.requires_grad_()]
    y, losses = fit(
        lambda: decoder(latents / 0.18215),
        variables,
        RATES[mode],
        data["fg"],
        data["bg"],
        data["mask"].float(),
        case["config"]["steps"],
    )
    assert losses == pytest.approx(data["losses"].tolist(), rel=case["tolerance"]["losses_rel"])
    result = ((y + 1) / 2).clamp(0, 1)
    assert (result - data["result"]).abs().max() < case["tolerance"]["result_abs"]


@pytest.mark.parametrize("mode", ["weights", "latents"])
def test_the_known_pixels_come_closer_and_the_model_stays_as_it_is(painter, mode):
    model = painter.models.inpainting
    before = {name: tensor.clone() for name, tensor in model.first_stage_model.state_dict().items()}
    rng = np.random.default_rng(0)
    source = np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    edited = Image.new("RGB", (64, 64), (200, 60, 60))

    def error(steps):
        made = np.array(reconstruct_background(model, edited, source, mask, mode, steps)).astype(int)
        assert made.shape == source.shape
        return np.abs(made - source)[~mask].mean()

    assert error(20) < 0.9 * error(0)
    for name, tensor in model.first_stage_model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not any(p.requires_grad for p in model.first_stage_model.parameters())


def test_the_poisson_paste_is_the_public_programs():
    case, data = golden("bld_seamless_clone")
    edited, source = ((255 * data[name]).byte().numpy() for name in ("source", "destination"))
    made = paste_poisson(Image.fromarray(edited), source, data["mask"].bool().numpy())
    error = np.abs(np.array(made) / 255 - data["result"].numpy())
    assert error.max() < case["tolerance"]["abs"]
    assert error.mean() < 1 / 255 and np.quantile(error, 0.99) < 3 / 255


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_the_poisson_paste_takes_any_mask_and_keeps_what_is_far_from_it(data):
    top, left = data.draw(st.integers(0, 31)), data.draw(st.integers(0, 39))
    bottom, right = data.draw(st.integers(top, 32)), data.draw(st.integers(left, 40))
    mask = np.zeros((32, 40), bool)
    mask[top:bottom, left:right] = True
    rng = np.random.default_rng(0)
    edited, source = rng.integers(0, 256, (2, 32, 40, 3), np.uint8)
    made = np.array(paste_poisson(Image.fromarray(edited), source, mask))
    assert made.shape == source.shape
    near = np.zeros_like(mask)
    near[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1] = mask.any()
    assert (made == source)[~near].all()
