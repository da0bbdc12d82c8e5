"""GLIDE from pictures to pictures, and its checkpoints."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hdpainter.baselines.glide.inpaint import Glide, GlideSettings
from hdpainter.baselines.loading import load_network
from hdpainter.baselines.square import squeeze, squeeze_mask
from ldm.util import UserError
from tests.hdpainter.glide import tiny
from tests.support import golden, message

QUICK = GlideSettings(steps="3", upsampler_steps="2")


@pytest.fixture(scope="module")
def glide() -> Glide:
    return Glide(tiny.network("base"), tiny.network("upsample"))


def inputs(seed, count=2, size=None):
    """Pictures of noise with a hole each, of sizes of their own."""
    rng = np.random.default_rng(seed)
    images, masks = [], []
    for _ in range(count):
        height, width = size or rng.integers(8, 50, 2)
        images.append(rng.integers(0, 256, (height, width, 3), np.uint8))
        mask = np.zeros((height, width), bool)
        y, x = rng.integers(0, height), rng.integers(0, width)
        mask[y : y + rng.integers(1, height), x : x + rng.integers(1, width)] = True
        masks.append(mask)
    return images, masks


def difference(one, two) -> int:
    return np.abs(np.asarray(one).astype(int) - np.asarray(two)).max()


def test_the_public_programs_inputs():
    _, data = golden("glide_inputs")
    for side in (64, 256):
        expected = data[f"image{side}_u8"].permute(2, 0, 1)[None] / 127.5 - 1
        assert torch.equal(squeeze(data["image_u8"].numpy(), side), expected)
    assert torch.equal(F.interpolate(data["mask64"].float(), [256] * 2), data["mask256"].float())
    levels = torch.tensor([0, 1, 127, 128, 254, 255]).byte().numpy().reshape(6, 1, 1).repeat(3, axis=2)
    assert torch.equal(squeeze(levels[:, [0] * 6], 6)[0, 0, :, 0], data["range_probe"])


@given(seed=st.integers(0, 999), height=st.integers(1, 40), width=st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_a_cell_is_filled_where_any_pixel_of_the_mask_lies_in_it(seed, height, width):
    mask = np.random.default_rng(seed).random((height, width)) < 0.1
    cells = squeeze_mask(mask, 8)
    assert cells.shape == (1, 1, 8, 8)
    for i in range(8):
        for j in range(8):  # in units of 1/8 of a pixel
            rows = [y for y in range(height) if 8 * y < (i + 1) * height and 8 * (y + 1) > i * height]
            columns = [x for x in range(width) if 8 * x < (j + 1) * width and 8 * (x + 1) > j * width]
            assert cells[0, 0, i, j] == mask[np.ix_(rows, columns)].any()


@pytest.mark.parametrize(("seed", "shuffled"), [(1, (2, 0, 1)), (2, (0, 2, 1))])
def test_a_picture_is_the_same_alone_and_in_a_batch(glide, seed, shuffled):
    """But for rounding: of float32, and to 8 bits after the first stage, where a hair's breadth makes a level."""
    images, masks = inputs(seed, 3)
    prompts, seeds = ["a kite", "", "Two boats at sea"], [seed, 7, 7]
    alone = [
        glide([i], [m], [p], [s], QUICK)[0] for i, m, p, s in zip(images, masks, prompts, seeds, strict=True)
    ]
    batch = glide(*([given[i] for i in shuffled] for given in (images, masks, prompts, seeds)), QUICK)
    for index, picture in zip(shuffled, batch, strict=True):
        assert picture.size == images[index].shape[1::-1]
        levels = np.abs(np.asarray(picture).astype(int) - np.asarray(alone[index]))
        assert np.mean(levels > 1) < 0.01


def test_seed_prompt_and_what_is_known_matter_but_not_what_the_hole_hides(glide):
    (image,), (mask,) = inputs(3, 1, (32, 32))
    mask[:] = False
    mask[4:28, 4:28] = True

    def painted(image=image, prompt="a kite", seed=1, settings=QUICK):
        return np.array(glide([image], [mask], [prompt], [seed], settings)[0])

    picture = painted()
    assert np.array_equal(picture[~mask], image[~mask])  # at the network's own size nothing is resized
    for other in (
        painted(prompt="a boat"),
        painted(seed=2),
        painted(settings=GlideSettings("3", "2", guidance_scale=1)),
        painted(settings=GlideSettings("3", "2", temperature=0.5)),
        painted(np.where(mask[..., None], image, 255 - image)),
    ):
        assert difference(picture[mask], other[mask]) > 2
    assert np.array_equal(picture, painted(seed=1))
    hidden = image.copy()
    hidden[9:23, 9:23] = 0  # farther in than the bicubic filter reaches
    assert np.array_equal(painted(hidden), picture)


