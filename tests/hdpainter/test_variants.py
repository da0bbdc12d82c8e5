"""Where the authors' release is not the paper: one test for each difference.

The numbers in the names are the rows of the table in docs/paper-vs-release.md. What the release computes is also
pinned as a whole by the golden cases in test_painta, test_rasg and test_superres.
"""

import hashlib
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from hdpainter.configs import read_model_config
from hdpainter.levels import mask_pyramid
from hdpainter.masks import prepare
from hdpainter.models.registry import PipelineSpec, pipeline_names
from hdpainter.objectives import bce
from hdpainter.painta import PAIntA, normalize, smooth
from hdpainter.prompts import token_indices
from hdpainter.rasg import CrossAttentionScores, RASGSampler, standardize
from hdpainter.settings import METHOD_FILES, Method, describe, method_names
from hdpainter.superres import latent_mask
from hdpainter.tensors import pyramid
from ldm.checkpoint import build
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.util import CONFIGS
from tests.hdpainter.test_painta import SMALL_UNET
from tests.hdpainter.test_rasg import conditioning, diffusion
from tests.support import randn

PAPER, RELEASE = Method.load("hd-painter-printed"), Method.load("hd-painter-release")
VARIANTS = [PAPER, RELEASE]


@pytest.fixture(scope="module")
def model():
    return diffusion(SMALL_UNET)


@pytest.fixture(scope="module")
def sd2():
    """The full-size UNet of Stable Inpainting 2, without weights."""
    return build(read_model_config(PipelineSpec.load("sd2").inpainting.config)).model.diffusion_model


def stages_of(unet, levels):
    return [stage for stage, _, _ in unet.transformer_blocks(levels)]


@pytest.mark.parametrize("method", VARIANTS, ids=lambda m: m.name)
def test_row_1_both_variants_descend(model, method):
    """Eq. 7 adds the gradient of a cross entropy that the text says is minimised; the release negates it."""
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:12, 4:12] = 1
    cond, uncond = conditioning(mask, 5, 1)
    x, t, target, tokens = randn(9, (1, 4, 16, 16)), torch.tensor([801]), mask_pyramid(mask, (2,)), [[1, 2]]
    sampler = RASGSampler(model, (2,), method.rasg)
    sampler.make_schedule(50, method.sampler.grid, ddim_eta=method.sampler.eta)
    index = int(np.argmin(abs(sampler.ddim_timesteps - 801)))
    options = {"target": target, "token_indices": tokens, "unconditional_conditioning": uncond}
    guided, pred_x0 = sampler.p_sample_ddim(x, cond, t, index, 7.5, **options)
    e_t, _ = DDIMSampler.predict_eps(sampler, x, cond, t, 7.5, uncond)
    noise = guided - sampler.step(e_t, pred_x0, index, torch.zeros_like(x))
    expected = -sampler.ddim_sigmas[index] * standardize(sampler.gradient)
    torch.testing.assert_close(noise, expected.float(), atol=1e-4, rtol=1e-3)
    before, after = (sampler.guided_output(z, cond, t, None, target, tokens)[1] for z in (x, x + 0.1 * noise))
    assert after < before


def test_row_2_sigma_of_cumulative_or_single_step_alphas(model):
    sigmas = []
    for method in VARIANTS:
        sampler = RASGSampler(model, (2,), method.rasg)
        sampler.make_schedule(50, "descend", ddim_eta=1.0)
        sigmas.append(sampler.ddim_sigmas[::-1][:-1])
    ratio = sigmas[0] / sigmas[1]
    assert ratio.min() > 10 and ratio.max() < 26
    # The published table of both formulas, eta 1.
    for t, official, paper in ((999, 0.0185, 0.4600), (519, 0.0147, 0.3012), (39, 0.0096, 0.0971)):
        i = (999 - t) // 20
        assert sigmas[1][i] == pytest.approx(official, abs=6e-5)
        assert sigmas[0][i] == pytest.approx(paper, abs=6e-5)
    assert (PAPER.sampler.eta, RELEASE.sampler.eta) == (0.25, 0.1)


