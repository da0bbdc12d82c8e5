"""Accuracy with real RTMDet models of mmdet, with random weights."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from eval.metrics import make_metric, read_metrics
from hdpainter.mini.mmcv_lite import enable_mmdet
from ldm.util import UserError

from .judges import pictures, rectangle

pytest.importorskip("mmdet", reason="needs mmdet and mmcv or mmcv-lite")

SIZES = [(40, 60), (64, 30), (33, 33)]
IMAGES = [pictures(1, h, w, h)[0] for h, w in SIZES]
MASKS = [rectangle(h, w, 3, h - 4, 5, w - 2) for h, w in SIZES]


def lively(model: torch.nn.Module, size: int) -> None:
    """Random weights that tell pictures apart and detect a few things, surely or not so surely."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # its statistics are those of what it sees next
    noise = torch.from_numpy(np.stack(pictures(2, size, size))).permute(0, 3, 1, 2)
    inputs = model.data_preprocessor({"inputs": list(noise)})["inputs"]
    layers = [t for name, t in model.named_parameters() if "rtm_cls" in name]
    with torch.no_grad():
        model.train()(inputs)
        for tensor in layers:
            tensor.normal_() if tensor.ndim == 4 else tensor.zero_()
        spread = torch.cat([s.flatten() for s in model.eval()(inputs)[0]]).std()
        for tensor in layers:
            tensor.mul_(6 / spread) if tensor.ndim == 4 else tensor.fill_(-17)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """RTMDet-tiny as mmdet itself builds it, and its weights in a file such as mmdet writes."""
    enable_mmdet()
    from importlib.resources import files

    from mmdet.apis import init_detector
    from mmengine.model import revert_sync_batchnorm

    config = files("mmdet") / ".mim/configs/rtmdet/rtmdet_tiny_8xb32-300e_coco.py"
    torch.manual_seed(0)
    model = init_detector(
        str(config), None, device="cpu", cfg_options={"model.backbone.init_cfg": None}, palette="random"
    )
    model = revert_sync_batchnorm(model)
    lively(model, 256)
    path = tmp_path_factory.mktemp("mmdet") / "rtmdet.pth"
    torch.save({"meta": {"epoch": 300}, "state_dict": model.state_dict()}, path)
    return model, path


@pytest.fixture(scope="module")
def accuracy(reference):
    """At a quarter of RTMDet's size, which is faster."""
    return make_metric("accuracy", {"weights": str(reference[1]), "size": 160})


def test_rtmdet_agrees_with_mmdets_own_inference(reference):
    from mmdet.apis import inference_detector

    model, path = reference
    metric = make_metric("accuracy", {"weights": str(path)})
    crops = [np.ascontiguousarray(image[3:-4, 5:-2]) for image in IMAGES[:2]]
    for crop, found in zip(crops, metric.detect(crops), strict=True):
        expected = inference_detector(model, crop).pred_instances  # from a score of 0.001
        expected = expected[expected.scores > 0.05]
        assert len(expected) > 0
        assert [label for label, _ in found] == [metric.classes[i] for i in expected.labels.tolist()]
        assert [score for _, score in found] == pytest.approx(expected.scores.tolist(), abs=1e-4)
    assert metric.settings == make_metric("accuracy", {"weights": str(path)}).settings
    assert "rtmdet_tiny" in metric.label


def test_accuracy_looks_for_the_prompt_in_the_crop_in_both_orders_of_colours(accuracy):
    crops = [image[3 : h - 4, 5 : w - 2] for image, (h, w) in zip(IMAGES, SIZES, strict=True)]
    found = {
        "acc": accuracy.detect([np.ascontiguousarray(crop[..., ::-1]) for crop in crops]),  # BGR
        "acc_release": accuracy.detect([np.ascontiguousarray(crop) for crop in crops]),
    }
    assert found["acc"] != found["acc_release"]
    for column in found:
        prompts = [max(items, key=lambda item: item[1])[0] for items in found[column]]
        values = accuracy(IMAGES, MASKS, prompts, IMAGES)
        for name in found:
            sure = [{label for label, score in items if score > 0.3} for items in found[name]]
            assert values[name] == [int(p in labels) for p, labels in zip(prompts, sure, strict=True)]
        assert 1 in values[column]
    best = [max(items, key=lambda item: item[1]) for items in found["acc"]]
    assert values["best_label"] == [label for label, _ in best]
    assert values["best_score"] == pytest.approx([score for _, score in best], abs=1e-5)


