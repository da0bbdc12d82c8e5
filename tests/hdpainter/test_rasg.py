"""RASG against the golden data of the authors' release, against the plain equations, and its sign."""

import dataclasses
import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.oracles import FullMatrixPAIntA, rasg_gradient
from hdpainter.levels import mask_pyramid
from hdpainter.painta import PAIntA
from hdpainter.rasg import CrossAttentionScores, RASGSampler, standardize
from hdpainter.settings import RASGSettings
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.modules.diffusionmodules.openaimodel import UNetModel, UNetState
from ldm.util import UserError
from tests.hdpainter.test_painta import RELEASE, SMALL_UNET, problems, release_masks
from tests.support import assert_close, cases, golden, randn, rule_w

RELEASE_RASG = RASGSettings(sigma="per_step", logit_shift=1.0, reduction="mean")
RUNS = sorted(name for name in cases() if name.startswith("hdp_") and name != "hdp_setup")


class StandInUNet(UNetModel):
    """The denoiser of the golden runs: eps = sqrt(1 - abar) x_t + 0.3 sqrt(abar) UNet, unit scale untrained."""

    def begin(self, x, timesteps, context=None, y=None) -> UNetState:
        betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        self.alpha = float(np.cumprod(1 - betas)[int(timesteps[0])])
        self.latent = x[:1, :4].detach()
        return super().begin(x, timesteps, context, y)

    def finish(self, state):
        return (1 - self.alpha) ** 0.5 * self.latent + 0.3 * self.alpha**0.5 * super().finish(state)


def diffusion(unet_config, unet_class=UNetModel, parameterization="eps", conditioning_key="hybrid"):
    """A LatentDiffusion around a UNet by rule W, without autoencoder and text encoder."""
    model = LatentDiffusion(
        unet_config={"target": f"{unet_class.__module__}.{unet_class.__qualname__}", "params": unet_config},
        first_stage_config={"target": "torch.nn.Identity"},
        cond_stage_config="__is_unconditional__",
        conditioning_key=conditioning_key,
        linear_start=0.00085,
        linear_end=0.012,
        parameterization=parameterization,
        use_ema=False,
    )
    rule_w(model.model.diffusion_model)
    return model.eval()


@pytest.fixture(scope="module")
def stand_in():
    return diffusion(cases()["hdp_setup"]["unet_config"], StandInUNet)


@pytest.fixture(scope="module", params=["eps", "v"])
def small_model(request):
    return diffusion(SMALL_UNET, parameterization=request.param)


@pytest.mark.parametrize("name", RUNS)
def test_trajectories_equal_the_release(stand_in, name):
    case, expected = golden(name)
    setup, condition = golden("hdp_setup")
    tol = case["tolerance"]
    masks = release_masks({"image_hw": setup["image"]["hw"], **setup})
    assert torch.equal(masks[4][0, 0], condition["mask16"].float())
    context = {half: randn(rule["seed"], rule["shape"]) for half, rule in case["context"].items()}
    concat = [condition["unet_condition"]]
    conds = [{"c_concat": concat, "c_crossattn": [context[half]]} for half in ("cond", "uncond")]
    tokens = [case["token_idx"]]
    unet = stand_in.model.diffusion_model
    log = {"score": [], "gradient": [], "x0": [], "z": []}

    guidance = {}
    if "rasg" in case["method"]:
        sigma = "cumulative" if "papersigma" in name else "per_step"
        sampler = RASGSampler(stand_in, (4,), dataclasses.replace(RELEASE_RASG, sigma=sigma))
        guidance = {"mask": masks, "token_indices": tokens}
    else:
        sampler = DDIMSampler(stand_in)

    def follow(pred_x0, i):
        log["x0"].append(pred_x0)
        if guidance:
            log["score"].append(sampler.score.item())
            log["gradient"].append(sampler.gradient)

    def sample():
        return sampler.sample(
            case["num_steps"],
            1,
            (4, 64, 64),
            conds[0],
            img_callback=follow,
            eta=case["eta"],
            ddim_discretize="descend",
            x_T=randn(case["seed"], (1, 4, 64, 64)),
            log_every_t=1,
            unconditional_guidance_scale=case["guidance_scale"],
            unconditional_conditioning=conds[1],
            verbose=False,
            **guidance,
        )

    if "painta" in case["method"]:
        with PAIntA(unet, masks, tokens, (2, 4), RELEASE):
            latents, inter = sample()
    else:
        latents, inter = sample()

    assert list(sampler.ddim_timesteps[::-1]) == case["timesteps"]
    for step, z in zip(expected["zt_after_step"].tolist(), expected["zt_after"], strict=True):
        if step < case["num_steps"]:  # the release's last latent wraps around to t = 999 and is never used
            assert_close(inter["x_inter"][step][0], z, tol["rel_to_absmax"])
    assert_close(latents, expected["z0_final"], tol["rel_to_absmax"])
    if "score" in expected:
        # The release's score is minus the cross entropy; so is its gradient.
        np.testing.assert_allclose(log["score"], -expected["score"].numpy(), rtol=tol["score_rel"])
        stds = [g.std().item() for g in log["gradient"]]
        np.testing.assert_allclose(stds, expected["grad_std"].numpy(), rtol=tol["grad_std_rel"])
    for step in (1, 2):
        if f"grad_step{step}" in expected:
            assert_close(-log["gradient"][step - 1], expected[f"grad_step{step}"], tol["grad_rel_to_absmax"])
    if "z0_step1" in expected:
        assert_close(log["x0"][0], expected["z0_step1"], tol["z0_step1_rel"])


