"""HDPainter as a user calls it: any size in, the same size out, nothing outside the mask touched."""

import json
import pkgutil
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hdpainter.blend import blend
from hdpainter.images import save_png
from hdpainter.jobs.painting import remark
from hdpainter.models.devices import dtype_policy
from hdpainter.painta import PAIntA
from hdpainter.pipeline import HDPainter
from hdpainter.settings import Method, method_names
from hdpainter.superres import SuperResolution
from ldm.util import UserError


def quick(name="hd-painter", steps=2) -> Method:
    """A method with few steps in both stages."""
    return Method.load(name).override({"sampler.steps": steps, "superres.steps": steps})


FAST = {"method": quick(), "seed": 3}


def outside_changed(result, picture, mask) -> int:
    known = np.array(mask) < 128
    return int(np.abs(np.array(result.image).astype(int) - np.array(picture))[known].max(initial=0))


@pytest.mark.parametrize("method", method_names("ldm"))
def test_every_method_paints(painter, photo, method):
    picture, mask = photo(256, 192)
    result = painter(picture, mask, "a red kite", method=quick(method), seed=3)
    assert result.image.size == (256, 192) and result.low_res.size == (64, 48)
    filled = np.array(mask) >= 128
    assert (np.array(result.image)[filled] != np.array(picture)[filled]).any()
    if method == "hd-painter-release":
        assert outside_changed(result, picture, mask) > 0  # its Poisson blending moves known pixels
    else:
        assert outside_changed(result, picture, mask) == 0
    assert json.loads(json.dumps(result.metadata))["method"]["name"] == method
    assert PAIntA.on(painter.models.inpainting.model.diffusion_model) is None


def test_methods_differ(painter, photo):
    picture, mask = photo(96, 96)
    images = [
        np.array(painter(picture, mask, "a red kite", method=quick(name), superres=False, seed=3).low_res)
        for name in ("stable-inpainting", "painta", "rasg", "hd-painter", "post-hoc")
    ]
    for i, a in enumerate(images):
        for b in images[:i]:
            assert (a != b).any()


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from(["hd-painter", "hd-painter-release"]))
def test_any_size(painter, photo, width, height, method):
    picture, mask = photo(width, height)
    result = painter(picture, mask, "boat", method=quick(method, 1), known_region="exact")
    assert result.image.size == (width, height)
    assert outside_changed(result, picture, mask) == 0


def test_a_batch_equals_one_by_one(painter, photo):
    """Different pictures, sizes, masks, prompts (numbers of words) and seeds."""
    sizes = [(96, 96), (80, 80), (120, 64), (96, 96)]
    pairs = [photo(*size, seed=i) for i, size in enumerate(sizes)]
    pairs[3] = (pairs[3][0], Image.new("L", (96, 96), 255))
    prompts, seeds = ["boat", "a very big wooden boat", "", "two red apples"], [5, 6, 7, 5]
    images, masks = zip(*pairs, strict=True)
    together = painter(list(images), list(masks), prompts, seed=seeds, method=quick())
    assert len(together) == 4
    for result, image, mask, prompt, seed in zip(together, images, masks, prompts, seeds, strict=True):
        single = painter(image, mask, prompt, seed=seed, method=quick())
        difference = np.abs(np.array(result.image).astype(int) - np.array(single.image))
        assert difference.max() <= 1 and result.metadata["seed"] == seed


@pytest.mark.parametrize(
    "step",
    [
        "hdpainter.inpaint.Inpainting.__call__",
        "hdpainter.pipeline.HDPainter._inpaint",
        "hdpainter.pipeline.HDPainter._paint",
    ],
)
def test_a_picture_that_is_lost_on_the_way_is_missed(painter, photo, monkeypatch, step):
    picture, mask = photo(64, 64)
    whole = pkgutil.resolve_name(step)
    monkeypatch.setattr(step, lambda *args, **options: whole(*args, **options)[:-1])
    with pytest.raises(ValueError, match=r"zip\(\)"):
        painter([picture] * 2, mask, "boat", superres=False, **FAST)