def test_only_the_first_tokens_of_a_long_prompt_are_read(glide):
    images, masks = inputs(4, 1)
    first = "kite " * 12  # the tiny networks read 12 tokens
    one, two = (glide(images, masks, [prompt], [0], QUICK)[0] for prompt in (first, first + "boat " * 300))
    assert np.array_equal(one, two)


def test_progress_counts_the_steps_of_both_networks(glide):
    steps = []
    glide(*inputs(5, 1), ["a kite"], [0], QUICK, lambda *step: steps.append(step))
    assert steps == [(i, 5) for i in range(1, 6)]


def test_inputs_that_do_not_fit_are_told(glide):
    (image,), (mask,) = inputs(6, 1, (20, 30))
    for arguments, words in [
        (([image], [mask & False], ["kite"], [0]), "mask 0 marks nothing to fill"),
        (([image], [mask[:10]], ["kite"], [0]), "mask 0 is 30 x 10 pixels but the image is 30 x 20"),
        (([image], [mask], ["kite", "boat"], [0]), "2 prompts for 1 images"),
        (([image], [mask], [None], [0]), "prompt 0 must be text, not None"),
    ]:
        with pytest.raises(UserError, match=words):
            glide(*arguments)
    for values, words in [
        ({"steps": "2000"}, "respacing '2000'"),
        ({"upsampler_steps": "quick"}, "respacing 'quick'"),
        ({"temperature": 0}, "temperature is 0"),
    ]:
        with pytest.raises(UserError, match=words):
            GlideSettings(**values)


# --- checkpoints -------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_config(tmp_path):
    path = tmp_path / "tiny-glide.yaml"
    target = "hdpainter.baselines.glide.network.GlideUNet"
    path.write_text(yaml.safe_dump({"model": {"target": target, "params": tiny.config("base")}}))
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_a_flat_file_is_loaded(tmp_path, tiny_config, zipped):
    path, weights = tmp_path / "base_inpaint.pt", tiny.network("base").state_dict()
    torch.save(weights, path, _use_new_zipfile_serialization=zipped)
    network = load_network(path, tiny_config, "cpu", None)
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, weights[name])
    half = load_network(path, tiny_config, "cpu", torch.float16)
    assert half.out[2].weight.dtype == torch.float32 and half.input_blocks[0][0].weight.dtype == torch.float16


def test_damaged_and_foreign_files_are_told(tmp_path, tiny_config):
    path, weights = tmp_path / "base_inpaint.pt", dict(tiny.network("base").state_dict())
    torch.save(weights, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "damaged or cut short" in message(load_network, path, tiny_config, "cpu", None)
    torch.save({f"model.{name}": tensor for name, tensor in weights.items()}, path)
    assert f"{path} does not fit" in message(load_network, path, tiny_config, "cpu", None)
    torch.save(tiny.network("upsample").state_dict(), path)
    assert "of another shape" in message(load_network, path, tiny_config, "cpu", None)


@pytest.mark.parametrize(
    ("channels", "name"), [(3, "base.pt, which does not inpaint"), (10, "upsample_inpaint.pt")]
)
def test_another_of_glides_files_is_named_before_anything_is_built(tmp_path, channels, name):
    base, upsampler = tmp_path / "a.pt", tmp_path / "b.pt"
    for path, width in ((base, channels), (upsampler, 10)):
        weights = {
            "transformer_proj.weight": torch.zeros(1),
            "input_blocks.0.0.weight": torch.zeros(1, width, 3, 3),
        }
        torch.save(weights, path)
    assert message(Glide.load, base, upsampler) == f"{base} is GLIDE's {name}: give base_inpaint.pt"
    torch.save({"input_blocks.0.0.weight": torch.zeros(1, 3, 3, 3)}, base)  # another program's
    assert "does not fit glide-base-inpaint.yaml" in message(Glide.load, base, upsampler)


def test_missing_files_are_told_with_the_place_to_put_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HDPAINTER_CHECKPOINTS", str(tmp_path))
    assert "base_inpaint.pt is not in" in message(Glide.load)
