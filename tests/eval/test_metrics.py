"""The judges of pictures: what they compute, and what they say when something is missing."""

import json
import math
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

from eval.metrics import METRICS, make_metric, read_metrics
from eval.metrics.clip import resize
from eval.metrics.pickscore import CLIP_H
from ldm.checkpoint import read_state_dict
from ldm.util import CONFIGS, UserError

from .judges import CLIP, HF_CLIP, PREFIX, pictures, rectangle, tiny_clip, tiny_pickscore

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of OpenAI's CLIP
PROMPTS = ["a boat", "kite", "a photo of a cat", "kite"]


@pytest.fixture(scope="module")
def clip_params(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip_score(clip_params):
    return make_metric("clip", clip_params)


@pytest.fixture(scope="module")
def picked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pick") / "PickScore_v1"
    return tiny_pickscore(folder), folder


@pytest.fixture
def no_weights(tmp_path, monkeypatch):
    """An empty folder of checkpoints, and no caches."""
    monkeypatch.setenv("HDPAINTER_CHECKPOINTS", str(tmp_path / "here"))
    monkeypatch.setattr("eval.metrics.weights.try_to_load_from_cache", lambda *_, **__: None)
    return tmp_path / "here"


# --- CLIP score


def test_clip_score_is_the_cosine_of_the_crop_and_the_prompt(clip_score, clip_params):
    network = open_clip.CLIP(**CLIP).eval()
    state = read_state_dict(clip_params["weights"])
    network.load_state_dict({k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)})
    images = pictures(4, 48, 64)
    masks = [rectangle(48, 64, 5, 37, 9, 41)] * 4  # 32 x 32, the model's size, so that nothing is resized
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    inputs = torch.stack([torch.tensor(i[5:37, 9:41]).permute(2, 0, 1) / 255 for i in images])
    with torch.no_grad():
        features = F.normalize(network.encode_image((inputs - mean) / std), dim=-1)
        words = F.normalize(network.encode_text(open_clip.tokenize(PROMPTS)), dim=-1)
    expected = 100 * (features * words).sum(-1)
    assert (expected > 1).all()
    found = clip_score(images, masks, PROMPTS, images)["clip"]
    assert found == pytest.approx(expected.tolist(), abs=1e-4)
    opposite = make_metric("clip", clip_params)
    opposite.clip.network.text_projection.neg_()
    assert opposite(images, masks, PROMPTS, images)["clip"] == [0, 0, 0, 0]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 28), st.integers(1, 28), st.integers(0, 99))