def test_seeds(painter, photo):
    picture, mask = photo(64, 64)
    first, again, other = (
        np.array(painter(picture, mask, "boat", seed=seed, method=quick()).image) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_known_region_is_exact_in_the_saved_png(painter, photo, tmp_path):
    picture, mask = photo(200, 150)
    result = painter(picture, mask, "boat", **FAST)
    save_png(result.image, tmp_path / "out.png", result.metadata)
    known = np.array(mask) < 128
    with Image.open(tmp_path / "out.png") as saved:
        assert np.array_equal(np.array(saved)[known], np.array(picture)[known])
        assert json.loads(saved.text["hdpainter"])["prompt"] == "boat"


def test_superres_is_used_where_it_helps(painter, photo):
    small, equal, large = photo(60, 40), photo(64, 40), photo(256, 100)
    assert not painter(*small, "boat", **FAST).metadata["superres"]
    assert not painter(*equal, "boat", **FAST).metadata["superres"]
    assert painter(*large, "boat", **FAST).metadata["superres"]
    assert not painter(*large, "boat", superres=False, **FAST).metadata["superres"]


def test_the_time_of_a_batch_is_shared(painter, photo):
    started = time.perf_counter()
    results = painter([photo(64, 48)[0]] * 4, photo(64, 48)[1], "boat", superres=False, **FAST)
    spent = time.perf_counter() - started
    assert 0 < sum(result.metadata["seconds"]["inpainting"] for result in results) <= spent


@pytest.mark.parametrize(("height", "draft", "enlarged"), [(500, 68, 45), (300, 41, 27)])
def test_larger_than_stage_2_and_larger_stage_1(painter, photo, monkeypatch, height, draft, enlarged):
    picture, mask = photo(700, height)
    sizes, upscale = [], SuperResolution.__call__

    def look(stage, image, low_res, *rest):
        sizes.append(low_res.shape[:2])
        return upscale(stage, image, low_res, *rest)

    monkeypatch.setattr(SuperResolution, "__call__", look)
    result = painter(picture, mask, "boat", size=96, **FAST)
    assert result.image.size == (700, height) and result.low_res.size == (96, draft)
    assert sizes == [(enlarged, 64)]
    assert outside_changed(result, picture, mask) == 0
    facts = result.metadata
    assert facts["stage1_size"] == [96, draft] and "holes" not in facts
    assert all(seconds == round(seconds, 3) for seconds in facts["seconds"].values())


def test_stage_2_fills_all_that_a_thin_stroke_touches(painter, photo, monkeypatch):
    picture, _ = photo(1024, 512)
    mask = np.zeros((512, 1024), np.uint8)
    mask[100, 50:900] = mask[300:400, 300:400] = 255  # the stroke is a quarter of a pixel wide in stage 2
    seen = []

    def look(stage, image, low_res, fill, *_):
        seen.append(fill)
        return image

    monkeypatch.setattr(SuperResolution, "__call__", look)
    painter(picture, mask, "boat", **FAST)
    assert seen[0].shape == (128, 256) and seen[0][25, 13:225].all()


def test_settings_are_recorded_and_reproduce_the_picture(painter, photo):
    picture, mask = photo(100, 100)
    given = {"guidance_scale": 3.0, "eta": 0.5, "negative_prompt": "blurry"}
    result = painter(picture, mask, "boat", **FAST, **given)
    recorded = result.metadata["method"]
    assert recorded["sampler"] == {
        "steps": 2,
        "grid": "descend",
        "guidance_scale": 3.0,
        "eta": 0.5,
        "background": "conditioned",
    }
    assert recorded["prompts"]["negative"] == "blurry"
    again = painter(picture, mask, "boat", method=Method.from_values(recorded), seed=3)
    assert np.array_equal(np.array(again.image), np.array(result.image))


def test_what_the_model_decides_is_recorded_too(painter, photo, monkeypatch):
    picture, mask = photo(200, 120)
    monkeypatch.setattr(painter.models, "spec", replace(painter.models.spec, crop_margin=8))
    result = painter(picture, mask, "boat", **FAST)
    recorded = Method.from_values(result.metadata["method"])
    assert recorded.superres.crop_margin == 8
    other = painter(picture, mask, "boat", crop_margin=3, **FAST).metadata["method"]
    assert other["superres"]["crop_margin"] == 3
    monkeypatch.setattr(painter.models, "spec", replace(painter.models.spec, crop_margin=None))
    again = painter(picture, mask, "boat", method=recorded, seed=3)
    assert np.array_equal(np.array(again.image), np.array(result.image))


def test_long_and_empty_prompts(painter, photo):
    picture, mask = photo(64, 64)
    long = painter(picture, mask, "boat " * 200, **FAST)
    assert long.metadata["words_cut"] == 125
    assert painter(picture, mask, "", **FAST).metadata["words_cut"] == 0
    blurry = painter(picture, mask, "boat", negative_prompt="blurry, " * 60, **FAST)
    assert blurry.metadata["words_cut"] == 0
    assert blurry.metadata["negative_words_cut"] == 23
    assert remark(blurry.metadata) == "; the negative prompt was too long, its last 23 words were cut"


def test_the_methods_own_words_are_not_the_users_that_were_cut(painter, photo):
    picture, mask = photo(64, 64)
    method = Method.load("hd-painter-release").override({"sampler.steps": 1})
    result = painter(picture, mask, "boat " * 75, method=method, superres=False)
    assert result.metadata["words_cut"] == 0


def test_progress_and_cancel(painter, photo):
    picture, mask = photo(128, 128)
    seen = []
    painter(picture, mask, "boat", progress=lambda *step: seen.append(step), **FAST)
    assert seen[:2] == [("inpainting", 1, 2), ("inpainting", 2, 2)]
    assert seen[2:] == [("superres", 1, 2), ("superres", 2, 2)]

    def cancel(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        painter(picture, mask, "boat", progress=cancel, **FAST)
    assert PAIntA.on(painter.models.inpainting.model.diffusion_model) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "hd-paint"}, "unknown method 'hd-paint'"),
        ({"steps": 0}, "steps is 0"),
        ({"eta": -1.0}, "eta is -1"),
        ({"prompt": 7}, "prompt must be text"),
        ({"seed": [1, 2]}, "2 .* for 1 images"),
        ({"seed": -1}, "seed is -1: give a number from 0"),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
        ({"seed": None}, "seed must be a whole number, not None"),
        ({"size": 0}, "size is 0: give a number from 1"),
        ({"size": 99.5}, "size must be a whole number, not 99.5"),
        ({"eta": 4.5}, "eta is 4.5: give a number from 0 to 4"),
        ({"image": None}, "image is a NoneType: give a path"),
        ({"mask": Image.new("L", (64, 64))}, "marks nothing to fill"),
        ({"mask": Image.new("L", (9, 9), 255)}, "9 x 9 pixels but the image is 64 x 64"),
        ({"image": "missing.png"}, "missing.png"),
    ],
)
def test_bad_input_is_told_in_one_line(painter, photo, change, message):
    picture, mask = photo(64, 64)
    arguments = {"image": picture, "mask": mask, "prompt": "boat", **change}
    with pytest.raises(UserError, match=message) as error:
        painter(**arguments)
    assert "\n" not in str(error.value)