def test_row_3_logits_are_shifted_by_one(model):
    scores, mask, weights = randn(1, (1, 9, 4)), torch.ones(1, 9), torch.tensor([[0.0, 1, 0, 1]])
    paper, release = (bce(scores - m.rasg.logit_shift, mask, weights, m.rasg.reduction) for m in VARIANTS)
    by_hand = -torch.nn.functional.logsigmoid(scores[0, :, [1, 3]])
    torch.testing.assert_close(paper[0], by_hand.sum())
    by_hand = -torch.nn.functional.logsigmoid(scores[0, :, [1, 3]] - 1)
    torch.testing.assert_close(release[0], by_hand.mean(0).sum())


def test_row_4_scores_before_the_softmax_of_five_layers_of_the_conditional_half(sd2):
    scores = CrossAttentionScores(sd2, PipelineSpec.load("sd2").rasg_levels)
    assert len(scores.layers) == 5  # input blocks 7 and 8, output blocks 3, 4 and 5
    assert stages_of(sd2, (4,)) == [7, 8, 13 + 3, 13 + 4, 13 + 5]
    assert scores.stop == 13 + 6


def test_row_5_painta_stops_at_half_of_the_steps():
    assert (PAPER.painta.until, RELEASE.painta.until) == (0, 500)


STRENGTHS = {  # of the table in the document: method, eta, mean eta sigma over 50 steps
    "the paper": ("hd-painter-printed", 0.25, 0.0709),
    "the authors' evaluation": ("hd-painter", 0.25, 0.0036),
    "the authors' command line": ("hd-painter-release", 0.1, 0.0014),
    "the diffusers port": ("hd-painter-diffusers", 0.01, 0.0028),
}


@pytest.mark.parametrize("source", STRENGTHS)
def test_mean_strength_of_the_guidance(source):
    """The first table of the document, recomputed from the model's betas alone and through the sampler."""
    name, eta, strength = STRENGTHS[source]
    method = Method.load(name)
    assert method.sampler.eta == eta
    sampler = RASGSampler(diffusion(SMALL_UNET), (2,), method.rasg)
    sampler.make_schedule(method.sampler.steps, method.sampler.grid, ddim_eta=eta)
    assert np.mean(sampler.ddim_sigmas) == pytest.approx(strength, abs=6e-5)
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alphas = 1 - betas if method.rasg.sigma == "per_step" else np.cumprod(1 - betas)
    first = 1 if method.sampler.grid == "uniform" else 19
    t = np.arange(first, 1000, 20)
    a, a_prev = alphas[t], alphas[np.append(0, t[:-1])]
    sigma = np.sqrt((1 - a_prev) / (1 - a) * (1 - a / a_prev))
    sigma[0] *= method.sampler.grid == "uniform"  # the release's last step goes to x_0
    assert np.mean(eta * sigma) == pytest.approx(strength, abs=6e-5)
    table = (CONFIGS.parent / "docs" / "paper-vs-release.md").read_text(encoding="utf-8")
    row = next(line for line in table.splitlines() if line.startswith(f"| {source}"))
    assert row.split("|")[-2].strip() == f"{strength:.4f}"


def test_hd_painter_is_the_release_with_the_etas_words_and_joining_of_the_authors_evaluation():
    ours = Method.load("hd-painter")
    for part in ("painta", "rasg", "masks"):
        assert getattr(ours, part) == getattr(RELEASE, part)
    assert ours.sampler == replace(RELEASE.sampler, eta=0.25)
    assert (ours.prompts, ours.known_region) == (PAPER.prompts, "exact")
    methods = {name: PipelineSpec.load(name).method for name in pipeline_names()}
    others = {
        "sd2-base": "bld-hd-painter",
        "sd15-base": "bld-hd-painter",
        "glide": "glide",
        "nuwa-lip": "nuwa-lip",
    }
    assert methods == dict.fromkeys(methods, "hd-painter") | others


