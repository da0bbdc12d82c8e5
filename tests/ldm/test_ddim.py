"""The DDIM sampler against golden trajectories and against denoisers whose samples are known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm.models.diffusion.ddim import DDIMSampler, draw_noise
from ldm.util import UserError, instantiate_from_config
from tests.ldm import tiny
from tests.support import assert_close, golden, randn, rule_w

PARAMETERIZATIONS = st.sampled_from(["eps", "v", "x0"])
GRIDS = st.sampled_from(["uniform", "quad", "descend"])


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def golden_model(case, target, **params):
    """The case's model: its UNet with rule W, without an autoencoder or a text encoder."""
    identity = {"target": "torch.nn.Identity"}
    model = instantiate_from_config(
        {
            "target": f"ldm.models.diffusion.ddpm.{target}",
            "params": {
                **case["model"],
                "unet_config": {
                    "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
                    "params": case["unet_config"],
                },
                "first_stage_config": identity,
                "cond_stage_config": identity,
                "use_ema": False,
                **params,
            },
        }
    )
    rule_w(model.model.diffusion_model)
    return model


def check_trajectory(model, case, expected, concat, **adm):
    inputs, options = case["inputs"], case["sampler"]
    cond, uncond = (
        {"c_concat": [concat], "c_crossattn": [randn(inputs[name]["seed"], inputs[name]["shape"])], **adm}
        for name in ("context_cond", "context_uncond")
    )
    if (seed := options.get("manual_seed_before_sample")) is not None:
        torch.manual_seed(seed)
    sampler = DDIMSampler(model)
    samples, intermediates = sampler.sample(
        options["S"],
        1,
        (4, 32, 32),
        cond,
        eta=options["eta"],
        x_T=randn(inputs["x_T"]["seed"], inputs["x_T"]["shape"]),
        unconditional_guidance_scale=options["unconditional_guidance_scale"],
        unconditional_conditioning=uncond,
        log_every_t=1,
        verbose=False,
    )
    tolerance = case["tolerance"]["rel_to_absmax"]
    assert sampler.ddim_timesteps.tolist() == expected["timesteps"].tolist()
    assert_close(samples, expected["samples"], tolerance)
    assert_close(torch.stack(intermediates["x_inter"][1:]), expected["x_inter"], tolerance)
    assert_close(torch.stack(intermediates["pred_x0"][1:]), expected["pred_x0"], tolerance)


@pytest.mark.parametrize("name", ["ddim_inpaint", "ddim_inpaint_eta"])
def test_golden_inpainting_trajectory(name):
    case, expected = golden(name)
    inputs = case["inputs"]
    y0, y1, x0, x1 = inputs["mask"]["box_y0y1x0x1"]
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., y0:y1, x0:x1] = 1
    masked = 0.8 * randn(inputs["masked_latent"]["seed"], inputs["masked_latent"]["shape"])
    model = golden_model(case, "LatentInpaintDiffusion")
    check_trajectory(model, case, expected, torch.cat([mask, masked], 1))


def test_golden_upscaling_trajectory():
    case, expected = golden("ddim_upscale")
    low_scale = {**tiny.LOW_SCALE, "params": case["model"]["low_scale_config"]}
    model = golden_model(case, "LatentUpscaleDiffusion", low_scale_config=low_scale)
    low = randn(case["inputs"]["lr"]["seed"], case["inputs"]["lr"]["shape"]).clamp(-1, 1)
    torch.manual_seed(case["inputs"]["noise"]["seed"])
    low, level = model.low_scale_model(low, torch.tensor([case["sampler"]["noise_level"]]))
    assert_close(low, expected["lr_augmented"], case["tolerance"]["rel_to_absmax"])
    check_trajectory(model, case, expected, low, c_adm=level)


def test_tables_are_those_of_stable_diffusion():
    case, expected = golden("schedule_sd")
    sampler = DDIMSampler(tiny.Oracle(lambda x, t, c: x))
    for steps in case["params"]["S"]:
        sampler.make_schedule(steps, ddim_eta=case["params"]["eta"])
        assert sampler.ddim_timesteps.tolist() == expected[f"ddim{steps}_timesteps"].tolist()
        for name in ("alphas", "alphas_prev", "sigmas"):
            found, table = getattr(sampler, f"ddim_{name}"), expected[f"ddim{steps}_{name}"].numpy()
            np.testing.assert_allclose(found, table, rtol=case["tolerance"]["rel"])