def conditioning(mask, seed, batch):
    concat = [torch.cat([mask, randn(seed + 1, (batch, 4, *mask.shape[2:]))], 1)]
    return [{"c_concat": concat, "c_crossattn": [randn(seed + k, (batch, 9, 16))]} for k in (2, 3)]


@settings(max_examples=8, deadline=None)
@given(problems(), st.booleans(), st.booleans())
def test_lean_gradient_equals_the_whole_graph(small_model, problem, with_painta, release):
    """S, its gradient and the network's output, against one graph through everything and both halves."""
    mask, tokens, variant, seed = problem
    batch = len(mask)
    cond, uncond = conditioning(mask, seed, batch)
    x, t = randn(seed, (batch, 4, *mask.shape[2:])), torch.full((batch,), 801)
    unet = small_model.model.diffusion_model
    variant_rasg = RELEASE_RASG if release else RASGSettings()
    target = mask_pyramid(mask, (2,))
    sampler = RASGSampler(small_model, (2,), variant_rasg)

    def inputs(x_t):
        both = torch.cat([torch.cat([x_t, cond["c_concat"][0]], 1)] * 2)
        return {"x": both, "context": torch.cat([uncond["c_crossattn"][0], cond["c_crossattn"][0]])}

    def oracle():
        return rasg_gradient(
            unet,
            x,
            inputs,
            t.repeat(2),
            target[2],
            tokens,
            (2,),
            variant_rasg.logit_shift,
            variant_rasg.reduction,
        )

    if with_painta:
        masks = mask_pyramid(mask, (1, 2))
        with PAIntA(unet, mask, tokens, (1, 2), variant), torch.no_grad():
            output, score, gradient = sampler.guided_output(x, cond, t, uncond, target, tokens)
        with FullMatrixPAIntA(unet, masks, tokens, (1, 2), variant):
            expected_score, expected_gradient, expected = oracle()
    else:
        with torch.no_grad():
            output, score, gradient = sampler.guided_output(x, cond, t, uncond, target, tokens)
        expected_score, expected_gradient, expected = oracle()
    assert_close(score, expected_score, 1e-5)
    assert_close(gradient, expected_gradient, 1e-4)
    assert_close(output, expected, 2e-5)


@settings(max_examples=5, deadline=None)
@given(problems(), st.sampled_from(["reweighted", "post-hoc"]))
def test_a_batch_equals_its_images_one_by_one(small_model, problem, update):
    mask, tokens, variant, seed = problem
    batch = len(mask)
    cond, uncond = conditioning(mask, seed, batch)
    x_T = randn(seed, (batch, 4, *mask.shape[2:]))
    unet = small_model.model.diffusion_model

    def pick(c, rows):
        return {key: [value[0][rows]] for key, value in c.items()}

    def run(rows):
        sampler = RASGSampler(small_model, (2,), RASGSettings(update=update, scale=1e-3))
        picked = [tokens[i] for i in rows]
        with PAIntA(unet, mask[rows], picked, (1, 2), variant):
            return sampler.sample(
                2,
                len(rows),
                x_T.shape[1:],
                pick(cond, rows),
                eta=0.25,
                x_T=x_T[rows],
                unconditional_guidance_scale=3.0,
                unconditional_conditioning=pick(uncond, rows),
                verbose=False,
                mask=mask[rows],
                token_indices=picked,
            )[0]

    together = run(list(range(batch)))
    assert torch.isfinite(together).all()
    for i in range(batch):
        assert_close(together[[i]], run([i]), 5e-4)


