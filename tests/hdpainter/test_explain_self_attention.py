"""Explaining pictures: whom the pixels to fill listen to, and every objective that RASG can have."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hdpainter.cli import main
from hdpainter.explain import explain
from hdpainter.explain.explanation import with_objectives
from hdpainter.inpaint import FACTOR
from hdpainter.models.identity import identify
from hdpainter.painta import PAIntA
from hdpainter.settings import OBJECTIVES, Method
from ldm.util import UserError

PROMPT = "a red kite"
SETTINGS = {"steps": 4, "seed": 3}
PRINTED = Method.load("hd-painter-printed")  # its S is the one that is drawn, and its PAIntA is always on
PAINTA, RASG = replace(PRINTED, name="painta", rasg=None), replace(PRINTED, name="rasg", painta=None)
METHODS = [Method.load("stable-inpainting"), PAINTA, Method.load("hd-painter-release")]
INSIDE = 40, 20  # a pixel of the mask's larger part
GRIDS = {1: (6, 8), 2: (3, 4)}


@pytest.fixture(scope="module")
def sample(photo):
    return photo(64, 40)  # padded to 64 x 48


@pytest.fixture(scope="module")
def explained(painter, sample):
    return explain(painter, *sample, PROMPT, METHODS, frames=2, **SETTINGS).methods


def by_the_equations(painter, sample, method, listeners):
    """Self-attention before and after PAIntA at each step, {level: [n, 2, h, w]}, with the matrices of Eq. 5."""
    unet, steps, calls = painter.models.inpainting.model.diffusion_model, [], {}
    blocks = unet.transformer_blocks(GRIDS)

    def keep(block, inputs, _):
        calls.setdefault(block, inputs[0][-1].detach())  # the conditional half: of the first call in a step

    def close(sampler, pred_x0, step):
        painta = PAIntA.on(unet)
        acts = painta is not None and sampler.ddim_timesteps[-1 - step] > painta.settings.until
        heard = {level: [] for level in GRIDS}
        for stage, level, block in blocks:
            x = block.norm1(calls[block])
            c = painta.c[stage, level][0] if acts else torch.ones(len(x))
            c = c.masked_fill(painta.masks[level].flatten(), 1) if acts else c
            q, k = (t.view(len(x), block.attn1.heads, -1) for t in (block.attn1.to_q(x), block.attn1.to_k(x)))
            scores = torch.einsum("ihd,jhd->hij", q, k) / q.shape[-1] ** 0.5
            both = [scores.softmax(-1), (scores * c).softmax(-1)]
            heard[level].append(torch.stack([a.mean(0)[listeners(level)].mean(0) for a in both]))
        steps.append({level: torch.stack(found).mean(0) for level, found in heard.items()})
        calls.clear()

    handles = [block.register_forward_hook(keep) for _, _, block in blocks]
    with torch.no_grad():
        painter(*sample, PROMPT, method=method, superres=False, observer=close, **SETTINGS)
    for handle in handles:
        handle.remove()
    return {
        level: torch.stack([step[level] for step in steps]).view(len(steps), 2, *grid).numpy()
        for level, grid in GRIDS.items()
    }


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_what_the_part_to_fill_listens_to(painter, sample, explained, method):
    expected = by_the_equations(
        painter, sample, method, lambda level: torch.from_numpy(explained[method.name].fills[level].flatten())
    )
    trace = explained[method.name].trace
    for level, found in trace.self_attention.items():
        np.testing.assert_allclose(found, expected[level], rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(found.sum((2, 3)), 1, rtol=1e-5)
        of_steps = {"stable-inpainting": 0, "painta": 4, "hd-painter-release": 2}
        acts = of_steps[method.name]  # the first
        changed = (found[:, 0] != found[:, 1]).any((1, 2))
        assert changed.tolist() == [True] * acts + [False] * (4 - acts)


def test_what_one_pixel_listens_to(painter, sample):
    x, y = INSIDE
    one = explain(painter, *sample, PROMPT, [PAINTA], frames=2, pixel=INSIDE, **SETTINGS)
    assert one.pixel == INSIDE  # stage 1 has the picture's size here
    expected = by_the_equations(
        painter,
        sample,
        PAINTA,
        lambda level: [y // (FACTOR * level) * GRIDS[level][1] + x // (FACTOR * level)],
    )
    for level, found in one.methods["painta"].trace.self_attention.items():
        assert one.methods["painta"].fills[level][y // (FACTOR * level), x // (FACTOR * level)]
        np.testing.assert_allclose(found, expected[level], rtol=1e-4, atol=1e-7)
    assert {"self-attention", "self-attention-painta"} < set(one.figures)


def test_a_pixel_whose_cell_counts_as_known_has_the_nearest_to_fill(painter, photo):
    """At the mask's edge a cell of a coarse grid can be known: nearest neighbour looks at one of its pixels."""
    picture, _ = photo(64, 48)
    grey = np.zeros((48, 64), np.uint8)
    grey[0:20, 0:20] = 255  # on the grid of 16 pixels, cells 0 and 1 of each row and column
    grey[40, 63] = 255  # alone in its cell, which is looked at elsewhere
    explained = explain(painter, picture, grey, PROMPT, [PAINTA], frames=1, pixel=(63, 40), **SETTINGS)
    corner = explain(painter, picture, grey, PROMPT, [PAINTA], frames=1, pixel=(19, 19), **SETTINGS)
    assert explained.methods["painta"].fills[2].sum() == 4
    found, nearest = (e.methods["painta"].trace.self_attention[2] for e in (explained, corner))
    np.testing.assert_array_equal(found, nearest)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_is_followed_and_the_score_steered_by_is_among_them(painter, sample, objective):
    methods = with_objectives([RASG], [objective])
    explanation = explain(painter, *sample, PROMPT, methods, **SETTINGS)
    trace = explanation.methods[f"rasg-{objective}"].trace
    assert set(trace.objectives) == set(OBJECTIVES)
    np.testing.assert_allclose(trace.objectives[objective], trace.score, rtol=1e-5)
    assert f"rasg-{objective}/objectives-softmax" in explanation.arrays


