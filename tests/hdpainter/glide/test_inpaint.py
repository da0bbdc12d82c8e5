"""GLIDE from pictures to pictures, and its checkpoints."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hdpainter.baselines.glide.inpaint import Glide
from hdpainter.baselines.square import squeeze, squeeze_mask
from hdpainter.models.loading import PipelineModels
from hdpainter.models.registry import PipelineSpec, Stage
from hdpainter.settings import GlideMethod, SamplerSettings, UpsamplerSettings
from ldm.util import UserError
from tests.hdpainter.glide import tiny
from tests.support import golden, message


def quick(guidance_scale=5.0, **upsampler) -> GlideMethod:
    sampler = SamplerSettings(steps=3, guidance_scale=guidance_scale)
    return GlideMethod(sampler=sampler, glide=UpsamplerSettings("2", **upsampler))


QUICK = quick()


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

    def painted(image=image, prompt="a kite", seed=1, method=QUICK):
        return np.array(glide([image], [mask], [prompt], [seed], method)[0])

    picture = painted()
    assert np.array_equal(picture[~mask], image[~mask])  # at the network's own size nothing is resized
    for other in (
        painted(prompt="a boat"),
        painted(seed=2),
        painted(method=quick(guidance_scale=1)),
        painted(method=quick(temperature=0.5)),
        painted(method=QUICK.override({"prompts.negative": "a boat"})),
        painted(method=QUICK.override({"prompts.positive": "a boat"})),
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


# --- checkpoints -------------------------------------------------------------------------------------------


@pytest.fixture
def models(tmp_path):
    """models(dtype) -> those of a pipeline of base_inpaint.pt and upsample_inpaint.pt in tmp_path, not loaded."""
    stages = []
    for name in ("base", "upsample"):
        config, path = tmp_path / f"tiny-{name}.yaml", tmp_path / f"{name}_inpaint.pt"
        target = "hdpainter.baselines.glide.network.GlideUNet"
        config.write_text(yaml.safe_dump({"model": {"target": target, "params": tiny.config(name)}}))
        torch.save(tiny.network(name).state_dict(), path)
        stages.append(Stage(str(config), str(path)))
    spec = PipelineSpec("tiny", stages[0], kind="glide", upsampler=stages[1])
    return lambda dtype=None: PipelineModels(spec, torch.device("cpu"), dtype)


@pytest.mark.parametrize("zipped", [True, False])
def test_flat_files_are_loaded(tmp_path, models, zipped):
    weights = tiny.network("base").state_dict()
    torch.save(weights, tmp_path / "base_inpaint.pt", _use_new_zipfile_serialization=zipped)
    glide = models().baseline
    for network in (glide.base, glide.upsampler):
        assert not network.training and not any(p.requires_grad for p in network.parameters())
    for name, tensor in glide.base.state_dict().items():
        assert torch.equal(tensor, weights[name])
    half = models(torch.float16).baseline
    assert (glide.dtype, half.dtype) == (torch.float32, torch.float16)
    for network in (half.base, half.upsampler):
        assert network.out[2].weight.dtype == torch.float32
        assert network.input_blocks[0][0].weight.dtype == torch.float16


def test_damaged_and_foreign_files_are_told(tmp_path, models):
    path, weights = tmp_path / "base_inpaint.pt", dict(tiny.network("base").state_dict())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert f"{path} is damaged or cut short" in message(getattr, models(), "baseline")
    torch.save({f"model.{name}": tensor for name, tensor in weights.items()}, path)
    assert f"{path} does not fit tiny-base.yaml" in message(getattr, models(), "baseline")
    torch.save({**weights, "out.2.bias": torch.zeros(3)}, path)
    assert "1 of another shape (out.2.bias" in message(getattr, models(), "baseline")


@pytest.mark.parametrize(
    ("channels", "name"), [(3, "base.pt, which does not inpaint"), (10, "upsample_inpaint.pt")]
)
def test_another_of_glides_files_is_named_before_anything_is_built(tmp_path, models, channels, name):
    base = tmp_path / "base_inpaint.pt"
    weights = {
        "transformer_proj.weight": torch.zeros(1),
        "input_blocks.0.0.weight": torch.zeros(1, channels, 3, 3),
    }
    torch.save(weights, base)
    assert message(getattr, models(), "baseline") == f"{base} is GLIDE's {name}: give base_inpaint.pt"
    torch.save({"input_blocks.0.0.weight": torch.zeros(1, 3, 3, 3)}, base)  # another program's
    assert "does not fit tiny-base.yaml" in message(getattr, models(), "baseline")
