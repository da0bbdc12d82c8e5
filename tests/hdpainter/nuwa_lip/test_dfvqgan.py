"""DF-VQGAN against the public program's outputs, and what its docstrings promise."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hdpainter.baselines.nuwa_lip.dfvqgan import DFVQGAN, MaskedConv, MaskedNorm, any_pool
from tests.hdpainter.nuwa_lip import tiny
from tests.hdpainter.nuwa_lip.tiny import some_mask
from tests.support import golden, layout, randn, rule_w, shapes


def test_full_size_network_has_the_published_layout():
    with torch.device("meta"):
        network = DFVQGAN()
    assert shapes(network) == layout("nuwa-lip-df-vqgan")
    assert sum(parameter.numel() for parameter in network.parameters()) == 48_499_971


@torch.no_grad()
def test_the_public_programs_outputs():
    case, data = golden("nuwa_dfvqgan")
    network = tiny.vqgan()
    assert shapes(network) == layout("nuwa-dfvqgan-tiny")
    mask = data["mask"].bool()[:, None]
    assert torch.equal(data["image"].masked_fill(mask, 0), data["masked_image"])
    prequant = network.quant_conv(network.encoder(data["masked_image"], mask)[0])
    codes, skips = network.encode(data["masked_image"], mask)
    assert torch.equal(codes.flatten(1), data["indices"])
    assert [list(skip.shape) for skip, _ in skips] == case["skips"]
    middle = len(skips) // 2
    for (_, skip_mask), name in ((skips[middle], "mid_mask"), (skips[-1], "last_mask")):
        assert torch.equal(skip_mask[:, 0], data[name].bool())
    probe = network.quantize(data["quantise_probe"])
    assert torch.equal(probe.flatten(1), data["quantise_probe_indices"])
    outputs = {
        "prequant": prequant,
        "quantised": network.quantize.vectors(codes),
        "quantise_probe_output": network.quantize.vectors(probe),
        "mid_skip": skips[middle][0],
        "last_skip": skips[-1][0],
        "decoded": network.decode(codes, skips),
        "decoded_no_skips": network.decode(codes),
        "decoded_random_codes": network.decode(data["random_codes"].view_as(codes), skips),
        "encoder_unmasked_input": network.encoder(data["image"], mask)[0],
        "encoder_skip_mask": network.encoder(data["image"])[0],
    }
    for name, output in outputs.items():
        error = (output - data[name]).abs().max()
        assert error < case["tolerance"]["abs"] and error < 5e-5, f"{name}: {error:.1e}"


@given(seed=st.integers(0, 999), height=st.integers(1, 4), width=st.integers(1, 4))
@settings(max_examples=10, deadline=None)
@torch.no_grad()
def test_what_is_known_does_not_depend_on_masked_pixels(seed, height, width):
    network, size = tiny.vqgan(), (8 * height, 8 * width)
    mask, pixels = some_mask(seed, size), randn(seed, (2, 3, *size))
    other = torch.where(mask, 5 * randn(seed + 1, pixels.shape), pixels)
    (z, skips), (other_z, other_skips) = network.encoder(pixels, mask), network.encoder(other, mask)
    for (one, hidden), (two, _) in zip(
        [*skips, (z, skips[-1][1])], [*other_skips, (other_z, None)], strict=True
    ):
        assert torch.equal(one.masked_fill(hidden, 0), two.masked_fill(hidden, 0))
        assert hidden.all() or one.masked_fill(hidden, 0).any()
    assert not torch.equal(z, other_z)


@given(seed=st.integers(0, 999), rows=st.lists(st.integers(0, 2), min_size=1, max_size=3))
@settings(max_examples=5, deadline=None)
@torch.no_grad()
def test_pictures_of_a_batch_are_independent(seed, rows):
    network, mask, pixels = tiny.vqgan(), some_mask(seed, (32, 24), 3), randn(seed, (3, 3, 32, 24))
    codes, skips = network.encode(pixels, mask)
    some_codes, some_skips = network.encode(pixels[rows], mask[rows])
    assert torch.equal(some_codes, codes[rows])
    whole, some = network.decode(codes, skips), network.decode(some_codes, some_skips)
    assert (some - whole[rows]).abs().max() < 1e-4


@given(seed=st.integers(0, 999), kernel=st.sampled_from([1, 3]))
@settings(max_examples=20, deadline=None)
@torch.no_grad()
def test_a_masked_convolution_is_one_or_the_other(seed, kernel):
    conv = rule_w(MaskedConv(3, 4, kernel))
    x, mask = randn(seed, (2, 3, 5, 6)), some_mask(seed, (5, 6))
    seen, blind = conv.conv(x), conv.conv(x * ~mask)
    for place in mask.nonzero().tolist():
        index = (place[0], slice(None), *place[2:])
        blind[index] = seen[index]
    assert torch.equal(conv(x, mask), blind)
    assert torch.equal(conv(x, None), seen)


@given(seed=st.integers(0, 999))
@settings(max_examples=20, deadline=None)
@torch.no_grad()
def test_a_masked_norm_has_the_statistics_of_the_known_cells(seed):
    """Computed cell by cell in float64: those of the known values alone, and of all for the masked ones."""
    norm, x, mask = rule_w(MaskedNorm(64)), randn(seed, (2, 64, 4, 5)), some_mask(seed, (4, 5))
    out = norm(x, mask)
    for row in range(2):
        known = ~mask[row, 0]
        for group in range(32):
            channels = slice(2 * group, 2 * group + 2)
            values = x[row, channels].double()
            expected = (values - values.mean()) / (values.var() + 1e-6).sqrt()
            if known.sum() > 1:
                seen = values[:, known]
                expected[:, known] = (seen - seen.mean()) / (seen.var() + 1e-6).sqrt()
            scale, shift = (norm.norm[name][0, channels, :, None].double() for name in ("weight", "bias"))
            places = slice(None) if known.sum() > 1 else ~known
            assert torch.allclose(
                out[row, channels][:, places].double(), (expected * scale + shift)[:, places], atol=1e-4
            )
    plain = F.group_norm(x, 32, eps=0.0) * (1 - 1 / 40) ** 0.5  # 40 values in a group: unbiased variance
    expected = plain * norm.norm["weight"][..., None] + norm.norm["bias"][..., None]
    assert torch.allclose(norm(x, None), expected, atol=1e-4)


@given(seed=st.integers(0, 999), factor=st.sampled_from([1, 2, 4, 8]))
@settings(deadline=None)
def test_a_cell_is_masked_where_any_pixel_is(seed, factor):
    mask = some_mask(seed, (8, 16))
    cells = mask.unflatten(2, (-1, factor)).unflatten(4, (-1, factor))
    assert torch.equal(any_pool(mask, factor), cells.any(3).any(4))


@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_an_empty_or_full_mask_leaves_numbers(masked):
    network = tiny.vqgan()
    pixels, mask = randn(0, (1, 3, 16, 16)), torch.full((1, 1, 16, 16), masked)
    codes, skips = network.encode(pixels, mask)
    assert network.decode(codes, skips).isfinite().all()
    plain, _ = network.encoder(pixels)
    masked_z, _ = network.encoder(pixels, mask)
    assert torch.allclose(masked_z, plain, atol=1e-4)  # one rule for all cells, whichever it is
