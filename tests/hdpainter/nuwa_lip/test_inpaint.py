"""NUWA-LIP from pictures to pictures, and its checkpoints."""

import numpy as np
import pytest
import torch
import yaml

from hdpainter.baselines.nuwa_lip.inpaint import NuwaLip
from hdpainter.models.loading import PipelineModels
from hdpainter.models.registry import PipelineSpec, Stage
from hdpainter.settings import NuwaLipMethod, NuwaLipSettings
from ldm.util import UserError
from tests.hdpainter.nuwa_lip import tiny
from tests.support import message


@pytest.fixture(scope="module")
def nuwa_lip() -> NuwaLip:
    return NuwaLip(tiny.reading_network())


def inputs(seed, count=2):
    """Pictures of noise with a small hole each, of sizes of their own."""
    rng = np.random.default_rng(seed)
    images, masks = [], []
    for _ in range(count):
        height, width = rng.integers(10, 90, 2)
        images.append(rng.integers(0, 256, (height, width, 3), np.uint8))
        mask = np.zeros((height, width), bool)
        y, x = rng.integers(0, height), rng.integers(0, width)
        mask[y : y + height // 4 + 1, x : x + width // 4 + 1] = True
        masks.append(mask)
    return images, masks


def levels(one, two):
    return np.abs(np.asarray(one).astype(int) - np.asarray(two))


PROMPTS, SEEDS = ["a kite", "", "two boats at sea"], [1, 7, 7]


def by(**settings) -> NuwaLipMethod:
    return NuwaLipMethod(nuwa_lip=NuwaLipSettings(**settings))


@pytest.mark.parametrize("method", [None, by(top_k=1), by(samples=2)])
def test_a_picture_is_the_same_alone_and_in_a_batch(nuwa_lip, method):
    images, masks = inputs(1, 3)
    alone = [
        nuwa_lip([i], [m], [p], [s], method)[0]
        for i, m, p, s in zip(images, masks, PROMPTS, SEEDS, strict=True)
    ]
    order = [2, 0, 1]
    batch = nuwa_lip(*([given[i] for i in order] for given in (images, masks, PROMPTS, SEEDS)), method)
    for index, picture in zip(order, batch, strict=True):
        assert picture.size == images[index].shape[1::-1]
        assert levels(picture, alone[index]).max() <= 1


def test_seed_and_prompt_matter_but_not_what_the_hole_hides(nuwa_lip):
    rng = np.random.default_rng(2)
    image, mask = rng.integers(0, 256, (64, 64, 3), np.uint8), np.zeros((64, 64), bool)
    mask[16:40, 20:40] = True

    def painted(image=image, prompt="a kite", seed=1, **settings):
        return np.array(nuwa_lip([image], [mask], [prompt], [seed], by(**settings))[0])

    picture = painted()
    assert np.array_equal(picture, painted())
    # At the network's own size nothing is resized, so nothing of the hole is mixed into what is known.
    assert np.array_equal(picture, painted(np.where(mask[..., None], 255 - image, image)))
    assert levels(picture[mask], painted(seed=2)[mask]).max() > 2
    assert levels(picture, painted(np.where(mask[..., None], image, 255 - image))).max() > 2
    assert levels(picture[mask], painted(prompt="two boats at sea")[mask]).max() > 2
    assert np.array_equal(painted(top_k=1), painted(seed=2, top_k=1))


def test_the_sample_most_like_the_prompt_is_taken(nuwa_lip):
    squares = [torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(s)) * 2 - 1 for s in range(3)]
    tokens = torch.ones(2, 77, dtype=torch.int64)
    with torch.no_grad():
        likeness = torch.stack([nuwa_lip.network.similarity(square, tokens) for square in squares])
        best = nuwa_lip._best(squares, tokens)
    assert likeness.abs().max() <= 1 and (likeness[0] != likeness[1]).all()
    for row in range(2):
        assert torch.equal(best[row], squares[likeness[:, row].argmax()][row])