def test_the_parts_of_hd_painter_differ_in_one_thing_a_row():
    """Table 2: switching a part on is all that happens from one row to the next."""
    whole = Method.load("hd-painter")
    for name, painta, rasg in (
        ("stable-inpainting", False, False),
        ("painta", True, False),
        ("rasg", False, True),
    ):
        assert Method.load(name) == replace(
            whole,
            name=name,
            painta=whole.painta if painta else None,
            rasg=whole.rasg if rasg else None,
            sampler=replace(whole.sampler, eta=0.25 if rasg else 0.0),
        )
    vanilla = Method.load("post-hoc")
    assert replace(vanilla, name="", rasg=None) == replace(Method.load("stable-inpainting"), name="")
    assert vanilla.rasg == replace(whole.rasg, update="post-hoc", sigma="cumulative", reduction="sum")


@pytest.mark.parametrize("name", method_names())
def test_a_method_is_described_in_one_place(name):
    """The README's table says what the method's file begins with, as do the help and the page."""
    sentence = describe(name)
    assert re.fullmatch(r"[A-Z].{20,110}\.", sentence) and (
        METHOD_FILES / f"{name}.yaml"
    ).read_text().startswith("# ")
    assert f"| `{name}` | {sentence} |" in (CONFIGS.parent / "README.md").read_text(encoding="utf-8")


def test_the_port_of_diffusers(model):
    port = Method.load("hd-painter-diffusers")
    ddim = DDIMSampler(model)
    ddim.make_schedule(port.sampler.steps, port.sampler.grid)
    assert (ddim.ddim_timesteps[0], ddim.ddim_timesteps[-1]) == (1, 981)
    assert port.painta.until == 499  # on while t >= 500
    mask = np.zeros((64, 64), bool)
    mask[10:30, 21:50] = True
    soft = pyramid([mask], [16], port.masks.rasg)[16]
    assert soft.min() >= 0 and soft.max() <= 1 and ((soft > 0.1) & (soft < 0.9)).any()
    assert set(pyramid([mask], [16], port.masks.levels)[16].unique().tolist()) == {0, 1}


def test_row_6_query_of_the_borrowed_projection(model):
    unet = model.model.diffusion_model
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:12, 4:12] = 1
    x, context = randn(1, (2, 9, 16, 16)), randn(2, (2, 9, 16))
    maps = {}
    for query in ("block_input", "after_self_attention"):
        variant = Method.load("painta").override({"painta.query": query}).painta
        with torch.no_grad(), PAIntA(unet, mask, [[1, 2]], (2,), variant) as painta:
            unet(x, torch.full((2,), 700), context)
        maps[query] = next(iter(painta.c.values()))
    assert not torch.allclose(*maps.values(), atol=1e-3)
    assert (PAPER.painta.query, RELEASE.painta.query) == tuple(maps)


def test_row_7_smoothing_kernel():
    point = torch.zeros(1, 1, 5, 5)
    point[..., 2, 2] = 1
    kernel = smooth(point, RELEASE.painta.smoothing)[0, 0, 1:4, 1:4]
    expected = [[0.0449, 0.1221, 0.0449], [0.1221, 0.3319, 0.1221], [0.0449, 0.1221, 0.0449]]
    torch.testing.assert_close(kernel, torch.tensor(expected), atol=5e-5, rtol=0)
    ones = smooth(torch.ones(1, 1, 3, 3), 0.5)[0, 0]
    assert ones[1, 1] == pytest.approx(1) and ones[0, 0] < 0.7  # zeros beyond the border
    assert PAPER.painta.smoothing is None


def test_row_8_median_of_an_even_count_is_the_lower_middle():
    c = torch.tensor([[0.1, 0.4, 0.2, 0.8]])
    torch.testing.assert_close(normalize(c), torch.tensor([[0.0, 0.25, 0.0, 0.75]]))


def test_row_9_mask_preparation():
    mask = np.zeros((64, 48), np.uint8)
    mask[20:30, 20:30], mask[40, 40] = 255, 1
    paper = prepare(mask, (64, 48), 64, PAPER.masks)
    release = prepare(mask, (64, 48), 64, RELEASE.masks)
    assert paper.shape == release.shape == (64, 64)
    assert paper.sum() == 100  # from 128 up, not dilated
    assert release.sum() == 100 + 40 + 5  # any value, one cross-shaped pixel more
    one_latent = {f: pyramid([release], [f], RELEASE.masks.concat)[f].sum() for f in (8,)}[8]
    assert one_latent > pyramid([release], [8], PAPER.masks.concat)[8].sum()
    assert (PAPER.masks.pad, RELEASE.masks.pad) == ("edge", "zero")


