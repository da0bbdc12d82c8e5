"""CLIP score: how well what is in the mask's box agrees with the prompt."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor

from eval.metrics.base import Arrays, Metric, Value
from eval.metrics.crops import crop, pad_square
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

Resample = Literal["cubic", "area"]


class OpenClip:
    """A model of open_clip with its weights.

    model: a name that open_clip knows, or a JSON file in its format.
    weights: a tag that open_clip knows for the model, such as "openai", or a file; one named like
        ``...-openai.safetensors`` is taken for the tag's.
    prefix: of the names of the model's weights within the file.
    quick_gelu: whether the weights were trained with the quick GELU, which the file does not say; by default as
        open_clip says of the tag, or as the config does.
    metric: for whom it judges; for messages. download: fetch the weights if they are missing.

    Raises UserError for unknown models and missing weights.
    """

    def __init__(
        self,
        model: str,
        weights: str,
        prefix: str = "",
        quick_gelu: bool | None = None,
        *,
        metric: str,
        device: str | torch.device = "cpu",
        download: bool = False,
    ):
        self.prefix, self.device = prefix, torch.device(device)
        self.config = _read_config(model)
        self.name = Path(model).stem
        tag = open_clip.get_pretrained_cfg(self.name, weights)
        file = f"open_clip/{self.name}-{weights}.safetensors" if tag else weights
        self.path = find_weights(file, _urls(tag), metric, download)
        tag = tag or _tag_of(self.name, self.path)
        self.mean = tuple(tag.get("mean", OPENAI_DATASET_MEAN))
        self.std = tuple(tag.get("std", OPENAI_DATASET_STD))
        self.quick_gelu = self._quick_gelu(quick_gelu, tag, metric)
        size = self.config["vision_cfg"]["image_size"]
        self.size: int = size[0] if isinstance(size, list | tuple) else size
        self._texts: dict[str, Tensor] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """What determines the features. What goes without saying is left out."""
        usual = {
            "prefix": "",
            "quick_gelu": bool(self.config.get("quick_gelu", False)),
            "mean": OPENAI_DATASET_MEAN,
            "std": OPENAI_DATASET_STD,
        }
        special = {key: getattr(self, key) for key, value in usual.items() if getattr(self, key) != value}
        return {"model": self.name, "config": self.config, "weights": identity(self.path), **special}

    def _quick_gelu(self, given: bool | None, tag: dict[str, Any], metric: str) -> bool:
        """Whether the network has the quick GELU. Raises UserError where that cannot be known.

        A wrong one raises no error but gives wrong scores.
        """
        own = self.config.get("quick_gelu")
        if given is False and own:
            raise UserError(
                f"metrics: {metric}: quick_gelu is false, but {self.name} has it: give another model"
            )
        if given is not None:
            return given
        known = [open_clip.get_pretrained_cfg(self.name, name) for name in _tags(self.name)]
        if not tag and not own and any(each.get("quick_gelu") for each in known):
            raise UserError(
                f"metrics: {metric}: there are weights of {self.name} trained with the quick GELU and without, "
                f"and {self.path.name} does not say which it is: give quick_gelu (OpenAI's own: true)"
            )
        return bool(tag.get("quick_gelu", own or False))

    @cached_property
    def network(self) -> open_clip.CLIP:
        """The model, in eval mode."""
        if open_clip.get_model_config(self.name) == self.config:
            network = open_clip.create_model(self.name, force_quick_gelu=self.quick_gelu)
        else:
            network = open_clip.CLIP(**{**self.config, "quick_gelu": self.quick_gelu})
        weights = read_weights(self.path, self.prefix)
        load_strictly(network, weights, self.path, f"open_clip's {self.name}")
        return network.to(self.device).eval().requires_grad_(False)

    @cached_property
    def tokenize(self) -> open_clip.SimpleTokenizer:
        """CLIP's tokenizer: texts to [N, context length]."""
        return open_clip.SimpleTokenizer(context_length=self.config["text_cfg"].get("context_length", 77))

    @torch.no_grad()
    def cosines(self, pictures: Sequence[np.ndarray], prompts: Sequence[str]) -> Tensor:
        """cos(picture, prompt) [B] of pictures, RGB uint8 [size, size, 3], and their prompts."""
        x = (
            torch.from_numpy(np.stack(pictures)).to(self.device).permute(0, 3, 1, 2).contiguous().float()
            / 255
        )
        mean, std = (torch.tensor(v, device=self.device)[:, None, None] for v in (self.mean, self.std))
        images = F.normalize(self.network.encode_image((x - mean) / std), dim=-1)
        texts = torch.stack([self._text(prompt) for prompt in prompts])
        return (images * texts).sum(-1)

    def _text(self, prompt: str) -> Tensor:
        """The prompt's feature [d]; benchmarks have few different prompts, so they are kept."""
        if prompt not in self._texts:
            tokens = self.tokenize([prompt]).to(self.device)
            self._texts[prompt] = F.normalize(self.network.encode_text(tokens), dim=-1)[0]
        return self._texts[prompt]


