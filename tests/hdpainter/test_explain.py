"""Explaining pictures: what is observed is what happened, and observing changes nothing."""

import re
import sys
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import Normalize
from PIL import Image

from hdpainter.cli import main
from hdpainter.explain import explain
from hdpainter.explain.animation import animate
from hdpainter.explain.panels import Bar, Cell, Panels, readable
from hdpainter.inpaint import Inpainting
from hdpainter.masks import prepare
from hdpainter.models.identity import identify
from hdpainter.painta import PAIntA
from hdpainter.prompts import token_indices
from hdpainter.settings import COMPARED, Method, PAIntASettings, SamplerSettings
from ldm.modules.attention import CrossAttention
from ldm.util import UserError

PROMPT = "a red unbelievability"  # the last word has several tokens
PRINTED = Method.load("hd-painter-printed")  # its S is the one that is drawn, and its PAIntA is always on
SETTINGS = {"steps": 4, "seed": 3, "negative_prompt": "blurry"}


@pytest.fixture(scope="module")
def sample(photo):
    return photo(64, 40)  # padded to 64 x 48


@pytest.fixture(scope="module")
def explanation(painter, sample):
    return explain(painter, *sample, PROMPT, frames=3, **SETTINGS)


@pytest.mark.parametrize("method", [*COMPARED, "post-hoc", "hd-painter-release"])
def test_the_picture_is_the_one_made_unobserved(painter, sample, explanation, method):
    unet = painter.models.inpainting.model.diffusion_model
    if method in COMPARED:
        observed = explanation.methods[method].result
    else:
        observed = explain(painter, *sample, PROMPT, [method], **SETTINGS).methods[method].result
    assert not any(module._forward_pre_hooks for module in unet.modules())
    plain = painter(*sample, PROMPT, method=method, superres=False, **SETTINGS)
    assert observed.image.tobytes() == plain.image.tobytes()
    assert observed.low_res.tobytes() == plain.low_res.tobytes()


def test_nothing_stays_behind_after_an_error(painter, sample):
    unet = painter.models.inpainting.model.diffusion_model

    def cancel(*_):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        explain(painter, *sample, PROMPT, progress=cancel, **SETTINGS)
    assert not any(module._forward_pre_hooks for module in unet.modules())
    assert PAIntA.on(unet) is None


def test_the_observer_sees_every_step(painter, sample):
    seen = []
    painter(
        *sample,
        PROMPT,
        method="painta",
        superres=False,
        observer=lambda sampler, pred_x0, step: seen.append(
            (len(sampler.ddim_timesteps), pred_x0.shape, step)
        ),
        **SETTINGS,
    )
    assert seen == [(4, (1, 4, 6, 8), step) for step in range(4)]


def first_step_attention(painter, sample, layer_level):
    """The conditional half's softmax of every token at the first step, [h, w, 77], by plain formulas."""
    model = painter.models.inpainting
    picture, mask = sample
    method = Method.load("stable-inpainting")
    pixels = np.pad(np.array(picture), [(0, 8), (0, 0), (0, 0)])
    fill = prepare(np.array(mask), (40, 64), 16, method.masks)
    cond, _ = Inpainting(model).conditioning([pixels], [fill], [PROMPT], method)
    maps, handles = [], []

    def look(layer, inputs, _):
        q, k, _ = layer.project(*inputs)
        heads = zip(q.chunk(layer.heads, -1), k.chunk(layer.heads, -1), strict=True)
        maps.append(torch.stack([(a @ b.mT / layer.dim_head**0.5).softmax(-1) for a, b in heads]).mean(0))

    for name, layer in model.named_modules():
        if isinstance(layer, CrossAttention) and name.endswith("attn2"):
            handles.append(layer.register_forward_hook(look))
    with torch.no_grad():
        model.apply_model(
            torch.randn(1, 4, 6, 8, generator=torch.Generator().manual_seed(3)), torch.tensor([999]), cond
        )
    for handle in handles:
        handle.remove()
    h, w = 6 // layer_level, 8 // layer_level
    return torch.stack([m[0] for m in maps if m.shape[1] == h * w]).mean(0).view(h, w, 77).numpy()


