"""Training of a small RTMDet of mmdet on toy COCO, the detector behind the accuracy of the miniature tables."""

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from hdpainter.mini.mmcv_lite import enable_mmdet
from hdpainter.mini.scenes import SceneCache, scene_cache
from hdpainter.mini.training.base import Training, require_file, tile
from hdpainter.mini.training.decoys import SMALLEST, decoy
from hdpainter.mini.world.objects import CATEGORIES

if TYPE_CHECKING:  # it can be imported after `enable_mmdet`
    from mmdet.models import BaseDetector

PADDING = 114  # grey level beside a picture, as in mmdet's pipelines
LEAST_VISIBLE = 0.3  # part of an object's box that a crop must hold for the object to count
DECOYS = 0.3  # share of views in which a pattern has taken an object's place
View = tuple[np.ndarray, np.ndarray, np.ndarray]
"""RGB uint8 [size, size, 3], boxes [N, 4] in pixels, indices into CATEGORIES [N]."""


def build_detector(path: str) -> "BaseDetector":
    """The mmdet model of a config file, untrained."""
    require_file(path, "detector config")
    enable_mmdet()
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.config import Config

    register_all_modules()
    config = Config.fromfile(path)
    config.model.backbone.init_cfg = None
    model = MODELS.build(config.model)
    model.init_weights()
    return model


class Views(IterableDataset):
    """Endless batches of whole scenes and of enlarged crops around objects, with boxes.

    Accuracy is measured on crops of what was filled in, so half of the views are such crops. In some an object
    has given way to a pattern (`decoys`), which has no label.
    """

    def __init__(self, cache: SceneCache, batch: int, size: int, seed: int):
        self.cache, self.batch, self.size, self.seed = cache, batch, size, seed

    def __iter__(self) -> Iterator[list[View]]:
        cv2.setNumThreads(1)
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng((self.seed, worker.id if worker else 0))
        while True:
            yield [self.view(rng) for _ in range(self.batch)]

    def view(self, rng: np.random.Generator) -> View:
        """One view."""
        i = int(rng.integers(len(self.cache.images)))
        image, objects = self.cache.images[i], self.cache.records[i]["objects"]
        boxes = np.array([o["box"] for o in objects]) * len(image)
        labels = np.array([o["category"] for o in objects])
        x0, y0, x1, y1 = box = boxes[rng.integers(len(boxes))]
        if rng.random() < DECOYS and min(x1 - x0, y1 - y0) >= SMALLEST:
            image = decoy(image, box.round().astype(int), rng)
            intact = coverage(boxes, box) < LEAST_VISIBLE
            boxes, labels = boxes[intact], labels[intact]
        if rng.random() < 0.5:
            return crop_view(image, boxes, labels, [0, 0, len(image), len(image)], self.size)
        margin = rng.uniform(-0.05, 0.3, 4) * [x1 - x0, y1 - y0, x1 - x0, y1 - y0]
        window = np.clip(box + margin * [-1, -1, 1, 1], 0, len(image))
        return crop_view(image, boxes, labels, window.round().astype(int), self.size)