@pytest.mark.parametrize("variant", [RASGSettings(), RELEASE_RASG, RASGSettings(update="post-hoc")])
def test_one_step_lowers_the_cross_entropy(variant):
    """The settled sign: moving x along the guidance of a small step lowers S, whatever the variant."""
    model = diffusion(SMALL_UNET)
    mask = torch.zeros(2, 1, 16, 16)
    mask[0, :, 4:12, 4:12], mask[1, :, 2:9, 5:16] = 1, 1
    tokens = [[1, 2], [3]]
    cond, uncond = conditioning(mask, 5, 2)
    x, t = randn(9, (2, 4, 16, 16)), torch.full((2,), 801)
    target = mask_pyramid(mask, (2,))

    def step(settings, eta):
        sampler = RASGSampler(model, (2,), settings)
        sampler.make_schedule(50, ddim_eta=eta)
        index = int(np.searchsorted(sampler.ddim_timesteps, 801))
        options = {"target": target, "token_indices": tokens, "unconditional_conditioning": uncond}
        after, _ = sampler.p_sample_ddim(x, cond, t, index, 7.5, **options)
        return after, sampler.score

    def score(latents):
        sampler = RASGSampler(model, (2,), variant)
        return sampler.guided_output(latents, cond, t, None, target, tokens)[1]

    if variant.update == "post-hoc":
        guided, _ = step(dataclasses.replace(variant, scale=1e-4), 0.0)
        plain, _ = step(dataclasses.replace(variant, scale=0.0), 0.0)
    else:
        guided, _ = step(variant, 0.02)
        sampler = DDIMSampler(model)
        sampler.make_schedule(50)
        plain, _ = sampler.p_sample_ddim(x, cond, t, 40, 7.5, uncond)
    assert (guided - plain).abs().max() > 0
    assert (score(x + (guided - plain)) < score(x)).all()


def test_a_step_without_a_scale_is_not_guided_and_post_hoc_is_without_noise():
    model = diffusion(SMALL_UNET)
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:12, 4:12] = 1
    cond, uncond = conditioning(mask, 5, 1)
    x, t, target = randn(9, (1, 4, 16, 16)), torch.tensor([801]), mask_pyramid(mask, (2,))
    sampler = RASGSampler(model, (2,), RASGSettings(update="post-hoc", scale=0.0))
    sampler.make_schedule(50, ddim_eta=0.5)
    index = int(np.searchsorted(sampler.ddim_timesteps, 801))
    after, pred_x0 = sampler.p_sample_ddim(
        x, cond, t, index, target=target, token_indices=[[1]], unconditional_conditioning=uncond
    )
    e_t, _ = DDIMSampler.predict_eps(sampler, x, cond, t, 1.0, None)
    torch.testing.assert_close(after, sampler.step(e_t, pred_x0, index, torch.zeros_like(x)))
    after, pred_x0 = sampler.p_sample_ddim(x, cond, t, index, 2.0, uncond, target=target, token_indices=[[1]])
    e_t, _ = DDIMSampler.predict_eps(sampler, x, cond, t, 2.0, uncond)
    torch.testing.assert_close(after, sampler.step(e_t, pred_x0, index, torch.zeros_like(x)))


def test_options_that_ddim_has_too_have_its_defaults():
    for name in ("sample", "p_sample_ddim", "make_schedule"):
        own, ddim = (inspect.signature(getattr(cls, name)).parameters for cls in (RASGSampler, DDIMSampler))
        assert all(own[key].default == ddim[key].default for key in own.keys() & ddim.keys() - {"mask"})


def test_the_noise_has_unit_deviation_and_keeps_its_mean():
    gradient = 3 * randn(0, (2, 4, 8, 8)) + 1
    noise = standardize(gradient)
    torch.testing.assert_close(noise.flatten(1).std(1), torch.ones(2))
    torch.testing.assert_close(noise * gradient.flatten(1).std(1)[:, None, None, None], gradient)
    assert noise.flatten(1).mean(1).abs().min() > 0.1
    assert torch.equal(standardize(torch.zeros(1, 4, 8, 8)), torch.zeros(1, 4, 8, 8))


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_a_gradient_that_is_not_finite_does_not_pass_for_none(value):
    gradient = randn(0, (2, 4, 8, 8))
    gradient[1, 0, 0, 0] = value
    noise = standardize(gradient)
    assert noise[0].isfinite().all() and noise[1].isnan().any()


def test_a_bare_conditioning_stands_for_the_text():
    model = diffusion({**SMALL_UNET, "in_channels": 4}, conditioning_key="crossattn")
    sampler = RASGSampler(model, (2,))
    x, text = randn(1, (1, 4, 16, 16)), randn(2, (1, 9, 16))
    target = {2: torch.ones(1, 1, 8, 8)}
    expected, *others = (
        sampler.guided_output(x, c, torch.tensor([500]), None, target, [[1]])[2]
        for c in ({"c_crossattn": [text]}, [text], text)
    )
    assert all(torch.equal(gradient, expected) for gradient in others)