def test_methods_without_an_objective_stay_single():
    methods = with_objectives([Method.load(name) for name in ("painta", "rasg", "post-hoc")], ["l1", "max"])
    assert [method.name for method in methods] == [
        "painta",
        "rasg-l1",
        "rasg-max",
        "post-hoc-l1",
        "post-hoc-max",
    ]
    assert [method.rasg.objective for method in methods[1:]] == ["l1", "max"] * 2


@pytest.mark.parametrize(
    ("pixel", "message"),
    [((64, 0), "outside the picture, whose last is 63,39"), ((63, 39), "63,39 is not in the mask")],
)
def test_a_pixel_that_is_not_filled_is_told(painter, sample, pixel, message):
    with pytest.raises(UserError, match=message):
        explain(painter, *sample, PROMPT, [PAINTA], pixel=pixel, **SETTINGS)


def test_command_line(painter, sample, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for image, name in zip(sample, ("a.png", "m.png"), strict=True):
        image.save(name)
    files = ("explain", "--image", "a.png", "--mask", "m.png", "--prompt", "a kite", "--out", "e")

    def run(*words, load=lambda *_: painter):
        code = main((*files, *words), load=load, identify=lambda *_: identify("mini", False))
        return code, "".join(capsys.readouterr())

    for words, message in {
        ("--pixel", "63,39"): "pixel 63,39 is not in the mask",
        ("--pixel", "-1,0"): "pixel",
        ("--pixel", "12"): "'12' is not X,Y in pixels",
        ("--objectives", "l2"): "invalid choice: 'l2'",
        (
            "--methods",
            "painta",
            "--objectives",
            "l1",
        ): "there is no objective in painta: add a method with RASG",
    }.items():
        code, output = run(*words, load=lambda *_: pytest.fail("loaded the model"))
        assert code == 2 and message in output and len(output.splitlines()) == 1, output
    words = ("--methods", "painta", "rasg", "--objectives", "l1", "max", "--pixel", "40,20")
    code, output = run(*words, "--steps", "1", "--frames", "1")
    assert code == 0 and "index.html written" in output
    made = {path.name for path in (tmp_path / "e").iterdir()}
    assert {"picture-rasg-l1.png", "picture-rasg-max.png", "self-attention-painta.png"} < made