def _read_config(model: str) -> dict[str, Any]:
    if not model.endswith(".json"):
        config = open_clip.get_model_config(model)
        if config is None:
            raise UserError(
                f"open_clip has no model {model!r}; see open_clip.list_models(), or give a .json file"
            )
    else:
        path = find_config(model, "the CLIP config")
        config = read_json(path)
        if not {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys():
            raise UserError(f"{path} is no open_clip config: it needs embed_dim, vision_cfg and text_cfg")
        with building(path, "open_clip"), torch.device("meta"):  # before its weights are looked for
            open_clip.CLIP(**config)
            config["vision_cfg"]["image_size"], config["text_cfg"].keys()
    if {"hf_model_name", "hf_tokenizer_name"} & config["text_cfg"].keys():
        raise UserError(f"open_clip's {model} takes its tokenizer from a hub; choose a model with CLIP's own")
    return config


def _tags(model: str) -> list[str]:
    return open_clip.list_pretrained_tags_by_model(model)


def _tag_of(model: str, file: Path) -> dict[str, Any]:
    """What open_clip says of the weights whose tag ends the file's name, "ViT-B-16-openai"; empty for others."""
    for name in _tags(model):
        if file.stem.replace("_", "-").lower().endswith(f"-{name}".replace("_", "-").lower()):
            return open_clip.get_pretrained_cfg(model, name)
    return {}


def _urls(tag: dict[str, Any]) -> list[str]:
    """Where open_clip's weights of a tag come from."""
    repository, _, file = tag.get("hf_hub", "").rpartition("/")
    names = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    urls = [f"https://huggingface.co/{repository}/resolve/main/{name}" for name in names if repository]
    return urls or [url for url in [tag.get("url")] if url]


def resize(picture: np.ndarray, size: int, resample: Resample) -> np.ndarray:
    """A picture [H, W, 3] at [size, size, 3]; "area" averages when it shrinks, "cubic" never does."""
    area = resample == "area" and max(picture.shape[:2]) > size
    return cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA if area else cv2.INTER_CUBIC)


class ClipScore(Metric):
    """`clip`: 100 cos(crop, prompt), at least 0; higher is better.

    The crop is the mask's bounding box, padded with black to a square and resized. The defaults are those of the
    authors' release: CLIP ViT-B/16 of OpenAI at 224 pixels, cubic interpolation without averaging.
    model, weights, prefix, quick_gelu: see `OpenClip`. resample: how crops get to the model's size, see `resize`.
    label: what a table prints.
    """

    name = "clip"
    columns = ("clip",)

    def __init__(
        self,
        model: str = "ViT-B-16",
        weights: str = "openai",
        prefix: str = "",
        resample: Resample = "cubic",
        quick_gelu: bool | None = None,
        label: str | None = None,
        device: str | torch.device = "cpu",
        download: bool = False,
    ):
        self.clip = OpenClip(
            model, weights, prefix, quick_gelu, metric=self.name, device=device, download=download
        )
        self.resample = resample
        self.label = label or f"CLIP score ({self.clip.name})"

    @property
    def settings(self) -> dict[str, Any]:
        return {**self.clip.settings, "resample": self.resample}

    def __call__(
        self, images: Arrays, masks: Arrays, prompts: Sequence[str], originals: Arrays
    ) -> dict[str, list[Value]]:
        crops = [pad_square(crop(image, mask)) for image, mask in zip(images, masks, strict=True)]
        pictures = [resize(picture, self.clip.size, self.resample) for picture in crops]
        return {"clip": (100 * self.clip.cosines(pictures, prompts)).clamp(min=0).tolist()}