def test_tables_of_the_descending_grid():
    case, expected = golden("schedule_sd")
    sampler = DDIMSampler(tiny.Oracle(lambda x, t, c: x))
    sampler.make_schedule(50, "descend", ddim_eta=1.0)
    rtol = case["tolerance"]["rel"]
    assert sampler.ddim_timesteps[::-1].tolist() == expected["hdp20_t"].tolist() == list(range(999, 0, -20))
    np.testing.assert_allclose(sampler.ddim_alphas[::-1], expected["hdp20_alphas"].numpy(), rtol=rtol)
    sigmas = expected["hdp20_sigma_paper_eta1"].numpy()
    np.testing.assert_allclose(sampler.ddim_sigmas[:0:-1], sigmas[:-1], rtol=rtol)
    # The last step, where the reference has nothing (NaN), leads to clean data.
    assert (sampler.ddim_alphas_prev[0], sampler.ddim_sigmas[0]) == (1.0, 0.0)
    np.testing.assert_array_equal(sampler.ddim_alphas_prev[1:], sampler.ddim_alphas[:-1])


@settings(max_examples=25, deadline=None)
@given(PARAMETERIZATIONS, GRIDS, st.integers(1, 60), st.floats(0, 1), st.integers(0, 2**31))
def test_data_of_one_picture_is_found(parameterization, grid, steps, eta, seed):
    """If all data are one picture x*, the ideal denoiser predicts it, and every trajectory leads there."""
    star = randn(seed, (1, 4, 2, 2))
    model = tiny.Oracle(lambda x, t, c: star.expand_as(x), parameterization=parameterization)
    sampler = DDIMSampler(model)
    sampler.make_schedule(steps, grid)
    first = torch.full((3,), int(sampler.ddim_timesteps[-1]))
    options = {"x_T": model.q_sample(star.expand(3, -1, -1, -1), first, randn(seed + 1, (3, 4, 2, 2)))}
    options |= {"eta": eta, "generator": generators(seed, 1, 2), "ddim_discretize": grid, "verbose": False}
    samples, intermediates = sampler.sample(steps, 3, (4, 2, 2), **options)
    torch.testing.assert_close(intermediates["pred_x0"][-1], star.expand(3, -1, -1, -1), atol=1e-4, rtol=0)
    left = math.sqrt(1 - sampler.ddim_alphas_prev[0])  # noise that the grid leaves in the result
    assert (samples - star).abs().max() <= 6 * left + 2e-3
    if grid == "descend":
        torch.testing.assert_close(samples, star.expand_as(samples), atol=1e-4, rtol=0)


@settings(max_examples=20, deadline=None)
@given(GRIDS, st.integers(1, 200), st.floats(0, 1), st.data())
def test_a_step_keeps_unit_variance(grid, steps, eta, data):
    """The three coefficients of Eq. 3 are those of a unit vector, for every σ."""
    sampler = DDIMSampler(tiny.Oracle(lambda x, t, c: x))
    sampler.make_schedule(steps, grid, eta)
    index = data.draw(st.integers(0, len(sampler.ddim_timesteps) - 1))
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    x0, direction = sampler.step(zero, one, index, zero), sampler.step(one, zero, index, zero)
    noise = sampler.step(zero, zero, index, one)
    assert (x0**2 + direction**2 + noise**2).item() == pytest.approx(1.0, rel=1e-12)
    assert x0.item() == pytest.approx(math.sqrt(sampler.ddim_alphas_prev[index]))
    assert noise.item() == pytest.approx(sampler.ddim_sigmas[index])