def test_the_threshold_is_exclusive_and_nothing_found_is_nothing(reference, monkeypatch):
    metric = make_metric("accuracy", {"weights": str(reference[1]), "threshold": 0.5})
    answers = [[("cat", 0.5), ("dog", 0.6)], [("cat", 0.51)], []]
    monkeypatch.setattr(metric, "detect", lambda crops: answers)
    values = metric(IMAGES, MASKS, ["cat", "cat", "cat"], IMAGES)
    assert values == {
        "acc": [0, 1, 0],
        "acc_release": [0, 1, 0],
        "best_label": ["dog", "cat", None],
        "best_score": [0.6, 0.51, None],
    }
    assert metric.settings != make_metric("accuracy", {"weights": str(reference[1])}).settings


def test_batches_do_not_matter(accuracy):
    crops = [np.ascontiguousarray(image[3:-4, 5:-2]) for image in IMAGES]
    for crop, found in zip(crops, accuracy.detect(crops), strict=True):
        single = accuracy.detect([crop])[0]
        assert [label for label, _ in single] == [label for label, _ in found]
        assert [score for _, score in single] == pytest.approx([score for _, score in found], abs=1e-4)


def test_categories_that_the_detector_does_not_know_are_refused(accuracy):
    with pytest.raises(UserError, match=r"no class 'boats' \(but 'boat'\); 1 of 2 labels are none of its 80"):
        accuracy.check(["boats", "cat", "cat"])
    with pytest.raises(UserError, match=r"no class 'boats'"):
        accuracy(IMAGES, MASKS, ["boats", "cat", "cat"], IMAGES)


def test_the_miniature_sees_what_it_was_trained_on(tmp_path):
    """Its views are those of hdpainter.mini.training.detector, and it knows toy COCO's categories."""
    from mmdet.registry import MODELS
    from mmengine.config import Config

    from hdpainter.mini.training.detector import Detector, crop_view
    from hdpainter.mini.world.objects import CATEGORIES
    from ldm.util import CONFIGS

    config = Config.fromfile(CONFIGS / "models/mini-rtmdet.py")
    torch.manual_seed(0)
    network = MODELS.build(config.model)
    lively(network, 256)
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}  # the head shares some
    save_file(weights, tmp_path / "mini.safetensors")
    params = read_metrics("metrics-mini")["accuracy"] | {"weights": str(tmp_path / "mini.safetensors")}
    metric = make_metric("accuracy", params)
    assert "mini" in metric.label
    assert metric.classes == [c.name for c in CATEGORIES]
    metric.check([c.name for c in CATEGORIES])
    crops = [image[3 : h - 4, 5 : w - 2] for image, (h, w) in zip(IMAGES, SIZES, strict=True)]
    trained = Detector(network, 256)
    views = [
        crop_view(c, np.zeros((0, 4)), np.zeros(0, int), [0, 0, c.shape[1], c.shape[0]], 256)[0]
        for c in crops
    ]
    packed = [metric.transform({"img": np.ascontiguousarray(c[..., ::-1]), "img_id": 0}) for c in crops]
    inputs = network.data_preprocessor({"inputs": [p["inputs"] for p in packed]})["inputs"]
    torch.testing.assert_close(
        inputs, trained.inputs(views), rtol=0, atol=0.02
    )  # rounding of the resized sides
    expected = trained.detect(views)
    found = metric(IMAGES, MASKS, ["boat"] * 3, IMAGES)
    assert found["best_score"] == pytest.approx([float(e.scores.max()) for e in expected], abs=1e-3)


def test_mistakes_are_named(tmp_path, monkeypatch, reference):
    monkeypatch.setenv("HDPAINTER_CHECKPOINTS", str(tmp_path))
    with pytest.raises(UserError) as caught:
        make_metric("accuracy", source="")
    for part in (
        "mmdet/rtmdet_tiny_8xb32-300e_coco_20220902_112414-78e30dcc.pth",
        "https://download.openmmlab.com/mmdetection/v3.0/rtmdet/",
        "python -m eval score --metric accuracy --download",
    ):
        assert part in str(caught.value)
    with pytest.raises(UserError, match="mmdet has no config 'rtmdet_huge'"):
        make_metric("accuracy", {"config": "rtmdet_huge"})
    with pytest.raises(UserError, match=r"rtmdet\.pth does not fit rtmdet_s_8xb32-300e_coco\.py"):
        _ = make_metric(
            "accuracy", {"config": "rtmdet_s_8xb32-300e_coco", "weights": str(reference[1])}
        ).network