@pytest.mark.parametrize("level", [1, 2])
def test_attention_is_that_of_the_conditional_half(painter, sample, explanation, level):
    assert explanation.methods["rasg"].trace.timesteps.tolist() == [999, 749, 499, 249]
    expected = first_step_attention(painter, sample, level)
    tokens = token_indices(PROMPT)
    groups = [[0], [1], [2], tokens[2:-1], tokens[-1:], range(tokens[-1] + 1, 77)]
    assert explanation.columns == ["<start>", "a", "red", "unbelievability", "<end>", "<rest>"]
    assert len(groups[3]) > 1
    # PAIntA changes the first step already, RASG only what comes after it.
    for method in ("stable-inpainting", "rasg"):
        found = explanation.methods[method].trace.attention[level]
        assert found.shape == (4, 6, *expected.shape[:2])
        for column, group in enumerate(groups):
            np.testing.assert_allclose(
                found[0, column], expected[..., list(group)].sum(-1), atol=1e-6, rtol=1e-5
            )
    for explained in explanation.methods.values():
        np.testing.assert_allclose(explained.trace.attention[level].sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("guidance_scale", [7.5, 1.0])
def test_the_objective_is_rasgs_score(painter, sample, guidance_scale):
    methods = [
        replace(PRINTED, name="guided", painta=None),
        replace(PRINTED, name="plain", painta=None, rasg=None),
    ]
    explained = explain(painter, *sample, PROMPT, methods, guidance_scale=guidance_scale, **SETTINGS).methods
    guided, plain = explained["guided"].trace, explained["plain"].trace
    np.testing.assert_allclose(guided.objectives["bce"], guided.score, rtol=1e-5)
    np.testing.assert_allclose(plain.objectives["bce"][0], guided.score[0], rtol=1e-5)
    assert guided.objectives["bce"][-1] < plain.objectives["bce"][-1]  # which is what RASG is for
    assert plain.score is plain.gradient is None
    assert guided.gradient.shape == (4, 4, 6, 8)


def test_agreement_is_what_the_objective_measures(painter, sample):
    """With an empty prompt ind(τ) is one token, so that S is the cross entropy of the agreement itself."""
    explanation = explain(painter, *sample, "", [PRINTED], **SETTINGS)
    trace = explanation.methods[PRINTED.name].trace
    assert list(trace.agreement) == [2]
    fill = np.pad(explanation.mask, [(0, 8), (0, 0)], mode="edge")[::16, ::16]
    found = np.where(fill, trace.agreement[2], 1 - trace.agreement[2])
    np.testing.assert_allclose(-np.log(found).sum((1, 2)), trace.objectives["bce"], rtol=1e-5)


def test_c_is_paintas(painter, sample, explanation):
    recorded = []
    unet = painter.models.inpainting.model.diffusion_model
    painter(
        *sample,
        PROMPT,
        method=PRINTED,
        superres=False,
        observer=lambda *_: recorded.append({key: c.clone() for key, c in PAIntA.on(unet).c.items()}),
        **SETTINGS,
    )
    trace = explain(painter, *sample, PROMPT, [PRINTED], **SETTINGS).methods[PRINTED.name].trace
    for level, (h, w) in {1: (6, 8), 2: (3, 4)}.items():
        blocks = [[c[0] for (_, factor), c in step.items() if factor == level] for step in recorded]
        expected = torch.stack([torch.stack(step).mean(0) for step in blocks]).view(4, h, w)
        np.testing.assert_array_equal(trace.c[level], expected.numpy())
    assert explanation.methods["rasg"].trace.c == {}


def test_c_is_empty_where_painta_is_off(painter, sample):
    trace = explain(painter, *sample, PROMPT, ["hd-painter"], **SETTINGS).methods["hd-painter"].trace
    assert (trace.timesteps > 500).tolist() == [True, True, False, False]
    for c in trace.c.values():
        assert np.isfinite(c[:2]).all() and np.isnan(c[2:]).all()


def test_painta_that_is_never_on_can_be_drawn(painter, sample):
    never = Method("never", SamplerSettings(steps=2), PAIntASettings(until=999))
    explanation = explain(painter, *sample, PROMPT, [never])
    assert all(np.isnan(c).all() for c in explanation.methods["never"].trace.c.values())
    assert "painta-c" in explanation.figures


def test_the_score_of_a_single_step_can_be_seen(painter, sample):
    explanation = explain(painter, *sample, "a kite", ["rasg"], steps=1, frames=1)
    figure = explanation.figures["rasg-score"]
    width, height = figure.size
    middle = np.array(figure.crop((width // 10, height // 6, width // 4, height // 3)))
    assert (middle == (31, 119, 180)).all(-1).any()  # matplotlib's first colour


def test_predictions_end_in_the_picture(explanation):
    for explained in explanation.methods.values():
        assert explained.frames == [0, 2, 3]
        assert [picture.size for picture in explained.predictions] == [(64, 40)] * 3
        # The last step only leads from x_0 to the noise level of t = 1.
        last, low_res = (np.array(p, float) for p in (explained.predictions[-1], explained.result.low_res))
        first = np.array(explained.predictions[0], float)
        assert abs(last - low_res).mean() < abs(first - low_res).mean() / 5


def test_every_figure_is_drawn(explanation):
    per_method = [f"attention-{kind}-{name}" for name in COMPARED for kind in ("levels", "steps")]
    shared = ["results", "x0", "attention", "rasg-score", "rasg-agreement", "rasg-gradient", "painta-c"]
    heard = ["self-attention", "self-attention-painta", "self-attention-hd-painter"]
    assert list(explanation.figures) == shared + heard + per_method
    for figure in explanation.figures.values():
        assert figure.mode == "RGB" and min(figure.size) > 150
        assert (np.array(figure)[:3] == 255).all()  # nothing runs over the edge


def test_saved_files(explanation, tmp_path):
    for _ in range(2):
        page = explanation.save(tmp_path / "new")
    names = {path.name for path in page.parent.iterdir()}
    pictures = {f"picture-{name}.png" for name in COMPARED} | {f"{name}.png" for name in explanation.figures}
    assert names == pictures | {"index.html", "arrays.npz", "x0.gif"}
    assert set(re.findall(r'src="(.*?)"', page.read_text("utf-8"))) == {
        f"{name}.png" for name in explanation.figures
    }
    for name in COMPARED:  # each method's own figures fold together, under its name
        part = re.search(rf'<details id="of-{name}".*?</details>', page.read_text("utf-8"), re.DOTALL)
        own = {
            figure for figure in explanation.figures if re.fullmatch(rf"(self-)?attention.*?-{name}", figure)
        }
        own = {figure for figure in own if name == "hd-painter" or not figure.endswith("-hd-painter")}
        assert set(re.findall(r'src="(.*?)\.png"', part[0])) == own
    with Image.open(page.parent / "x0.gif") as motion:
        assert motion.n_frames == 3 and motion.info["loop"] == 0
        motion.seek(2)
        shown = np.array(motion.convert("RGB"), int)
    first, _, last = (np.abs(shown - np.array(frame)).mean() for frame in animate(explanation))
    assert last < first / 2
    saved = Image.open(page.parent / "picture-rasg.png")
    assert saved.tobytes() == explanation.methods["rasg"].result.image.tobytes()
    with np.load(page.parent / "arrays.npz") as arrays:
        assert set(arrays) == set(explanation.arrays)
        for name, values in explanation.arrays.items():
            np.testing.assert_array_equal(arrays[name], values)


def test_the_page_takes_any_prompt(painter, sample, tmp_path):
    prompt = "<b>$x_{$ & a $5"
    explanation = explain(painter, *sample, prompt, ["stable-inpainting"], steps=1, frames=1)
    page = explanation.save(tmp_path).read_text("utf-8")
    assert "<b>" not in page and "&lt;b&gt;$x_{$ &amp; a $5" in page
    assert "rasg-gradient" not in explanation.figures and "painta-c" not in explanation.figures


@pytest.mark.parametrize("words", [0, 1, 9, 100])
def test_every_word_that_the_encoder_sees_has_a_column(painter, sample, words):
    explanation = explain(painter, *sample, "word " * words, ["rasg"], steps=1, frames=1)
    trace = explanation.methods["rasg"].trace
    assert explanation.columns == ["<start>", *["word"] * min(words, 75), "<end>", "<rest>"]
    assert trace.attention[1].shape[1] == len(explanation.columns)
    np.testing.assert_allclose(trace.attention[1].sum(1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ["rasg", "rasg"]}, "none twice"),
        ({"methods": []}, "at least one"),
        ({"methods": [Method("a/b")]}, "'a/b' does not fit"),
        ({"frames": 0}, "frames is 0"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_mistakes_are_told(painter, sample, change, message):
    with pytest.raises(UserError, match=message):
        explain(painter, *sample, PROMPT, **change)


@settings(max_examples=10, deadline=None)
@given(values=st.lists(st.floats(0, 1), min_size=4, max_size=4), column=st.sampled_from([None, 0]))
def test_a_map_has_the_colours_of_its_bar(values, column):
    content = np.array(values).reshape(2, 2)
    scale = Normalize(0, 1)
    figure = Panels(np.zeros((64, 64), bool)).draw(
        "", [[Cell(content, 32, scale)]], bars=[Bar(scale, column=column)]
    )
    pixels = np.array(figure)
    top, side = 17, round(1.75 * 110 / 4)  # the margin of 0.15 inches; a quarter of a panel
    for (i, j), value in np.ndenumerate(content):
        found = pixels[top + side * (2 * i + 1), top + side * (2 * j + 1)]
        np.testing.assert_allclose(found, np.array(matplotlib.colormaps["magma"](value)[:3]) * 255, atol=3)


def test_a_missing_matplotlib_is_told_before_the_model_loads(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    words = (
        "explain",
        "--image",
        "a.png",
        "--mask",
        "m.png",
        "--prompt",
        "a kite",
        "--out",
        str(tmp_path / "e"),
    )
    assert main(words, load=lambda *_: pytest.fail("loaded the model")) == 2
    assert "the figures need matplotlib: pip install" in capsys.readouterr().err


def test_command_line(painter, sample, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for image, name in zip(sample, ("a.png", "m.png"), strict=True):
        image.save(name)
    loads = []

    def load(*args):
        loads.append(args)
        return painter

    def known(model, superres):
        return {} if model == "sd2" else identify(model, superres)

    def run(*words):
        words = (
            "explain",
            "--image",
            "a.png",
            "--mask",
            "m.png",
            "--prompt",
            "a kite",
            "--out",
            "new/e",
            *words,
        )
        code = main(words, load=load, identify=known)
        return code, "".join(capsys.readouterr())

    for words, message in {
        ("--methods", "best"): "unknown method 'best'",
        ("--model", "nosuch"): "unknown model 'nosuch'",
        ("--methods", "rasg", "rasg"): "none twice",
        ("--frames", "0"): "--frames must be at least 1",
        ("--eta", "-1"): "eta is -1",
        ("--known-region", "exact"): "unrecognized arguments",
    }.items():
        code, output = run(*words)
        assert code == 2 and message in output and len(output.splitlines()) == 1
    assert not loads and not (tmp_path / "new").exists()
    words = ("--methods", "rasg", "--steps", "2", "--frames", "2", "--seed", "5", "--model", "sd2")
    code, output = run(*words)
    assert code == 0 and "index.html written: 9 figures" in output and loads == [("sd2", None, None, False)]
    plain = painter(*sample, "a kite", method="rasg", steps=2, seed=5, superres=False).image
    assert Image.open("new/e/picture-rasg.png").tobytes() == plain.tobytes()
    code, output = run(*words)
    assert code == 2 and "--overwrite" in output
    assert run(*words, "--overwrite")[0] == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "results.png").write_bytes(b"mine")
    code, output = run(*words, "--out", "other")
    assert code == 2 and "other is not empty" in output


def test_a_window_is_explained_as_a_picture_of_its_own(painter, photo):
    picture, mask = photo(96, 80)[0], Image.new("L", (96, 80))
    mask.paste(255, (70, 50, 80, 60))
    explained = explain(painter, picture, mask, "boat", ["painta"], frames=1, steps=2, only_masked=10)
    box = (60, 40, 90, 70)
    alone = explain(painter, picture.crop(box), mask.crop(box), "boat", ["painta"], frames=1, steps=2)
    assert explained.image.size == (64, 64) and explained.mask.sum() == alone.mask.sum() > 64
    one, other = (e.methods["painta"].result.image for e in (explained, alone))
    assert one.size == (30, 30) and one.tobytes() == other.tobytes()
    mask.paste(255, (2, 2, 8, 8))
    with pytest.raises(
        UserError, match="the mask has 2 holes to fill one after the other: explain them one by"
    ):
        explain(painter, picture, mask, "boat", ["painta"], frames=1, steps=2, each_hole=True)


def test_words_that_the_font_lacks_have_their_number(painter, sample, recwarn):
    explained = explain(painter, *sample, "红色的钟 café", ["painta"], frames=1, steps=1)
    assert explained.figures and not [warning for warning in recwarn if "Glyph" in str(warning.message)]
    assert readable("café", "word 2") == "café" and readable("红色的钟", "word 1") == "word 1"
