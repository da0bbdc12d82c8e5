"""Accuracy: whether a detector of MMDetection finds in the mask's box what the prompt asked for."""

import difflib
import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from eval.metrics.base import Arrays, Metric, Value
from eval.metrics.crops import crop
from eval.metrics.weights import (
    HOW_TO_INSTALL,
    find_config,
    find_weights,
    identity,
    load_strictly,
    read_weights,
)
from hdpainter.mini.mmcv_lite import enable_mmdet
from ldm.util import UserError

_NEEDED = {"mmdet": "mmdet", "mmcv": "mmcv-lite", "mmengine": "mmengine", "pkg_resources": "setuptools<82"}
_FAINT = 0.05  # detections below are not looked for, unless the threshold is lower
# What mmengine puts beside the weights: the history of the losses.
_IGNORE = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "mmengine.config.config.ConfigDict",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.ndarray",
)


class Accuracy(Metric):
    """Looks at the mask's bounding box, unpadded, as the config's test pipeline prepares pictures.

    `acc`: 1 where the prompt is among the labels with a score above `threshold`, else 0; the picture is handed to
    mmdet in BGR, as it expects. `acc_release`: the same with RGB, as the authors' release did; published figures
    compare with this one. `best_label`, `best_score`: the surest detection (BGR), None where all are below 0.05.

    config: a name of a config within mmdet, or a file. weights: a file, by default what mmdet's own list names
    for the config. size: longer side of what the detector sees, in pixels; by default as the test pipeline says.
    """

    name = "accuracy"
    columns = ("acc", "acc_release", "best_label", "best_score")

    def __init__(
        self,
        config: str = "rtmdet_tiny_8xb32-300e_coco",
        weights: str | None = None,
        size: int | None = None,
        threshold: float = 0.3,
        label: str | None = None,
        device: str | torch.device = "cpu",
        download: bool = False,
    ):
        missing = [name for name in _NEEDED if find_spec(name) is None]
        if missing:
            raise UserError(
                f"the metric 'accuracy' needs {_NEEDED[missing[0]]}, which is not installed; {HOW_TO_INSTALL}"
            )
        self.config_path = _find_config(config)
        urls = [] if weights else [_public_weights(self.config_path)]
        file = weights or f"mmdet/{Path(urls[0]).name}"
        self.path = find_weights(file, urls, self.name, download)
        self.size, self.threshold, self.device = size, threshold, torch.device(device)
        self.label = label or f"Accuracy ({self.config_path.stem})"

    @property
    def settings(self) -> dict[str, Any]:
        model = hashlib.sha256(repr([self.config.model.to_dict(), self.steps]).encode()).hexdigest()
        return {
            "config": self.config_path.name,
            "model": model,
            "weights": identity(self.path),
            "threshold": self.threshold,
        }

    @cached_property
    def config(self) -> Any:
        """mmengine's Config."""
        enable_mmdet()
        with _quiet():
            from mmdet.utils import register_all_modules
            from mmengine.config import Config

            register_all_modules()
            config: Any = Config.fromfile(self.config_path)
        test: Any = config.model.get("test_cfg") or {}
        if "score_thr" in test:
            # Most of the time went into thousands of boxes with scores from 0.001, none of which can suppress a
            # surer one.
            test.score_thr = max(test.score_thr, min(_FAINT, self.threshold))
        return config

    @cached_property
    def classes(self) -> list[str]:
        """The labels that the detector knows."""
        from mmdet.registry import DATASETS

        dataset = self.config.test_dataloader.dataset
        for info in (
            self.config.get("metainfo"),
            dataset.get("metainfo"),
            DATASETS.get(dataset.type).METAINFO,
        ):
            if info and "classes" in info:
                return list(info["classes"])
        raise UserError(
            f"{self.config_path} does not say which classes the detector knows (metainfo.classes)"
        )

    @cached_property
    def steps(self) -> list[dict[str, Any]]:
        """The test pipeline's transforms, from an array on."""
        steps = [dict(step) for step in self.config.test_dataloader.dataset.pipeline]
        steps[0]["type"] = "LoadImageFromNDArray"
        for step in steps if self.size else ():
            if step["type"] == "Resize":
                step["scale"] = (self.size, self.size)
            elif step["type"] == "Pad":
                step["size"] = (self.size, self.size)
        return steps

    @cached_property
    def transform(self) -> Any:
        """Makes mmdet's inputs from ``{"img": BGR uint8 [H, W, 3], "img_id": ...}``."""
        from mmcv.transforms import Compose

        return Compose(self.steps)

    @cached_property
    def network(self) -> Any:
        """The detector, in eval mode. All its weights come from the file; nothing is downloaded."""
        from mmdet.registry import MODELS

        network = MODELS.build(deepcopy(self.config.model))  # mmdet writes into what it builds from
        load_strictly(network, read_weights(self.path, ignore=_IGNORE), self.path, self.config_path.name)
        return network.to(self.device).eval().requires_grad_(False)

    def check(self, prompts: Sequence[str]) -> None:
        unknown = sorted(set(prompts) - set(self.classes))
        if unknown:
            near = difflib.get_close_matches(unknown[0], self.classes, 1)
            hint = f" (but {near[0]!r})" if near else ""
            raise UserError(
                f"the detector of {self.config_path.name} has no class {unknown[0]!r}{hint}; {len(unknown)} of "
                f"{len(set(prompts))} labels are none of its {len(self.classes)} classes: judge by a detector "
                "that knows them (config, weights)"
            )

    def __call__(
        self, images: Arrays, masks: Arrays, prompts: Sequence[str], originals: Arrays
    ) -> dict[str, list[Value]]:
        self.check(prompts)
        crops = [crop(image, mask) for image, mask in zip(images, masks, strict=True)]
        right = self.detect([np.ascontiguousarray(part[..., ::-1]) for part in crops])
        release = self.detect([np.ascontiguousarray(part) for part in crops])
        best = [max(found, key=lambda item: item[1], default=(None, None)) for found in right]
        return {
            "acc": [self._hit(found, prompt) for found, prompt in zip(right, prompts, strict=True)],
            "acc_release": [self._hit(found, prompt) for found, prompt in zip(release, prompts, strict=True)],
            "best_label": [label for label, _ in best],
            "best_score": [score for _, score in best],
        }

    def _hit(self, found: list[tuple[str, float]], prompt: str) -> int:
        return int(any(label == prompt and score > self.threshold for label, score in found))

    @torch.no_grad()
    def detect(self, pictures: Sequence[np.ndarray]) -> list[list[tuple[str, float]]]:
        """(label, score) of all that is found in each picture, uint8 [H, W, 3] of any sizes, in BGR for mmdet."""
        inputs = [self.transform({"img": picture, "img_id": i}) for i, picture in enumerate(pictures)]
        found: list[list[tuple[str, float]]] = [[] for _ in inputs]
        shapes = [tuple(item["inputs"].shape) for item in inputs]
        for shape in dict.fromkeys(
            shapes
        ):  # one batch, unless the pipeline leaves pictures of different sizes
            rows = [i for i, other in enumerate(shapes) if other == shape]
            batch = {key: [inputs[i][key] for i in rows] for key in ("inputs", "data_samples")}
            with _quiet():
                samples = self.network.test_step(batch)
            for i, sample in zip(rows, samples, strict=True):
                labels, scores = sample.pred_instances.labels.tolist(), sample.pred_instances.scores.tolist()
                found[i] = [(self.classes[label], score) for label, score in zip(labels, scores, strict=True)]
        return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of libraries about each other's old names, which would come with every batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _configs() -> Path:
    """The folder of configs within the installed mmdet."""
    spec = find_spec("mmdet")
    assert spec is not None and spec.submodule_search_locations, "mmdet is not installed"
    return Path(spec.submodule_search_locations[0]) / ".mim" / "configs"


def _find_config(config: str) -> Path:
    if config.endswith(".py"):
        return find_config(config, "the detector's config")
    found = sorted(_configs().glob(f"*/{config}.py"))
    if not found:
        raise UserError(f"mmdet has no config {config!r}; give one of its names or a .py file")
    return found[0]


def _public_weights(config: Path) -> str:
    """Where mmdet's own list says that a config's weights are."""
    listing = config.with_name("metafile.yml")
    models = yaml.safe_load(listing.read_text()).get("Models", []) if listing.is_file() else []
    for model in models:
        if Path(model.get("Config", "")).name == config.name and model.get("Weights"):
            return model["Weights"]
    raise UserError(f"mmdet names no public weights for {config}; give 'weights', the path of a file")
