"""PickScore: which of two whole pictures people would prefer for a prompt (Kirstain et al. 2023).

A picture is scored alone, by its logit s cos(text, picture); the preference between two pictures is the softmax
of their logits. So scores are stored per picture, and any two methods can be compared later.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from eval.metrics.base import Arrays, Metric, Value
from eval.metrics.clip import OpenClip, resize
from eval.metrics.weights import (
    building,
    find_config,
    find_weights,
    identity,
    load_strictly,
    read_json,
    read_weights,
)
from ldm.util import UserError

CLIP_H = "eval/metrics-pickscore.json"
FILES = ("model.safetensors", "pytorch_model.bin")
SOURCE = "https://huggingface.co/yuvalkirstain/PickScore_v1/resolve/main/"


class PickScore(Metric):
    """`logit`: s cos(picture, prompt), of the whole picture, with PickScore's own scale s.

    Two methods are compared by `eval.stats.preference`.

    weights: a folder in the layout of transformers (config.json with model.safetensors or pytorch_model.bin), or
    such a file alone, which is then taken for a CLIP-H; by default the public PickScore_v1 in the folders of
    checkpoints. Preprocessing is that of CLIP-ViT-H-14-laion2B: shorter side to 224 pixels, bicubic, centre crop.
    """

    name = "pickscore"
    columns = ("logit",)

    def __init__(
        self,
        weights: str = "PickScore_v1",
        label: str = "PickScore",
        device: str | torch.device = "cpu",
        download: bool = False,
    ):
        self.label, self.device = label, torch.device(device)
        self.path = _find(weights, download)
        beside = self.path.with_name("config.json")
        self.config_path = beside if beside.is_file() else find_config(CLIP_H, "the config")
        self.config = read_json(self.config_path)

    @property
    def settings(self) -> dict[str, Any]:
        return {"weights": identity(self.path), "config": self.config}

    @cached_property
    def network(self) -> CLIPModel:
        """The CLIP, in eval mode and float32."""
        with building(self.config_path, "transformers"):
            network = CLIPModel(CLIPConfig.from_dict(self.config))
        weights = read_weights(self.path)
        weights = {k: v for k, v in weights.items() if not k.endswith(".position_ids")}  # in older exports
        load_strictly(network, weights, self.path, self.config_path.name)
        return network.float().to(self.device).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(
        self, images: Arrays, masks: Arrays, prompts: Sequence[str], originals: Arrays
    ) -> dict[str, list[Value]]:
        different = list(dict.fromkeys(prompts))
        tokens = open_clip.tokenize(different, self.network.config.text_config.max_position_embeddings)
        pixels = torch.stack([self.pixels(image) for image in images])
        logits = self.network(
            input_ids=tokens.to(self.device), pixel_values=pixels.to(self.device)
        ).logits_per_image
        rows = [different.index(prompt) for prompt in prompts]
        return {"logit": logits[torch.arange(len(rows)), rows].tolist()}

    def pixels(self, image: np.ndarray) -> torch.Tensor:
        """A picture as CLIP-H takes it, [3, 224, 224]."""
        size = self.network.config.vision_config.image_size
        h, w = image.shape[:2]
        scale = size / min(h, w)
        width, height = (size if side == min(h, w) else int(scale * side) for side in (w, h))
        small = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
        y, x = (height - size) // 2, (width - size) // 2
        square = small[y : y + size, x : x + size].astype(np.float32) / 255
        standard = (square - np.float32(OPENAI_DATASET_MEAN)) / np.float32(OPENAI_DATASET_STD)
        return torch.from_numpy(standard).permute(2, 0, 1).contiguous()


def _find(weights: str, download: bool) -> Path:
    """The file with the weights: `weights`, or one of the usual names in the folder `weights`."""
    if Path(weights).suffix in (".safetensors", ".bin"):
        return find_weights(weights, [], PickScore.name)
    for name in FILES:
        try:
            return find_weights(f"{weights}/{name}", [], PickScore.name)
        except UserError:
            continue
    public = [SOURCE + name for name in FILES] if weights == "PickScore_v1" else []
    return find_weights(f"{weights}/{FILES[0]}", public, PickScore.name, download)


class MiniPick(Metric):
    """`logit`: like PickScore's, with the mini CLIP and its own scale: the miniature's stand-in for PickScore.

    It has learned names of objects, not what people like. The picture is resized to the model's square.
    model, weights, prefix, quick_gelu: see `OpenClip`.
    """

    name = "minipick"
    columns = ("logit",)

    def __init__(
        self,
        model: str,
        weights: str,
        prefix: str = "",
        quick_gelu: bool | None = None,
        label: str = "mini CLIP preference",
        device: str | torch.device = "cpu",
        download: bool = False,
    ):
        self.clip = OpenClip(
            model, weights, prefix, quick_gelu, metric=self.name, device=device, download=download
        )
        self.label = label

    @property
    def settings(self) -> dict[str, Any]:
        return self.clip.settings

    def __call__(
        self, images: Arrays, masks: Arrays, prompts: Sequence[str], originals: Arrays
    ) -> dict[str, list[Value]]:
        cosines = self.clip.cosines([resize(image, self.clip.size, "area") for image in images], prompts)
        return {"logit": (self.clip.network.logit_scale.exp().clamp(max=100) * cosines).tolist()}