def test_bfloat16_is_finite_and_close(tiny_pipeline, painter, photo):
    picture, mask = photo(128, 32)  # small: many CPUs compute slowly in bfloat16
    half = HDPainter.from_config(tiny_pipeline, device="cpu", dtype="bfloat16")
    result = half(picture, mask, "boat", **FAST)
    expected = painter(picture, mask, "boat", **FAST)
    difference = np.abs(np.array(result.image).astype(float) - np.array(expected.image))
    assert difference.mean() < 8
    assert result.metadata["dtype"] == {"inpainting": "bfloat16", "superres": "bfloat16"}


def test_dtype_policy():
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert dtype_policy(None, gpu)[""] is torch.float16
    assert dtype_policy(None, gpu)["upscaler.first_stage_model"] is torch.float32
    assert set(dtype_policy("bfloat16", gpu).values()) == {torch.bfloat16}
    with pytest.raises(UserError, match="float64"):
        dtype_policy("float64", cpu)


@pytest.mark.parametrize(
    "capability, upscaler",
    [("avx512_bf16", torch.bfloat16), ("amx_bf16", torch.bfloat16), ("avx2", torch.float32)],
)
def test_stage_2_is_in_bfloat16_where_the_cpu_has_it(monkeypatch, capability, upscaler):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True})
    policy = dtype_policy(None, torch.device("cpu"))
    assert policy[""] is torch.float32 and policy.get("upscaler", policy[""]) is upscaler


