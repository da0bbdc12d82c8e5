"""The metrics that compare pixels: fidelity outside the mask, the seam, the shift of saturation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics import make_metric
from eval.metrics.pixels import mean_chroma, seam, shifts

from .judges import pictures, rectangle

# --- fidelity


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.integers(-255, 255).filter(bool))
def test_fidelity_counts_what_is_outside_only(seed, change):
    original = pictures(1, 20, 24, seed)[0]
    mask = rectangle(20, 24, 4, 12, 3, 20)
    filled = original.copy()
    filled[mask] = 255 - filled[mask]
    metric = make_metric("fidelity")
    same = metric([filled], [mask], ["x"], [original])
    assert (same["psnr"], same["max_difference"]) == ([math.inf], [0])
    filled[0, 0] = np.clip(filled[0, 0].astype(int) + change, 0, 255)
    difference = np.abs(filled[0, 0].astype(int) - original[0, 0])
    found = metric([filled], [mask], ["x"], [original])
    assert found["max_difference"] == [difference.max()]
    if difference.any():
        error = np.square(difference).sum() / (3 * (~mask).sum())
        assert found["psnr"][0] == pytest.approx(10 * math.log10(255**2 / error))


def test_fidelity_without_an_outside_is_not_defined():
    image = pictures(1, 8, 8)
    found = make_metric("fidelity")(image, [np.ones((8, 8), bool)], ["x"], image)
    assert found == {"psnr": [None], "max_difference": [None], "lpips": [None]}


def test_lpips_is_left_out_with_a_reason_or_run_from_a_local_file(tmp_path, monkeypatch):
    pytest.importorskip("torchmetrics")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    original = pictures(1, 64, 64)[0]
    mask = rectangle(64, 64, 10, 40, 10, 40)
    filled, spoilt = original.copy(), original.copy()
    filled[mask] = 0
    spoilt[~mask] = 255 - spoilt[~mask]
    without = make_metric("fidelity")
    assert without([spoilt], [mask], ["x"], [original])["lpips"] == [None]
    for part in (
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        "--metric fidelity --download",
    ):
        assert part in without.notes[0]

    import torchvision

    with torch.device("meta"):
        layout = torchvision.models.alexnet().state_dict()
    torch.manual_seed(0)
    weights = {  # the classifier, most of the file, is not used
        name: 0.05 * torch.randn(t.shape) if name.startswith("features") else torch.zeros(1).expand(t.shape)
        for name, t in layout.items()
    }
    (tmp_path / "checkpoints").mkdir()
    torch.save(weights, tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth")
    metric = make_metric("fidelity")
    assert metric.notes == []
    assert metric.settings != without.settings
    kept, changed = metric([filled, spoilt], [mask] * 2, ["x"] * 2, [original] * 2)["lpips"]
    assert kept == pytest.approx(0, abs=1e-6)
    assert changed > 0.01


# --- seam and saturation


def smooth(size: int, slope: tuple[float, float, float]) -> np.ndarray:
    """A picture that becomes brighter to the right and below."""
    y, x = np.mgrid[:size, :size]
    return np.stack([40 + s * (x + 0.6 * y) for s in slope], -1).astype(np.uint8)


def disc(size: int, cy: float, cx: float, radius: float) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return np.hypot(y - cy, x - cx) < radius


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.floats(0, 1)] * 3),
    st.floats(10, 26),
    st.floats(30, 66),
    st.floats(30, 66),
    st.integers(5, 40),
)
def test_a_smooth_picture_has_no_seam_until_there_is_one(slope, radius, cy, cx, levels):
    image, mask = smooth(96, slope), disc(96, cy, cx, radius)
    assert seam(image, mask) == pytest.approx(1, abs=0.15)
    stepped = image.copy()
    stepped[mask] += np.uint8(levels)
    assert seam(stepped, mask) > 1 + levels / 3
    away = image.copy()  # an edge that is not the mask's border is no seam
    away[disc(96, cy, cx, radius - 6)] += np.uint8(levels)
    assert seam(away, mask) < 1.15


def test_a_flat_picture_reads_one_level_more_per_level_of_the_seam():
    image, mask = np.full((64, 64, 3), 90, np.uint8), disc(64, 30, 33, 15)
    assert seam(image, mask) == 1
    image[mask] += 12
    assert seam(image, mask) == pytest.approx(13)


def test_noise_has_no_seam_and_hides_a_faint_one():
    noise = np.random.default_rng(0).integers(0, 200, (128, 128, 3)).astype(np.uint8)
    mask = disc(128, 60, 70, 35)
    assert seam(noise, mask) == pytest.approx(1, abs=0.06)
    noise[mask] += 10
    assert seam(noise, mask) < 1.1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.integers(0, 30), st.integers(0, 30))
def test_nothing_far_from_the_border_changes_the_seam(seed, top, left):
    image, mask = pictures(1, 60, 60, seed)[0], disc(60, 30, 30, 17)
    wide = np.pad(image, [(top, 11), (left, 7), (0, 0)])
    assert seam(wide, np.pad(mask, [(top, 11), (left, 7)])) == pytest.approx(seam(image, mask))
    turned = np.rot90(image), np.rot90(mask)
    assert seam(*turned) == pytest.approx(seam(image, mask))


def test_the_seam_is_given_for_the_original_too():
    original, mask = smooth(64, (1, 0.5, 0)), disc(64, 30, 33, 15)
    filled = original.copy()
    filled[mask] = 255
    found = make_metric("seam")([filled], [mask], ["x"], [original])
    assert found["seam"][0] > 10 * found["seam_original"][0]
    assert found["seam_original"][0] == pytest.approx(1, abs=0.15)
    everything, nothing = np.ones((64, 64), bool), np.zeros((64, 64), bool)
    assert (seam(original, everything), seam(original, nothing)) == (None, None)


@settings(deadline=None)
@given(st.integers(0, 99), st.tuples(*[st.integers(0, 255)] * 3))
def test_saturation_shift_is_zero_where_nothing_was_done(seed, colour):
    original, mask = pictures(1, 12, 12, seed)[0], rectangle(12, 12, 2, 7, 3, 9)
    assert shifts(original, mask, original)[0] == 0
    flat = np.full_like(original, colour)
    assert shifts(flat, mask, flat) == pytest.approx((0, 0), abs=1e-4)


def test_saturation_shift_follows_chroma():
    grey, red = (np.full((8, 8, 3), colour, np.uint8) for colour in ((128, 128, 128), (255, 0, 0)))
    mask = rectangle(8, 8, 2, 6, 2, 6)
    filled = np.where(mask[..., None], red, grey)
    assert shifts(filled, mask, grey) == pytest.approx((104.55, 104.55), abs=0.1)  # the chroma of sRGB's red
    assert shifts(filled, mask, red) == pytest.approx((0, 0), abs=1e-3)
    assert shifts(grey, mask, filled) == pytest.approx((-104.55, 0), abs=0.1)
    assert shifts(red, np.ones((8, 8), bool), grey)[1] is None


@pytest.mark.parametrize(
    ("colour", "chroma"),
    [((255, 0, 0), 104.55), ((0, 255, 0), 119.78), ((0, 0, 255), 133.81), ((255, 255, 0), 96.91)],
)
def test_chroma_is_that_of_cie_lab(colour, chroma):
    assert mean_chroma(np.array([colour], np.uint8)) == pytest.approx(chroma, abs=0.02)


def test_no_grey_is_colourful():
    greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    assert max(mean_chroma(grey[None]) for grey in greys) < 0.01