def test_clip_score_sees_the_box_only_wherever_it_lies(clip_score, y, x, h, w, seed):
    patch = pictures(1, h, w, seed)[0]
    scores = []
    for (top, left), surroundings in (((y, x), seed), ((20 - y, 20 - x), seed + 1)):
        image = pictures(1, 48, 48, surroundings)[0].copy()
        image[top : top + h, left : left + w] = patch
        mask = rectangle(48, 48, top, top + h, left, left + w)
        mask[top, left + w // 2] = True
        scores += clip_score([image], [mask], ["kite"], [image])["clip"]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_batches_do_not_matter(clip_score, clip_params):
    images, masks = pictures(4, 40, 40), [rectangle(40, 40, i, 20 + 3 * i, 2 * i, 30) for i in range(4)]
    for metric in (clip_score, make_metric("minipick", clip_params)):
        whole = metric(images, masks, PROMPTS, images)
        for column in metric.columns:
            single = [
                metric([i], [m], [p], [i])[column][0] for i, m, p in zip(images, masks, PROMPTS, strict=True)
            ]
            assert whole[column] == pytest.approx(single, abs=1e-4)


def test_shrinking_averages_or_not_as_asked():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    assert np.ptp(resize(stripes, 16, "area")) == 0
    assert resize(stripes, 16, "area")[0, 0, 0] == 100
    small = pictures(1, 8, 8)[0]
    assert np.array_equal(resize(small, 16, "area"), resize(small, 16, "cubic"))


def test_the_default_clip_score_is_the_releases(no_weights):
    file = no_weights / "open_clip" / "ViT-B-16-openai.safetensors"
    file.parent.mkdir(parents=True)
    save_file({"x": torch.zeros(1)}, file)  # the right file is found; it is not loaded here
    metric = make_metric("clip", read_metrics("metrics")["clip"])
    assert (metric.clip.path, metric.clip.size, metric.resample) == (file, 224, "cubic")
    assert metric.clip.quick_gelu, "OpenAI's weights were trained with the quick GELU"
    assert metric.clip.mean == pytest.approx(MEAN)
    assert "ViT-B-16" in metric.label


@pytest.mark.slow
def test_the_default_clip_score_is_that_of_open_clips_network(no_weights):
    """On weights of the true layout: no others of its 150 M parameters are here."""
    torch.manual_seed(0)
    theirs = open_clip.create_model("ViT-B-16", force_quick_gelu=True).half().float().eval()
    file = no_weights / "open_clip" / "ViT-B-16-openai.safetensors"
    file.parent.mkdir(parents=True)
    save_file({name: tensor.half().contiguous() for name, tensor in theirs.state_dict().items()}, file)
    metric = make_metric("clip", read_metrics("metrics")["clip"])
    images = pictures(2, 224, 224)
    found = metric.clip.cosines(images, PROMPTS[:2])
    x = torch.from_numpy(np.stack(images)).movedim(-1, 1) / 255 - torch.tensor(MEAN)[:, None, None]
    with torch.no_grad():
        seen = theirs.encode_image(x / torch.tensor(STD)[:, None, None])
        read = theirs.encode_text(open_clip.get_tokenizer("ViT-B-16")(PROMPTS[:2]))
    expected = F.cosine_similarity(seen, read)
    assert expected.abs().min() > 1e-3
    assert torch.allclose(found, expected, atol=1e-5)


def test_weights_from_a_file_have_the_gelu_that_they_were_trained_with(tmp_path):
    def clip(file, **params):
        save_file({"x": torch.zeros(1)}, tmp_path / file)
        return make_metric("clip", {"weights": str(tmp_path / file), **params})

    theirs = clip("ViT-B-16-openai.safetensors")
    assert theirs.clip.quick_gelu and theirs.settings["quick_gelu"] is True
    assert not clip("vitb16-laion400m_e32.safetensors").clip.quick_gelu
    with pytest.raises(
        UserError, match=r"metrics: clip: .* mine\.safetensors does not say which it is: give"
    ):
        clip("mine.safetensors")
    for quick in (True, False):
        mine = clip("mine.safetensors", quick_gelu=quick)
        assert mine.clip.quick_gelu is quick and mine.settings.get("quick_gelu", False) is quick
    with pytest.raises(UserError, match="ViT-B-16-quickgelu has it: give another model"):
        clip("mine.safetensors", model="ViT-B-16-quickgelu", quick_gelu=False)


def test_the_quick_gelu_reaches_the_network_and_the_settings(clip_params):
    plain, quick = (make_metric("clip", clip_params | extra) for extra in ({}, {"quick_gelu": True}))
    assert "quick_gelu" not in plain.settings and "mean" not in plain.settings  # as in older score files
    assert quick.settings == {**plain.settings, "quick_gelu": True}
    cosines = [metric.clip.cosines(pictures(1, 32, 32), ["boat"]) for metric in (plain, quick)]
    assert not torch.allclose(*cosines, atol=1e-4)


def test_which_network_of_a_file_it_is_belongs_to_the_settings(clip_params):
    one, other = (make_metric("clip", clip_params | extra).settings for extra in ({}, {"prefix": "ema."}))
    assert one["prefix"] == clip_params["prefix"] and other == {**one, "prefix": "ema."}


def test_other_weights_than_the_models_are_refused(clip_params, tmp_path):
    state = read_state_dict(clip_params["weights"])
    bad = {k: v for k, v in state.items() if not k.endswith("ln_final.bias")}
    save_file(bad, tmp_path / "bad.safetensors")
    params = clip_params | {"weights": str(tmp_path / "bad.safetensors")}
    with pytest.raises(UserError, match=r"bad\.safetensors does not fit .*1 missing \(ln_final\.bias\)"):
        _ = make_metric("clip", params).clip.network
    with pytest.raises(UserError, match=r"no weights whose names begin with 'clip\.'"):
        _ = make_metric("clip", clip_params | {"prefix": "clip."}).clip.network


# --- PickScore


def test_pickscore_is_transformers_clip(picked):
    model, folder = picked
    processors = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    processor = processors.CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    metric = make_metric("pickscore", {"weights": str(folder)})
    images = [pictures(1, h, w, h)[0] for h, w in ((50, 70), (96, 41), (32, 32), (20, 33))]
    expected = []
    for image, prompt in zip(images, PROMPTS, strict=True):
        pixels = processor(Image.fromarray(image), return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(metric.pixels(image)[None], pixels, rtol=0, atol=1e-5)
        tokens = open_clip.tokenize(prompt)
        tokens = tokens[:, : tokens.argmax() + 1]  # as transformers' tokenizer: no padding
        with torch.no_grad():
            expected.append(model(input_ids=tokens, pixel_values=pixels).logits_per_image.item())
    assert np.std(expected) > 0.01
    masks = [np.ones(i.shape[:2], bool) for i in images]
    assert metric(images, masks, PROMPTS, images)["logit"] == pytest.approx(expected, abs=1e-4)


def test_pickscore_reads_both_formats_from_the_usual_place(picked, monkeypatch, tmp_path):
    _, folder = picked
    monkeypatch.setenv("HDPAINTER_CHECKPOINTS", str(folder.parent))
    images, masks = pictures(1, 32, 32), [np.ones((32, 32), bool)]
    logits = []
    for source in ("PickScore_v1", str(folder / "pytorch_model.bin")):
        metric = make_metric("pickscore", {"weights": source})
        logits += metric(images, masks, ["kite"], images)["logit"]
    assert metric.path.suffix == ".bin"
    assert logits[0] == pytest.approx(logits[1], abs=1e-5)


def test_pickscores_layout_is_clip_h():
    config = CLIPConfig.from_dict(json.loads((CONFIGS / CLIP_H).read_text()))
    with torch.device("meta"):
        ours, clip_h = CLIPModel(config), open_clip.CLIP(**open_clip.get_model_config("ViT-H-14"))
    counts = [sum(p.numel() for p in model.parameters()) for model in (ours, clip_h)]
    assert counts == [986_109_441] * 2
    assert config.vision_config.num_attention_heads == clip_h.visual.transformer.resblocks[0].attn.num_heads
    assert config.text_config.num_attention_heads == clip_h.transformer.resblocks[0].attn.num_heads


def test_the_mini_preference_is_the_clips_own_and_says_so(clip_params):
    metric = make_metric("minipick", clip_params)
    assert "mini" in metric.label
    images, masks = pictures(2, 32, 32), [np.ones((32, 32), bool)] * 2
    cosines = metric.clip.cosines(images, ["kite"] * 2)
    scale = math.exp(float(read_state_dict(clip_params["weights"])[PREFIX + "logit_scale"]))
    expected = (scale * cosines).tolist()
    assert metric(images, masks, ["kite"] * 2, images)["logit"] == pytest.approx(expected, rel=1e-4)


# --- configs and weights


def test_every_metric_of_the_configs_has_a_class_that_takes_its_parameters(no_weights):
    assert set(read_metrics("metrics")) | set(read_metrics("metrics-mini")) == set(METRICS)
    for metric, params in read_metrics("metrics-mini").items():
        assert make_metric(metric, params).columns  # the miniatures ship
    for metric, params in read_metrics("metrics").items():
        if metric in ("fidelity", "seam", "saturation"):
            assert make_metric(metric, params).columns
        elif metric != "accuracy":  # unknown parameters would be refused before the weights are missed
            with pytest.raises(UserError, match=r"weights .* of the metric"):
                make_metric(metric, params)


@pytest.mark.parametrize(
    ("metric", "params", "file", "source"),
    [
        ("clip", {}, "ViT-B-16-openai", "https://huggingface.co/timm/vit_base_patch16_clip_224.openai/"),
        ("clip", {"model": "ViT-L-14", "weights": "laion2b_s32b_b82k"}, "ViT-L-14-laion2b", "https://"),
        ("pickscore", {}, "PickScore_v1/model.safetensors", "yuvalkirstain/PickScore_v1"),
    ],
)
def test_missing_weights_are_one_line_with_file_source_and_command(no_weights, metric, params, file, source):
    with pytest.raises(UserError) as caught:
        make_metric(metric, params, source="--config mine")
    message = str(caught.value)
    assert "\n" not in message
    command = f"python -m eval score --config mine --metric {metric} --download"
    for part in (file, source, str(no_weights), command):
        assert part in message
    with pytest.raises(UserError, match="download=True fetches them"):
        make_metric(metric, params)


def test_weights_are_downloaded_only_when_asked(no_weights, monkeypatch):
    fetched = []

    def download(urls, target, **_):
        fetched.append((urls, target))
        target.parent.mkdir(parents=True)
        save_file({"x": torch.zeros(1)}, target)
        return target

    monkeypatch.setattr("eval.metrics.weights.download", download)
    monkeypatch.setenv("HDPAINTER_MIRRORS", "https://mirror.example/{file}")
    with pytest.raises(UserError):
        make_metric("clip")
    assert fetched == []
    metric = make_metric("clip", download=True)
    [(urls, target)] = fetched
    assert urls[0] == "https://mirror.example/ViT-B-16-openai.safetensors"
    assert metric.clip.path == target == no_weights / "open_clip/ViT-B-16-openai.safetensors"
    make_metric("clip", download=True)
    assert len(fetched) == 1


@pytest.mark.parametrize(
    ("metric", "params", "complaint"),
    [
        ("clips", {}, "no metric 'clips'; there are clip"),
        ("seam", {"near": 2}, "no parameter 'near'"),
        ("clip", {"model": "ViT-B-17"}, "open_clip has no model 'ViT-B-17'"),
        ("clip", {"model": 3}, "metrics: clip: model must be text, not 3"),
        (
            "clip",
            {"resample": "nearest"},
            "metrics: clip: resample must be one of cubic, area, not 'nearest'",
        ),
        ("accuracy", {"threshold": "high"}, "metrics: accuracy: threshold must be a number, not 'high'"),
        ("seam", {"label": 3}, "metrics: seam: label must be text, not 3"),
        ("clip", {"model": "roberta-ViT-B-32", "weights": "laion2b_s12b_b32k"}, "tokenizer from a hub"),
        ("clip", {"weights": "nowhere.safetensors"}, r"nowhere\.safetensors .* are not there"),
        ("clip", {"model": "none.json"}, r"none\.json is neither a file nor within"),
        ("minipick", {}, "needs the parameter 'model'"),
        ("pickscore", {"weights": "elsewhere"}, "elsewhere/model.safetensors .* are not there"),
    ],
)
def test_mistakes_in_the_config_are_named(no_weights, metric, params, complaint):
    with pytest.raises(UserError, match=complaint):
        make_metric(metric, params)


@pytest.mark.parametrize(
    ("part", "value", "complaint"),
    [
        ("vision_cfg", {}, "image_size"),
        ("vision_cfg", 3, "vision_cfg|int"),
        ("text_cfg", [], "list"),
        ("text_cfg", {"width": "wide"}, "width|size"),
        ("depth", 3, "unexpected keyword argument 'depth'"),
    ],
)
def test_a_clip_config_that_makes_no_model_is_one_line(tmp_path: Path, part, value, complaint):
    config = open_clip.get_model_config("ViT-B-32") | {part: value}
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=rf"broken\.json: open_clip cannot build.*({complaint})") as raised:
        make_metric("clip", {"model": str(path), "weights": "nowhere.safetensors"})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "is not valid JSON"),
        ("[]", "must map names"),
        (json.dumps(HF_CLIP | {"vision_config": {"hidden_size": "wide"}}), "transformers cannot build"),
    ],
)
def test_a_broken_config_beside_pickscore_is_one_line(tmp_path: Path, text, complaint):
    tiny_pickscore(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=rf"config\.json.*{complaint}") as raised:
        _ = make_metric("pickscore", {"weights": str(tmp_path)}).network
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: 1", "must map names of metrics"),
        ("metrics: {clop: {}}", "no metric 'clop'"),
        ("metrics: {clip: 3}", "clip must be a mapping"),
        ("metrics: [", "not valid YAML"),
    ],
)
def test_a_config_without_metrics_is_refused(tmp_path: Path, text, complaint):
    path = tmp_path / "m.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=complaint):
        read_metrics(path)
    path.write_text(f"metrics: {path}")
    with pytest.raises(UserError, match="leads back to this file"):
        read_metrics(path)
    path.write_text("metrics: metrics-mini")
    assert read_metrics(path) == read_metrics("metrics-mini")