def test_stage_1_needs_no_upscaler_file(tiny_pipeline, photo, tmp_path):
    for file in tiny_pipeline.parent.iterdir():
        if file.name != "tiny-upscaler.safetensors":
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(UserError, match=r"tiny-upscaler.safetensors"):
        HDPainter.from_config(tmp_path / "tiny.yaml", device="cpu")
    painter = HDPainter.from_config(tmp_path / "tiny.yaml", device="cpu", superres=False)
    assert painter(*photo(256, 64), "boat", superres=False, **FAST).image.size == (256, 64)


def test_options_of_stage_2_reach_it(painter, photo):
    picture, mask = photo(256, 256)
    whole = np.array(painter(picture, mask, "boat", **FAST).image)
    for option in ({"crop_margin": 4}, {"tile": 256}):
        other = painter(picture, mask, "boat", **FAST, **option)
        assert outside_changed(other, picture, mask) == 0
        assert other.metadata["method"]["superres"] | option == other.metadata["method"]["superres"]
        if "crop_margin" in option:
            assert (np.array(other.image) != whole).any()


def test_a_model_may_have_a_margin_for_stage_2(painter, photo, monkeypatch):
    picture, mask = photo(256, 256)
    cropped, wider = (painter(picture, mask, "boat", **FAST, crop_margin=m).image for m in (4, 9))
    monkeypatch.setattr(painter.models, "spec", replace(painter.models.spec, crop_margin=4))
    assert painter(picture, mask, "boat", **FAST).image.tobytes() == cropped.tobytes()
    assert painter(picture, mask, "boat", **FAST, crop_margin=9).image.tobytes() == wider.tobytes()


def test_without_a_word_nothing_is_trusted_and_all_stays_on_the_device(tiny_pipeline):
    models = HDPainter.from_config(tiny_pipeline).models
    assert (models.trusted, models.offload) == (False, False)


def test_unknown_devices_are_told(tiny_pipeline):
    for name in ("cuda:99", "toaster", "mps"):
        with pytest.raises(UserError, match=f"device '{name}' is not available"):
            HDPainter.from_config(tiny_pipeline, device=name)


def test_the_joining_knows_how_much_larger_the_picture_is(painter, photo):
    picture, mask = photo(200, 150)
    draft = photo(64, 48, seed=5)[0]
    result = painter.finish(picture, mask, "a red kite", draft, superres=False)
    large, fill = np.array(draft.resize((200, 150), Image.Resampling.LANCZOS)), np.array(mask) > 127
    joined = [blend(np.array(picture), large, fill, scale=scale) for scale in (200 / 64, 1)]
    assert np.array_equal(result.image, joined[0]) and not np.array_equal(*joined)


def test_stage_2_fills_all_that_thin_strokes_touch(painter, photo, monkeypatch):
    """In a picture larger than stage 2's, nearest neighbour would lose lines of one pixel."""
    picture, _ = photo(600, 400)
    strokes = np.zeros((400, 600), np.uint8)
    strokes[13::37], strokes[:, 11::41] = 255, 255
    seen = []

    class Recorder:
        def __init__(self, *_):
            pass

        def __call__(self, image, low_res, mask, *_):
            seen.append(mask)
            return image

    monkeypatch.setattr("hdpainter.pipeline.SuperResolution", Recorder)
    painter.finish(picture, Image.fromarray(strokes), "a kite", photo(64, 42)[0])
    assert seen[0].shape == (168, 256)
    rows, columns = np.nonzero(strokes)
    assert seen[0][rows * 168 // 400, columns * 256 // 600].mean() > 0.99