def test_row_10_prompts():
    assert PAPER.prompts.positive == PAPER.prompts.negative == ""
    assert RELEASE.prompts.positive == "Full HD, 4K, high quality, high resolution"
    letters = hashlib.sha256(
        RELEASE.prompts.negative.encode()
    ).hexdigest()  # of the text in its hd_inpaint.py
    assert letters == "ef19f6ca0eab3f9a46991ae12d54affc0d9aff7eb12faf6b4afc21982f37b1a7"
    assert token_indices("cat", PAPER.prompts.positive) == [1, 2]
    assert token_indices("cat", RELEASE.prompts.positive) == [1, 14]  # end of text of the extended prompt


def test_row_11_superres_mask():
    mask = np.zeros((256, 256), bool)
    mask[100:160, 100:160] = True
    paper, release = (latent_mask(mask, (64, 64), m.superres.mask) for m in VARIANTS)
    assert set(paper.unique().tolist()) == {0, 1} and paper.sum() == 15 * 15
    assert ((release > 0.01) & (release < 0.99)).any() and release.sum() > paper.sum()
    assert (RELEASE.superres.steps, RELEASE.superres.noise_level) == (20, 20)
    assert (PAPER.superres.grid, RELEASE.superres.grid) == ("uniform", "descend")


def test_row_12_known_region():
    assert (PAPER.known_region, RELEASE.known_region) == ("exact", "blended")
    assert (PAPER.rounding, RELEASE.rounding) == ("round", "truncate")


def test_row_13_baseline_and_timestep_grids(model):
    baseline = Method.load("stable-inpainting")
    assert (baseline.painta, baseline.rasg) == (None, None)
    sampler = baseline.sampler
    assert (sampler.steps, sampler.eta, sampler.guidance_scale) == (50, 0.0, 7.5)
    ddim = DDIMSampler(model)
    ddim.make_schedule(50, PAPER.sampler.grid)
    assert (ddim.ddim_timesteps[0], ddim.ddim_timesteps[-1]) == (1, 981)
    ddim.make_schedule(50, RELEASE.sampler.grid)
    assert (ddim.ddim_timesteps[0], ddim.ddim_timesteps[-1]) == (19, 999)


def test_row_14_the_paper_model_is_stable_inpainting_2():
    assert "sd2-inpainting" in PipelineSpec.load("sd2").inpainting.config
    assert "sd1-inpainting" in PipelineSpec.load("dreamshaper8").inpainting.config


def test_levels_of_painta_in_sd2(sd2):
    """Notes 12: every transformer of the 32x32 and 16x16 grids: inputs 4, 5, 7, 8, outputs 3 ... 8."""
    levels = PipelineSpec.load("sd2").painta_levels
    assert stages_of(sd2, levels) == [4, 5, 7, 8, *range(13 + 3, 13 + 9)]
    assert PAIntA(sd2, torch.zeros(1, 1, 64, 64), [[1]]).levels == levels
    assert RASGSampler(None).levels == PipelineSpec.load("sd2").rasg_levels


def test_reduction_changes_the_score_and_not_the_direction(model):
    """Notes 10: the mean over pixels instead of the sum of Eq. 9 is undone by the standard deviation."""
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:12, 4:12] = 1
    cond, _ = conditioning(mask, 5, 1)
    noises, scores = [], []
    for reduction in ("sum", "mean"):
        variant = PAPER.override({"rasg.reduction": reduction}).rasg
        sampler = RASGSampler(model, (2,), variant)
        _, score, gradient = sampler.guided_output(
            randn(9, (1, 4, 16, 16)), cond, torch.tensor([801]), None, mask_pyramid(mask, (2,)), [[1, 2]]
        )
        noises.append(standardize(gradient))
        scores.append(score)
    torch.testing.assert_close(noises[0], noises[1], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(scores[0], 64 * scores[1])
