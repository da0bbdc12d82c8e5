"""Noise schedules, DDIM's steps, the timestep embedding and the noised low-resolution condition."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm.modules.diffusionmodules.upscaling import AbstractLowScaleModel, ImageConcatWithNoiseAugmentation
from ldm.modules.diffusionmodules.util import (
    extract_into_tensor,
    make_beta_schedule,
    make_ddim_sampling_parameters,
    make_ddim_timesteps,
    timestep_embedding,
)
from ldm.util import UserError
from tests.support import assert_close, golden, randn

X4_SCHEDULE = {"linear_start": 1e-4, "linear_end": 2e-2}


@pytest.mark.parametrize("name", ["schedule_sd", "schedule_x4"])
def test_tables_equal_the_original(name):
    case, tensors = golden(name)
    params, tol = case["params"], case["tolerance"]["rel"]
    betas = make_beta_schedule(
        params["schedule"], params["n_timestep"], params["linear_start"], params["linear_end"]
    )
    alphas_cumprod = np.cumprod(1 - betas)
    index = tensors["index"].numpy()
    np.testing.assert_allclose(betas[index], tensors["betas"].numpy(), rtol=tol)
    np.testing.assert_allclose(alphas_cumprod[index], tensors["alphas_cumprod"].numpy(), rtol=tol)
    for steps in params["S"]:
        timesteps = make_ddim_timesteps("uniform", steps, params["n_timestep"])
        np.testing.assert_array_equal(timesteps, tensors[f"ddim{steps}_timesteps"].numpy())
        tables = make_ddim_sampling_parameters(alphas_cumprod, timesteps, params["eta"])
        for key, table in zip(("sigmas", "alphas", "alphas_prev"), tables, strict=True):
            np.testing.assert_allclose(table, tensors[f"ddim{steps}_{key}"].numpy(), rtol=tol)


@pytest.mark.parametrize("schedule", ["linear", "sqrt_linear", "sqrt", "cosine"])
def test_every_schedule_destroys_the_signal_gradually(schedule):
    betas = make_beta_schedule(schedule, 1000)
    alphas_cumprod = np.cumprod(1 - betas)
    assert betas.shape == (1000,) and betas.dtype == np.float64
    assert (betas > 0).all() and (betas < 1).all()
    assert alphas_cumprod[0] > 0.95 or schedule == "sqrt"
    assert alphas_cumprod[-1] < 0.01


def test_sqrt_linear_is_linear_in_beta_and_sqrt_its_root():
    linear = make_beta_schedule("sqrt_linear", 100, 0.01, 0.02)
    np.testing.assert_allclose(np.diff(linear), 0.01 / 99)
    np.testing.assert_allclose(make_beta_schedule("sqrt", 100, 0.01, 0.02) ** 2, linear)


def test_cosine_schedule_follows_its_formula():
    alphas_cumprod = np.cumprod(1 - make_beta_schedule("cosine", 1000))
    t = np.arange(1, 1001) / 1000
    expected = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(alphas_cumprod[:-1], expected[:-1], rtol=1e-9)  # the last beta is clipped


@settings(deadline=None)
@given(method=st.sampled_from(["uniform", "quad"]), steps=st.integers(1, 1000))
def test_ddim_steps_are_steps_of_the_model(method, steps):
    timesteps = make_ddim_timesteps(method, steps, 1000)
    assert timesteps.min() >= 0 and timesteps.max() <= 999
    assert (np.diff(timesteps) >= (1 if method == "uniform" else 0)).all()
    assert len(timesteps) == (len(range(0, 1000, 1000 // steps)) if method == "uniform" else steps)


@settings(deadline=None)
@given(steps=st.integers(1, 1000), eta=st.floats(0, 1))
def test_ddim_noise_never_exceeds_what_is_left_of_the_variance(steps, eta):
    alphas_cumprod = np.cumprod(1 - make_beta_schedule("linear", 1000, 0.00085, 0.012))
    timesteps = make_ddim_timesteps("uniform", steps, 1000)
    sigmas, alphas, alphas_prev = make_ddim_sampling_parameters(alphas_cumprod, timesteps, eta)
    assert (sigmas >= 0).all() and (sigmas**2 <= 1 - alphas_prev + 1e-12).all()
    np.testing.assert_array_equal(alphas_prev[1:], alphas[:-1])
    np.testing.assert_allclose(
        sigmas, eta * np.sqrt((1 - alphas_prev) / (1 - alphas) * (1 - alphas / alphas_prev))
    )


def test_wrong_names_and_numbers_are_told():
    with pytest.raises(UserError, match=r"beta_schedule: 'lineal' is not one of linear"):
        make_beta_schedule("lineal", 1000)
    with pytest.raises(UserError, match=r"ddim_discretize: 'even' is not one of uniform"):
        make_ddim_timesteps("even", 50, 1000)
    for steps in (0, 1001):
        with pytest.raises(UserError, match=f"steps: {steps} is not between 1 and 1000"):
            make_ddim_timesteps("uniform", steps, 1000)


def test_timestep_embedding_equals_the_original():
    case, tensors = golden("timestep_embedding")
    for dim in (32, 33):
        actual = timestep_embedding(torch.tensor(case["timesteps"]), dim)
        torch.testing.assert_close(actual, tensors[f"dim{dim}"], atol=case["tolerance"]["abs"], rtol=0)


def test_extract_into_tensor_broadcasts_over_the_batch():
    table, t = torch.arange(10.0), torch.tensor([7, 0, 3])
    scaled = extract_into_tensor(table, t, (3, 4, 5, 6)) * torch.ones(3, 4, 5, 6)
    torch.testing.assert_close(scaled, table[t][:, None, None, None].expand(3, 4, 5, 6))


# --- the upscaler's condition ------------------------------------------------------------------------------


def test_noise_augmentation_equals_the_original():
    case, tensors = golden("ddim_upscale")
    inputs, config = case["inputs"], case["model"]["low_scale_config"]
    lr = randn(inputs["lr"]["seed"], inputs["lr"]["shape"]).clamp(-1, 1)
    torch.manual_seed(inputs["noise"]["seed"])
    z, level = ImageConcatWithNoiseAugmentation(**config)(lr, torch.tensor([case["sampler"]["noise_level"]]))
    assert level.tolist() == tensors["noise_level"].tolist()
    assert_close(z, tensors["lr_augmented"], 1e-6)


def test_noise_augmentation_keeps_unit_variance_and_takes_given_noise():
    model = ImageConcatWithNoiseAugmentation(X4_SCHEDULE, max_noise_level=350)
    level = torch.tensor([0, 100, 349])
    image, noise = randn(1, (3, 3, 64, 64)), randn(2, (3, 3, 64, 64))
    z, _ = model(image, level, noise)
    torch.testing.assert_close(z, model(image, level, noise)[0], rtol=0, atol=0)
    torch.testing.assert_close(z.var(dim=(1, 2, 3)), torch.ones(3), atol=0.05, rtol=0)
    distance = (z - image).square().mean(dim=(1, 2, 3))
    assert distance[0] < distance[1] < distance[2]


def test_random_noise_levels_cover_the_range_and_no_more():
    model = ImageConcatWithNoiseAugmentation(X4_SCHEDULE, max_noise_level=5)
    torch.manual_seed(0)
    _, level = model(torch.zeros(200, 3, 1, 1))
    assert sorted(set(level.tolist())) == [0, 1, 2, 3, 4]


def test_noise_augmentation_keeps_its_tables_in_half_precision():
    model = ImageConcatWithNoiseAugmentation(X4_SCHEDULE, max_noise_level=350)
    tables = {name: table.clone() for name, table in model.state_dict().items()}
    for name, table in model.half().state_dict().items():
        assert table.dtype == torch.float32 and torch.equal(table, tables[name]), name


def test_low_scale_model_without_a_schedule_has_no_tables():
    assert not AbstractLowScaleModel().half().state_dict()
    assert len(AbstractLowScaleModel(X4_SCHEDULE).state_dict()) == 8