def test_a_score_corrector_is_refused():
    sampler = RASGSampler(None)
    with pytest.raises(UserError, match="no score_corrector"):
        sampler.p_sample_ddim(None, None, None, 0, target={}, token_indices=[], score_corrector=object())


def test_sigma_is_eta_times_the_formula_of_section_4(capsys):
    model = diffusion(SMALL_UNET)
    sampler = RASGSampler(model, (2,))
    sampler.make_schedule(50, ddim_eta=0.25)
    alphas = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    t, previous = sampler.ddim_timesteps, np.append(0, sampler.ddim_timesteps[:-1])
    a, a_prev = alphas[t], alphas[previous]
    np.testing.assert_allclose(
        sampler.ddim_sigmas, 0.25 * np.sqrt((1 - a_prev) / (1 - a)) * np.sqrt(1 - a / a_prev), rtol=1e-12
    )
    case, expected = golden("schedule_sd")
    release = RASGSampler(model, (2,), RELEASE_RASG)
    release.make_schedule(50, "descend", ddim_eta=1.0)
    assert np.array_equal(release.ddim_timesteps[::-1], expected["hdp20_t"].numpy())
    official = expected["hdp20_sigma_official"].numpy()
    np.testing.assert_allclose(release.ddim_sigmas[::-1][:-1], official[:-1], rtol=case["tolerance"]["rel"])
    assert np.isnan(official[-1]) and release.ddim_sigmas[0] == 0  # the release's last step wraps around
    release.make_schedule(50, ddim_eta=0.25)
    alphas = 1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    a, a_prev = alphas[t], alphas[previous]
    expected = 0.25 * np.sqrt((1 - a_prev) / (1 - a) * (1 - a / a_prev))
    np.testing.assert_allclose(release.ddim_sigmas, expected, rtol=1e-12)
    release.make_schedule(50)
    assert not release.ddim_sigmas.any()
    assert "".join(capsys.readouterr()) == ""


def test_scores_are_the_mean_over_heads_and_layers(small_model):
    unet = small_model.model.diffusion_model
    x, context = randn(1, (1, 9, 16, 16)), randn(2, (1, 9, 16))
    t = torch.tensor([500])
    logits = []
    with CrossAttentionScores(unet, (2,)) as scores, torch.no_grad():
        hooks = [
            attn.register_forward_pre_hook(lambda attn, args: logits.append((attn, *args)))
            for _, attn in scores.layers
        ]
        unet(x, t, context)
        mean = scores.mean()[2]
    for hook in hooks:
        hook.remove()
    expected = torch.stack(
        [
            torch.einsum(
                "bnhd,bmhd->bhnm",
                attn.to_q(features).unflatten(-1, (attn.heads, -1)),
                attn.to_k(text).unflatten(-1, (attn.heads, -1)),
            ).mean(1)
            * attn.dim_head**-0.5
            for attn, features, text in logits
        ]
    ).mean(0)
    assert len(logits) == 3  # one block on the way down and two on the way up
    assert_close(mean, expected, 1e-5)


def test_half_precision_gradients_do_not_vanish():
    model = diffusion(SMALL_UNET)
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:12, 4:12] = 1
    cond, uncond = conditioning(mask, 5, 1)
    args = (randn(9, (1, 4, 16, 16)), cond, torch.tensor([801]), uncond, mask_pyramid(mask, (2,)), [[1, 2]])
    sampler = RASGSampler(model, (2,), RELEASE_RASG)
    expected = standardize(sampler.guided_output(*args)[2])
    for dtype in (torch.bfloat16, torch.float16):
        model.model.to(dtype)
        noise = standardize(sampler.guided_output(*args)[2])
        assert torch.isfinite(noise).all()
        assert torch.cosine_similarity(noise.flatten(), expected.flatten(), dim=0) > 0.98
        model.model.float()


def test_wrong_numbers_of_masks_and_prompts_are_told(small_model):
    sampler = RASGSampler(small_model, (2,))
    with pytest.raises(UserError, match="batch of 2"):
        sampler.sample(2, 2, (4, 16, 16), mask=torch.ones(1, 1, 16, 16), token_indices=[[1], [2]])
    one_is_short = {1: torch.ones(2, 1, 16, 16), 2: torch.ones(1, 1, 8, 8)}
    sampler = RASGSampler(small_model, (1, 2))
    with pytest.raises(UserError, match="batch of 2"):
        sampler.sample(2, 2, (4, 16, 16), mask=one_is_short, token_indices=[[1], [2]])