def test_progress_counts_the_codes_of_all_samples(nuwa_lip):
    steps, mask = [], np.zeros((64, 64), bool)
    mask[20:30, 17:20] = True  # two cells
    nuwa_lip(
        [np.zeros((64, 64, 3), np.uint8)],
        [mask],
        ["a kite"],
        [0],
        by(samples=2),
        lambda *step: steps.append(step),
    )
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_long_prompts_are_cut(nuwa_lip):
    images, masks = inputs(4, 1)
    words = "kite " * 76
    one, two = (
        nuwa_lip(images, masks, [prompt], [0], by(top_k=1))[0] for prompt in (words, words + "boat " * 224)
    )
    assert np.array_equal(one, two)


def test_inputs_that_do_not_fit_are_told(nuwa_lip):
    (image,), (mask,) = inputs(6, 1)
    for arguments, words in [
        (([image], [mask & False], ["kite"], [0]), "mask 0 marks nothing to fill"),
        (([image], [mask[:-1]], ["kite"], [0]), "mask 0 is .* pixels but the image is"),
        (([image], [mask], ["kite"], []), "0 seeds for 1 images"),
        (([image], [mask], [3], [0]), "prompt 0 must be text, not 3"),
    ]:
        with pytest.raises(UserError, match=words):
            nuwa_lip(*arguments)


# --- checkpoints -------------------------------------------------------------------------------------------


@pytest.fixture
def models(tmp_path):
    """models(dtype) -> those of a pipeline of epoch140-chunk-0.pth in tmp_path, not loaded."""
    config = tmp_path / "tiny-nuwa-lip.yaml"
    target = "hdpainter.baselines.nuwa_lip.mps2s.MPS2S"
    config.write_text(yaml.safe_dump({"model": {"target": target, "params": tiny.reading_config()}}))
    spec = PipelineSpec("tiny", Stage(str(config), str(tmp_path / "epoch140-chunk-0.pth")), kind="nuwa-lip")
    return lambda dtype=None: PipelineModels(spec, torch.device("cpu"), dtype)


def test_a_file_of_the_published_form_is_loaded(tmp_path, models):
    path, weights = tmp_path / "epoch140-chunk-0.pth", tiny.reading_network().state_dict()
    optimizer = {
        "state": {0: {"step": 3, "exp_avg": torch.ones(2)}},
        "param_groups": [{"lr": 1e-3, "params": [0]}],
    }
    torch.save({"model": weights, "optimizer": optimizer, "epoch": 140}, path)
    network = models().baseline.network
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert network.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())
    images, masks = inputs(7, 1)
    loaded, built = (
        NuwaLip(net)(images, masks, ["a kite"], [0])[0] for net in (network, tiny.reading_network())
    )
    assert np.array_equal(loaded, built)
    half = models(torch.float16).baseline.network
    assert half.transformer_dec.layers[0].ff.dense_4h_to_h.weight.dtype == torch.float16
    assert half.vqgan.quant_conv.weight.dtype == torch.float32


def test_damaged_and_foreign_files_are_told(tmp_path, models):
    path, weights = tmp_path / "epoch140-chunk-0.pth", dict(tiny.reading_network().state_dict())
    torch.save({"model": weights}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "damaged or cut short" in message(getattr, models(), "baseline")
    del weights["image_msk_emb"]
    torch.save({"model": weights}, path)
    assert "1 missing (image_msk_emb)" in message(getattr, models(), "baseline")
    torch.save({"model": [1, 2], "epoch": 3}, path)
    assert "holds no tensors by name" in message(getattr, models(), "baseline")


def test_the_autoencoder_alone_is_told_before_anything_is_built(tmp_path, models):
    torch.save({"model": tiny.vqgan().state_dict(), "epoch": 14}, tmp_path / "epoch140-chunk-0.pth")
    assert "is the DF-VQGAN alone" in message(getattr, models(), "baseline")