@settings(max_examples=20, deadline=None)
@given(PARAMETERIZATIONS, st.floats(-2, 10), st.integers(0, 2**31))
def test_guidance_combines_one_batch_of_both_halves(parameterization, scale, seed):
    model = tiny.Oracle(
        lambda x, t, c: x * 0.5 + c.mean(1)[..., None, None], parameterization=parameterization
    )
    c, uc, x = randn(seed, (2, 7, 4)), randn(seed + 1, (2, 7, 4)), randn(seed + 2, (2, 4, 3, 3))
    t = torch.tensor([700, 700])
    sampler = DDIMSampler(model)
    sampler.make_schedule(10)
    e_t, output = sampler.predict_eps(x, c, t, scale, uc)
    assert len(model.calls) == 1
    seen_x, seen_t, seen_c = model.calls.pop()
    if scale == 1.0:
        assert len(seen_x) == 2
    else:
        assert torch.equal(seen_x, torch.cat([x, x])) and torch.equal(seen_t, torch.cat([t, t]))
        assert torch.equal(seen_c, torch.cat([uc, c]))  # [uncond | cond]
    eps_c, eps_u = (model.to_eps(x, t, model.apply_model(x, t, half)) for half in (c, uc))
    torch.testing.assert_close(e_t, eps_u + scale * (eps_c - eps_u), atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(model.to_eps(x, t, output), e_t)


def test_no_guidance_is_a_single_pass():
    model = tiny.Oracle(lambda x, t, c: 0.5 * x)
    c = randn(0, (2, 7, 4))
    for options in (
        {"unconditional_guidance_scale": 5.0},
        {"unconditional_guidance_scale": 1.0, "unconditional_conditioning": c},
    ):
        DDIMSampler(model).sample(4, 2, (4, 3, 3), c, verbose=False, **options)
        assert all(len(x) == 2 for x, _, _ in model.calls)


def test_guidance_reaches_every_part_of_a_dict_conditioning():
    model = tiny.Oracle(lambda x, t, c: 0.5 * x)
    parts = {"c_concat": [(2, 5, 3, 3)], "c_crossattn": [(2, 7, 4), (2, 1, 4)]}
    c, uc = (
        {name: [randn(seed + i, shape) for i, shape in enumerate(shapes)] for name, shapes in parts.items()}
        | {"c_adm": torch.tensor([seed, seed + 1])}
        for seed in (10, 20)
    )
    options = {"unconditional_conditioning": uc, "unconditional_guidance_scale": 3.0}
    DDIMSampler(model).sample(1, 2, (4, 3, 3), c, verbose=False, **options)
    _, _, seen = model.calls[0]
    assert seen["c_adm"].tolist() == [20, 21, 10, 11]
    for name in parts:
        for found, u, k in zip(seen[name], uc[name], c[name], strict=True):
            assert torch.equal(found, torch.cat([u, k]))
    with pytest.raises(UserError, match="different keys"):
        options["unconditional_conditioning"] = {key: uc[key] for key in parts}
        DDIMSampler(model).sample(1, 2, (4, 3, 3), c, verbose=False, **options)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 2**31), min_size=1, max_size=4), st.floats(0, 1), st.booleans())
def test_an_image_does_not_depend_on_its_batch(seeds, eta, masked):
    model = tiny.Oracle(lambda x, t, c: x.tanh())
    known = {"mask": torch.ones(1, 1, 2, 2), "x0": torch.zeros(1, 4, 2, 2)} if masked else {}

    def sample(*seeds):
        batch = {name: value.expand(len(seeds), -1, -1, -1) for name, value in known.items()}
        options = {"eta": eta, "generator": generators(*seeds), "verbose": False}
        return DDIMSampler(model).sample(5, len(seeds), (4, 2, 2), **options, **batch)[0]

    together = sample(*seeds)
    for seed, image in zip(seeds, together, strict=True):
        assert torch.equal(sample(seed)[0], image)


def test_noise_comes_from_the_generator_or_the_global_one():
    torch.manual_seed(5)
    expected = torch.randn(2, 3)
    torch.manual_seed(5)
    assert torch.equal(draw_noise((2, 3)), expected)
    assert torch.equal(draw_noise((2, 3), torch.Generator().manual_seed(5)), expected)
    assert not torch.equal(draw_noise((2, 3), generators(5, 6)), expected)
    with pytest.raises(UserError, match="1 generators for a batch of 2"):
        draw_noise((2, 3), generators(5))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31))
def test_known_region_is_noised_to_the_level_of_each_step(seed):
    model = tiny.Oracle(lambda x, t, c: x.tanh())
    x0, x_T = randn(seed, (1, 4, 4, 4)), randn(seed + 1, (1, 4, 4, 4))
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1
    options = {"mask": mask, "x0": x0, "x_T": x_T, "generator": torch.Generator().manual_seed(seed)}
    DDIMSampler(model).sample(4, 1, (4, 4, 4), verbose=False, **options)
    noise = torch.Generator().manual_seed(seed)
    for i, (x, t, _) in enumerate(model.calls):
        known = model.q_sample(x0, t, torch.randn(x0.shape, generator=noise))
        torch.randn(x0.shape, generator=noise)  # the step's own
        assert torch.equal(x[..., :2], known[..., :2])
        if i == 0:
            assert torch.equal(x[..., 2:], x_T[..., 2:])