def coverage(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The share of each of the `boxes` [N, 4] that lies in `box` [4]."""
    common = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    return common.clip(0).prod(1) / (boxes[:, 2:] - boxes[:, :2]).prod(1)


def crop_view(
    image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, window: Sequence[int] | np.ndarray, size: int
) -> View:
    """The `window` [x0, y0, x1, y1] of a picture with its longer side scaled to `size`, padded on the right and
    below, and the boxes of what it holds."""
    x0, y0, x1, y1 = window
    scale = size / max(x1 - x0, y1 - y0)
    w, h = (max(round((b - a) * scale), 1) for a, b in ((x0, x1), (y0, y1)))
    view = np.full((size, size, 3), PADDING, np.uint8)
    view[:h, :w] = cv2.resize(image[y0:y1, x0:x1], (w, h), interpolation=cv2.INTER_LINEAR)
    cut = np.clip((boxes - [x0, y0, x0, y0]) * scale, 0, [w, h, w, h])
    area = (cut[:, 2] - cut[:, 0]) * (cut[:, 3] - cut[:, 1])
    whole = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) * scale**2
    kept = area > LEAST_VISIBLE * whole
    return view, cut[kept], labels[kept]


class Detector:
    """An mmdet model that looks at square RGB pictures of `size` pixels."""

    def __init__(self, network: "BaseDetector", size: int = 256):
        self.network, self.size = network, size

    def inputs(self, views: list[np.ndarray]) -> Tensor:
        """Views as mmdet's RTMDet takes them: BGR, standardised."""
        x = (
            torch.from_numpy(np.stack(views)[..., ::-1].copy())
            .movedim(-1, 1)
            .contiguous()
            .float()
            .to(next(self.network.parameters()))
        )
        preprocessor = self.network.data_preprocessor
        return (x - preprocessor.mean.to(x)) / preprocessor.std.to(x)

    def samples(self, count: int) -> list:
        """Empty data samples of mmdet for pictures that need no rescaling."""
        from mmdet.structures import DetDataSample

        shape = (self.size, self.size)
        shapes = dict.fromkeys(("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), shape)
        info = shapes | {"scale_factor": (1.0, 1.0)}
        return [DetDataSample(metainfo=info) for _ in range(count)]

    @torch.no_grad()
    def detect(self, views: list[np.ndarray]) -> list:
        """mmdet's instances (bboxes [N, 4], labels [N], scores [N]) in each view, on the CPU."""
        self.network.eval()
        found = []
        for i in range(0, len(views), 16):
            part = views[i : i + 16]
            found += self.network.predict(self.inputs(part), self.samples(len(part)), rescale=True)
        return [sample.pred_instances.cpu() for sample in found]


class DetectorTraining(Training):
    """Trains the detector of the mmdet config file `config`."""

    network: "BaseDetector"
    average: "BaseDetector"

    def __init__(
        self,
        config: str,
        cache: str | Path,
        size: int = 256,
        scenes: int = 6000,
        held_out: int = 200,
        batch: int = 12,
        seed: int = 0,
        **budget: Any,
    ):
        super().__init__(build_detector(config), **budget)
        self.size = size
        self.detector = Detector(self.average, size)
        self.data = Views(scene_cache(cache, "train", scenes, size, self.workers), batch, size, seed)
        self.held_out = scene_cache(cache, "val", held_out, size, self.workers)

    def train_dataloader(self) -> DataLoader:
        self.data.seed = hash((self.data.seed, self.global_step)) % 2**32
        return self.loader(self.data)

    def transfer_batch_to_device(self, batch: list[View], device: torch.device, index: int) -> list[View]:
        return batch

    def loss(self, batch: list[View]) -> tuple[Tensor, Mapping[str, Tensor]]:
        from mmengine.structures import InstanceData

        learner = Detector(self.network, self.size)
        samples = learner.samples(len(batch))
        for sample, (_, boxes, labels) in zip(samples, batch, strict=True):
            sample.gt_instances = InstanceData(
                bboxes=torch.as_tensor(boxes, dtype=torch.float32, device=self.device).reshape(-1, 4),
                labels=torch.as_tensor(labels, dtype=torch.long, device=self.device),
            )
        losses = self.network.loss(learner.inputs([view for view, _, _ in batch]), samples)
        zero = torch.zeros((), device=self.device)
        parts = {k: sum(v, zero) if isinstance(v, list) else v for k, v in losses.items()}
        return sum(parts.values(), zero), parts

    def evaluate(self) -> dict[str, float]:
        """COCO mAP at IoU 0.5 on held-out scenes; how often a label is found (score > 0.3) in its crop, and how
        often still when a pattern has taken its object's place."""
        images, records = self.held_out.images, self.held_out.records
        figures = {"map50": average_precision(records, self.detector.detect(list(images)), self.size)}
        crops, decoys, wanted = [], [], []
        rng = np.random.default_rng(0)
        for image, record in zip(images, records, strict=True):
            for item in record["objects"]:
                window = np.round(np.array(item["box"]) * self.size).astype(int)
                if min(window[2] - window[0], window[3] - window[1]) >= 16:
                    nothing = np.zeros((0, 4)), np.zeros(0, int)
                    crops.append(crop_view(image, *nothing, window, self.size)[0])
                    decoys.append(crop_view(decoy(image, window, rng), *nothing, window, self.size)[0])
                    wanted.append(item["category"])
        for name, views in (("found_in_crops", crops), ("found_in_decoys", decoys)):
            found = self.detector.detect(views)
            hits = [w in set(f.labels[f.scores > 0.3].tolist()) for f, w in zip(found, wanted, strict=True)]
            figures[name] = float(np.mean(hits))
        return figures

    def sheet(self) -> np.ndarray:
        """Held-out scenes with the boxes that are found."""
        views = [image.copy() for image in self.held_out.images[:12]]
        for view, found in zip(views, self.detector.detect(list(views)), strict=True):
            for box, label, score in zip(
                found.bboxes.tolist(), found.labels.tolist(), found.scores, strict=True
            ):
                if score > 0.3:
                    x0, y0, x1, y1 = map(round, box)
                    cv2.rectangle(view, (x0, y0), (x1, y1), (255, 0, 255), 1)
                    cv2.putText(view, CATEGORIES[label].name, (x0, y0 + 10), 0, 0.35, (255, 0, 255), 1)
        return tile(np.stack(views), 6)


def average_precision(records: list[dict], found: list, size: int) -> float:
    """pycocotools' mAP at IoU 0.5 of detections against the records' boxes."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for i, (record, instances) in enumerate(zip(records, found, strict=True), 1):
        for item in record["objects"]:
            x0, y0, x1, y1 = (v * size for v in item["box"])
            box = [x0, y0, x1 - x0, y1 - y0]
            truth.append({"id": len(truth) + 1, "image_id": i, "category_id": item["category"] + 1, "bbox": box,
                          "area": box[2] * box[3], "iscrowd": 0})  # fmt: skip
        for (x0, y0, x1, y1), label, score in zip(
            instances.bboxes.tolist(), instances.labels.tolist(), instances.scores.tolist(), strict=True
        ):
            results.append(
                {"image_id": i, "category_id": label + 1, "bbox": [x0, y0, x1 - x0, y1 - y0], "score": score}
            )
    if not results:
        return 0.0
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        categories = [{"id": i + 1, "name": c.name} for i, c in enumerate(CATEGORIES)]
        images = [{"id": i + 1, "width": size, "height": size} for i in range(len(records))]
        dataset: Any = {"info": {}, "images": images, "annotations": truth, "categories": categories}
        coco.dataset = dataset
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[1])
