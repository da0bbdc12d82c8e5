"""The diffusion models: formulas, conditioning, latents, checkpoints."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from ldm.models.diffusion.ddim import DDIMSampler
from ldm.models.diffusion.ddpm import DiffusionWrapper
from ldm.modules.diffusionmodules.gaussian import GaussianDiffusion, Schedule
from ldm.modules.diffusionmodules.util import make_beta_schedule
from ldm.util import UserError, instantiate_from_config
from tests.ldm import tiny
from tests.support import golden, randn

PARAMETERIZATIONS = st.sampled_from(["eps", "v", "x0"])


class Diffusion(GaussianDiffusion):
    """The schedule alone, in float64 so that the formulas can be compared tightly."""

    def __init__(self, parameterization="eps", linear_start=0.00085, linear_end=0.012):
        super().__init__()
        self.parameterization = parameterization
        self.register_schedule(Schedule(make_beta_schedule("linear", 1000, linear_start, linear_end)))


@settings(max_examples=40, deadline=None)
@given(PARAMETERIZATIONS, st.lists(st.integers(0, 999), min_size=1, max_size=4), st.integers(0, 2**31))
def test_eps_and_x0_are_recovered_from_what_the_network_learns(parameterization, steps, seed):
    diffusion = Diffusion(parameterization)
    t = torch.tensor(steps)
    x0, noise = (randn(seed + i, (len(t), 2, 3, 3)).double() for i in range(2))
    x_t = diffusion.q_sample(x0, t, noise)
    output = diffusion.target(x0, noise, t)
    torch.testing.assert_close(diffusion.to_eps(x_t, t, output), noise, atol=2e-4, rtol=0)
    torch.testing.assert_close(diffusion.to_x0(x_t, t, output), x0, atol=2e-4, rtol=0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.integers(0, 2**31))
def test_formulas_of_the_process(step, seed):
    diffusion, t = Diffusion(), torch.tensor([step])
    x0, noise = (randn(seed + i, (1, 2, 3, 3)).double() for i in range(2))
    abar = np.prod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000)[: step + 1] ** 2)
    x_t, v = diffusion.q_sample(x0, t, noise), diffusion.get_v(x0, noise, t)
    torch.testing.assert_close(x_t, abar**0.5 * x0 + (1 - abar) ** 0.5 * noise, atol=1e-6, rtol=0)
    torch.testing.assert_close(v, abar**0.5 * noise - (1 - abar) ** 0.5 * x0, atol=1e-6, rtol=0)
    assert diffusion.schedule.alphas_cumprod[step] == pytest.approx(abar, rel=1e-12)


def test_posterior_is_bayes_rule():
    """q(x_{t-1} | x_t, x_0) ~ q(x_t | x_{t-1}) q(x_{t-1} | x_0), a product of two Gaussians."""
    diffusion, x0, x_t = Diffusion(), randn(0, (1, 1, 2, 2)).double(), randn(1, (1, 1, 2, 2)).double()
    for step in (1, 20, 500, 999):
        beta, prev = diffusion.schedule.betas[step], diffusion.schedule.alphas_cumprod_prev[step]
        precision = (1 - beta) / beta + 1 / (1 - prev)
        expected = (np.sqrt(1 - beta) / beta * x_t + np.sqrt(prev) / (1 - prev) * x0) / precision
        mean, variance, log_variance = diffusion.q_posterior(x0, x_t, torch.tensor([step]))
        torch.testing.assert_close(mean, expected, atol=1e-5, rtol=1e-5)
        assert variance.item() == pytest.approx(1 / precision, rel=1e-5)
        assert log_variance.item() == pytest.approx(-np.log(precision), rel=1e-5)
    mean, variance, _ = diffusion.q_posterior(x0, x_t, torch.tensor([0]))
    torch.testing.assert_close(mean, x0, atol=1e-6, rtol=0)
    assert variance.item() == 0


@pytest.mark.parametrize("name", ["schedule_sd", "schedule_x4"])
def test_schedule_is_that_of_stable_diffusion(name):
    case, expected = golden(name)
    params = case["params"]
    schedule = Schedule(make_beta_schedule("linear", 1000, params["linear_start"], params["linear_end"]))
    index = expected["index"].numpy()
    for table in ("betas", "alphas_cumprod"):
        np.testing.assert_allclose(getattr(schedule, table)[index], expected[table].numpy(), rtol=1e-9)


@pytest.mark.parametrize("cast", [torch.nn.Module.half, torch.nn.Module.bfloat16])
def test_casting_a_model_leaves_its_schedule_in_float32(cast):
    model = cast(tiny.build())
    assert next(model.model.parameters()).dtype != torch.float32
    for name, table in model.schedule.tables().items():
        assert torch.equal(getattr(model, name), torch.tensor(table, dtype=torch.float32)), name


def test_half_precision_weights_work_on_float32_latents():
    model = tiny.inpainting(scale_factor=0.5).eval()
    images, x_T = randn(0, (2, 3, 32, 32)).tanh(), randn(1, (2, 4, 8, 8))

    def run(model):
        z = model.get_first_stage_encoding(model.encode_first_stage(images).mode())
        context = model.get_learned_conditioning(["cat", "dog"])
        cond, uncond = (
            {"c_concat": [torch.cat([z[:, :1], z], 1)], "c_crossattn": [c]} for c in (context, 0 * context)
        )
        options = {"unconditional_conditioning": uncond, "unconditional_guidance_scale": 3.0}
        latents, _ = DDIMSampler(model).sample(3, 2, (4, 8, 8), cond, x_T=x_T, verbose=False, **options)
        return model.decode_first_stage(latents)

    exact, rough = run(model), run(copy.deepcopy(model).bfloat16())
    assert rough.dtype == torch.float32 and not torch.equal(rough, exact)
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max()


def test_given_betas_replace_the_schedule():
    betas = np.linspace(0.01, 0.02, 10)
    model = tiny.build(given_betas=betas)
    assert model.num_timesteps == 10
    np.testing.assert_allclose(model.alphas_cumprod.numpy(), np.cumprod(1 - betas), rtol=1e-6)


# --- conditioning ---


class Recorder(torch.nn.Module):
    """A network that returns what it was given."""

    def forward(self, x, timesteps, context, y):
        return x, timesteps, context, y


@pytest.mark.parametrize(
    "key, concat, context, adm",
    [
        (None, False, False, False),
        ("concat", True, False, False),
        ("crossattn", False, True, False),
        ("adm", False, False, True),
        ("hybrid", True, True, False),
        ("crossattn-adm", False, True, True),
        ("hybrid-adm", True, True, True),
    ],
)
def test_conditioning_key_decides_what_reaches_the_network(key, concat, context, adm):
    wrapper = DiffusionWrapper({"target": f"{__name__}.Recorder"}, key)
    x, t = randn(0, (2, 4, 3, 3)), torch.tensor([1, 2])
    cond = {
        "c_concat": [randn(1, (2, 1, 3, 3)), randn(2, (2, 4, 3, 3))],
        "c_crossattn": [randn(3, (2, 5, 7)), randn(4, (2, 1, 7))],
        "c_adm": torch.tensor([5, 6]),
    }
    seen_x, seen_t, seen_context, seen_y = wrapper(x, t, **cond)
    assert torch.equal(seen_t, t)
    assert torch.equal(seen_x, torch.cat([x, *cond["c_concat"]], 1) if concat else x)
    assert seen_context is None or torch.equal(seen_context, torch.cat(cond["c_crossattn"], 1))
    assert (seen_context is not None) == context
    assert (seen_y is cond["c_adm"]) == adm
    wanted = {"c_concat": concat, "c_crossattn": context, "c_adm": adm}
    for name in cond:
        if wanted[name]:
            with pytest.raises(UserError, match=f"{key}.*{name}"):
                wrapper(x, t, **{other: value for other, value in cond.items() if other != name})


def test_unknown_conditioning_key_is_refused():
    with pytest.raises(UserError, match="'crosattn' is not one of"):
        tiny.build(conditioning_key="crosattn")


@pytest.mark.parametrize(
    "key, name", [("crossattn", "c_crossattn"), ("concat", "c_concat"), ("adm", "c_adm")]
)
def test_a_bare_conditioning_stands_for_the_only_one(key, name):
    model = tiny.build()
    model.model = DiffusionWrapper({"target": f"{__name__}.Recorder"}, key)
    x, t = randn(0, (2, 4, 3, 3)), torch.tensor([1, 2])
    c = torch.tensor([1, 2]) if key == "adm" else randn(1, (2, 4, 3, 3) if key == "concat" else (2, 5, 16))
    whole = model.apply_model(x, t, {name: c if key == "adm" else [c]})
    bare = model.apply_model(x, t, c)
    for a, b in zip(bare, whole, strict=True):
        assert a is b or torch.equal(a, b)
    if key != "adm":
        assert torch.equal(model.apply_model(x, t, [c])[0], whole[0])


def test_conditioning_of_prompts():
    model = tiny.build()
    features = model.get_learned_conditioning(["cat", ""])
    assert features.shape == (2, 3, 16)
    empty = model.get_unconditional_conditioning(3, "")
    assert torch.equal(empty, features[1:].expand(3, -1, -1))
    with pytest.raises(UserError, match="null_label"):
        model.get_unconditional_conditioning(3)


def test_unconditional_model_has_no_text_encoder():
    model = tiny.Oracle(lambda x, t, c: x, cond_stage_config="__is_unconditional__", conditioning_key=None)
    assert model.cond_stage_model is None and model.model.conditioning_key is None
    latents = randn(0, (2, 4, 8, 8))
    z, c = model.get_input({"jpg_latent": latents}, "jpg")
    assert c is None and torch.equal(z, latents)
    with pytest.raises(UserError, match="no text encoder"):
        model.get_learned_conditioning(["a kite"])


# --- latents ---


def test_latents_are_scaled_on_the_way_in_and_back_on_the_way_out():
    model = tiny.build(scale_factor=0.25).eval()
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    posterior = model.encode_first_stage(images)
    torch.manual_seed(3)
    z = model.get_first_stage_encoding(posterior)
    torch.manual_seed(3)
    assert torch.equal(z, 0.25 * posterior.sample())
    assert torch.equal(model.get_first_stage_encoding(posterior.mode()), 0.25 * posterior.mode())
    assert torch.equal(model.decode_first_stage(z), model.first_stage_model.decode(z / 0.25))
    assert not z.requires_grad and not model.decode_first_stage(z).requires_grad


def test_frozen_parts_stay_frozen_and_in_eval_mode():
    model = tiny.build().train()
    assert (
        model.model.training and not model.first_stage_model.training and not model.cond_stage_model.training
    )
    assert not any(p.requires_grad for p in model.first_stage_model.parameters())
    assert not any(p.requires_grad for p in model.cond_stage_model.parameters())
    trainable = tiny.build(cond_stage_trainable=True).train()
    assert trainable.cond_stage_model.training
    trained = {id(parameter) for parameter in trainable.trained_parameters()}
    assert {id(parameter) for parameter in trainable.cond_stage_model.parameters()} <= trained


# --- checkpoints ---


@pytest.mark.parametrize("build", [tiny.build, tiny.inpainting, tiny.upscaler])
def test_built_on_meta_and_given_weights_it_is_the_same_model(build):
    model = build()
    with torch.device("meta"):
        other = build()
    assert not any(buffer.is_meta for buffer in other.buffers())
    weights = dict(model.named_parameters())
    missing, unexpected = other.load_state_dict(weights, assign=True, strict=False)
    assert not unexpected and not set(missing) - {name for name, _ in model.named_buffers()}
    x, t = randn(0, (2, 4, 8, 8)), torch.tensor([3, 700])
    c = {
        "c_concat": [randn(1, (2, model.model.diffusion_model.in_channels - 4, 8, 8))],
        "c_crossattn": [model.get_learned_conditioning(["cat", "dog"])],
        "c_adm": torch.tensor([3, 30]),
    }
    with torch.no_grad():
        assert torch.equal(other.apply_model(x, t, c), model.apply_model(x, t, c))
        assert torch.equal(other.q_sample(x, t, x), model.q_sample(x, t, x))
    assert other.device == torch.device("cpu")


def test_a_text_to_image_model_becomes_an_inpainting_model(tmp_path):
    """The first convolution is widened with zeros, so at first mask and masked image change nothing."""
    small = tiny.build(seed=1)
    save_file({k: v.contiguous() for k, v in small.state_dict().items()}, tmp_path / "small.safetensors")
    large = tiny.inpainting(seed=2, ckpt_path=str(tmp_path / "small.safetensors"))
    nn_out = large.model.diffusion_model.out[-1]
    nn_out.load_state_dict(small.model.diffusion_model.out[-1].state_dict())  # tiny.build redraws it
    x, t, c = randn(0, (1, 4, 8, 8)), torch.tensor([500]), small.get_learned_conditioning(["cat"])
    with torch.no_grad():
        expected = small.apply_model(x, t, c)
        for seed in (1, 2):
            found = large.apply_model(x, t, {"c_concat": [randn(seed, (1, 5, 8, 8))], "c_crossattn": [c]})
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_checkpoint_may_leave_keys_out(tmp_path, capsys):
    model = tiny.build(seed=1)
    torch.save({"state_dict": {**model.state_dict(), "stray": torch.zeros(1)}}, tmp_path / "model.ckpt")
    options = {"ckpt_path": str(tmp_path / "model.ckpt"), "ignore_keys": ["model.diffusion_model.out"]}
    other = tiny.build(seed=2, **options)
    report = capsys.readouterr().err
    assert "keys missing, 1 unexpected" in report and "stray" in report
    for (name, a), b in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b) or name.startswith("model.diffusion_model.out"), name
    last = "model.diffusion_model.out.2.weight"
    assert not torch.equal(model.state_dict()[last], other.state_dict()[last])


@pytest.mark.parametrize("contents", [b"", b"PK\x03\x04 cut short", b"<!DOCTYPE html>"])
def test_unreadable_checkpoint_is_a_one_line_error(tmp_path, contents):
    path = tmp_path / "model.ckpt"
    path.write_bytes(contents)
    with pytest.raises(UserError, match=r"model\.ckpt") as error:
        tiny.build(ckpt_path=str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"parameterization": "score"}, "parameterization.*'score'"),
        ({"loss_type": "huber"}, "loss_type.*'huber'"),
        ({"num_timesteps_cond": 2}, "num_timesteps_cond"),
        ({"scale_facto": 1.0}, "LatentDiffusion has no parameter 'scale_facto'"),
        ({"first_stage_config": {"target": "ldm.models.autoencoder.VQModel"}}, "has no 'VQModel'"),
        ({"beta_schedule": "exponential"}, "exponential"),
    ],
)
def test_wrong_settings_are_one_line_errors(change, message):
    with pytest.raises(UserError, match=message) as error:
        tiny.build(**change)
    assert "\n" not in str(error.value)


def test_configs_are_not_changed_by_building():
    config = tiny.config(use_ema=True)
    before = copy.deepcopy(config)
    instantiate_from_config(config)
    assert config == before