@settings(max_examples=10, deadline=None)
@given(PARAMETERIZATIONS, st.integers(0, 2**31))
def test_ddim_with_eta_one_is_ancestral_sampling(parameterization, seed):
    """At stride 1, Eq. 3 with DDPM's σ is the step of Eq. 2: same mean, same noise."""
    model = tiny.Oracle(
        lambda x, t, c: x.tanh(), parameterization=parameterization, timesteps=20, linear_end=0.2
    )
    sampler = DDIMSampler(model)
    sampler.make_schedule(20, ddim_eta=1.0)
    x = randn(seed, (2, 4, 3, 3))
    for index, step in enumerate(sampler.ddim_timesteps):
        if step == 0:
            continue  # DDIM stops at t = 0, ancestral sampling goes on to clean data
        t = torch.full((2,), int(step))
        torch.manual_seed(seed)
        ancestral = model.p_sample(x, None, t)
        torch.manual_seed(seed)
        torch.testing.assert_close(
            sampler.p_sample_ddim(x, None, t, index)[0], ancestral, atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("v_posterior", [0.0, 1.0])
def test_ancestral_sampling_finds_the_picture(v_posterior):
    """Whatever the variance of the steps, the last one adds no noise."""
    star = randn(0, (1, 4, 2, 2))
    options = {"timesteps": 50, "linear_end": 0.2, "log_every_t": 10, "v_posterior": v_posterior}
    model = tiny.Oracle(lambda x, t, c: star.expand_as(x), **options)
    samples, intermediates = model.p_sample_loop(None, (2, 4, 2, 2))
    torch.testing.assert_close(samples, star.expand_as(samples), atol=1e-4, rtol=0)
    assert len(intermediates) == 1 + 5


@pytest.mark.parametrize("parameterization", ["eps", "v"])
def test_decode_undoes_encode(parameterization):
    """DDIM inversion is exact in the limit of many steps: the error falls with their number."""
    model = tiny.Oracle(lambda x, t, c: x * model.sqrt_alphas_cumprod[t].view(-1, 1, 1, 1) + 0.3)
    model.parameterization = parameterization
    sampler, x0, errors = DDIMSampler(model), randn(3, (2, 4, 3, 3)), []
    for steps in (20, 100, 500):
        sampler.make_schedule(steps)
        latent, out = sampler.encode(x0, None, steps // 2, return_intermediates=4)
        assert len(out["intermediates"]) == len(out["intermediate_steps"]) >= 4
        assert torch.equal(out["x_encoded"], latent)
        errors.append((sampler.decode(latent, None, steps // 2) - x0).abs().max().item())
    assert errors[2] < 0.35 * errors[1] < 0.35 * 0.35 * errors[0]
    with pytest.raises(UserError, match="t_enc"):
        sampler.encode(x0, None, 501)


def test_stochastic_encode_and_decode_follow_the_grid():
    model = tiny.Oracle(lambda x, t, c: torch.zeros_like(x))
    sampler = DDIMSampler(model)
    sampler.make_schedule(50)
    x0, noise, index = randn(0, (2, 4, 2, 2)), randn(1, (2, 4, 2, 2)), torch.tensor([3, 40])
    t = torch.tensor(sampler.ddim_timesteps[index.numpy()])
    assert torch.equal(sampler.stochastic_encode(x0, index, noise=noise), model.q_sample(x0, t, noise))
    original = sampler.stochastic_encode(x0, index, use_original_steps=True, noise=noise)
    assert torch.equal(original, model.q_sample(x0, index, noise))
    sampler.decode(x0, None, t_start=10)
    assert [int(t[0]) for _, t, _ in model.calls] == sampler.ddim_timesteps[9::-1].tolist()


def test_callbacks_intermediates_and_guidance_schedule():
    model = tiny.Oracle(lambda x, t, c: c.expand_as(x))
    seen, predictions = [], []
    c = torch.ones(1, 4, 1, 1)
    _, intermediates = DDIMSampler(model).sample(
        5,
        1,
        (4, 2, 2),
        c,
        callback=seen.append,
        img_callback=lambda x0, i: predictions.append((i, x0.mean().item())),
        unconditional_conditioning=0 * c,
        unconditional_guidance_scale=99.0,
        ucg_schedule=[5, 4, 3, 2, 1],
        log_every_t=2,
        verbose=False,
    )
    assert seen == [0, 1, 2, 3, 4]
    assert [i for i, _ in predictions] == seen
    # The denoiser returns its conditioning, so the prediction is the guidance scale itself.
    assert [x0 for _, x0 in predictions] == pytest.approx([5, 4, 3, 2, 1], abs=1e-3)
    assert len(intermediates["x_inter"]) == len(intermediates["pred_x0"]) == 1 + 3
    with pytest.raises(UserError, match="3 scales for 5 steps"):
        DDIMSampler(model).sample(5, 1, (4, 2, 2), c, ucg_schedule=[1, 2, 3], verbose=False)


def test_score_corrector_changes_eps():
    class Zero:
        def modify_score(self, model, e_t, x, t, c, factor):
            return e_t * factor

    model = tiny.Oracle(lambda x, t, c: x.tanh())
    sampler = DDIMSampler(model)
    sampler.make_schedule(10)
    x, t = randn(0, (1, 4, 2, 2)), torch.tensor([int(sampler.ddim_timesteps[5])])
    corrector = {"score_corrector": Zero(), "corrector_kwargs": {"factor": 0.0}}
    x_prev, pred_x0 = sampler.p_sample_ddim(x, None, t, 5, **corrector)
    torch.testing.assert_close(pred_x0, x / math.sqrt(sampler.ddim_alphas[5]))
    torch.testing.assert_close(x_prev, math.sqrt(sampler.ddim_alphas_prev[5]) * pred_x0)
    model.parameterization = "v"
    with pytest.raises(UserError, match="eps"):
        sampler.p_sample_ddim(x, None, t, 5, **corrector)


def test_temperature_and_noise_dropout_change_the_noise_only():
    model = tiny.Oracle(lambda x, t, c: x.tanh())
    sampler = DDIMSampler(model)
    sampler.make_schedule(10, ddim_eta=1.0)
    x, t, sigma = (
        randn(0, (1, 4, 8, 8)),
        torch.tensor([int(sampler.ddim_timesteps[5])]),
        sampler.ddim_sigmas[5],
    )

    def noise(**options):
        quiet, _ = sampler.p_sample_ddim(x, None, t, 5, temperature=0.0)
        return (sampler.p_sample_ddim(x, None, t, 5, generator=generators(1), **options)[0] - quiet) / sigma

    plain = draw_noise(x.shape, generators(1))
    torch.testing.assert_close(noise(), plain, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(noise(temperature=0.5), 0.5 * plain, atol=1e-4, rtol=1e-4)
    dropped = noise(noise_dropout=0.5)
    kept = dropped.abs() > 1e-4
    assert 0.3 < kept.float().mean() < 0.7
    torch.testing.assert_close(dropped[kept], 2 * plain[kept], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"quantize_x0": True}, "quantize_x0"),
        ({"dynamic_threshold": 0.9}, "dynamic_threshold"),
        ({"normals_sequence": [1]}, "normals_sequence"),
        ({"S": 0}, "steps"),
        ({"S": 0, "ddim_discretize": "descend"}, "steps"),
        ({"S": 1001}, "steps"),
        ({"ddim_discretize": "cubic"}, "cubic"),
        ({"eta": -0.1}, "eta"),
        ({"eta": 30.0}, "eta is too large"),
        ({"mask": torch.ones(1, 1, 2, 2)}, "mask and x0"),
        ({"conditioning": torch.zeros(3, 7, 4)}, "3 images"),
        ({"unconditional_conditioning": {"c_crossattn": [torch.zeros(1, 7, 4)]}}, "1 images"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    model = tiny.Oracle(lambda x, t, c: x)
    with pytest.raises(UserError, match=message):
        DDIMSampler(model).sample(**{"S": 5, "batch_size": 2, "shape": (4, 2, 2), "verbose": False} | options)


def test_a_single_step_that_is_not_defined_is_refused_too():
    sampler = DDIMSampler(tiny.Oracle(lambda x, t, c: x))
    sampler.make_schedule(5, ddim_eta=30.0)
    zero = torch.zeros(1, 4, 2, 2)
    with pytest.raises(UserError, match="eta is too large"):
        sampler.step(zero, zero, 1, zero)
