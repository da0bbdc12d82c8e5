"""Judges small enough for tests, with random weights."""

import json
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PREFIX = "cond_stage_model.model."
HF_CLIP = {
    "model_type": "clip",
    "projection_dim": 16,
    "text_config": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": 16,
        "hidden_act": "gelu",
    },
    "vision_config": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
        "projection_dim": 16,
        "hidden_act": "gelu",
    },
}


def tiny_clip(folder: Path) -> dict[str, str]:
    """Write an open_clip model as part of a larger checkpoint; the parameters of a metric that uses it."""
    (folder / "tiny-clip.json").write_text(json.dumps(CLIP))
    torch.manual_seed(0)
    weights = {PREFIX + name: tensor for name, tensor in open_clip.CLIP(**CLIP).state_dict().items()}
    save_file(weights | {"model.other": torch.zeros(1)}, folder / "tiny-clip.safetensors")
    return {
        "model": str(folder / "tiny-clip.json"),
        "weights": str(folder / "tiny-clip.safetensors"),
        "prefix": PREFIX,
    }


def tiny_pickscore(folder: Path) -> CLIPModel:
    """Write a CLIP in the layout of transformers to config.json, model.safetensors and pytorch_model.bin."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(HF_CLIP))
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig.from_dict(HF_CLIP)).eval()
    for parameter in model.parameters():  # transformers initialises so small that all pictures look alike
        parameter.data += 0.2 * torch.randn_like(parameter) if parameter.ndim else 0
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    torch.save(
        weights | {"text_model.embeddings.position_ids": torch.arange(77)[None]}, folder / "pytorch_model.bin"
    )
    return model


def pictures(count: int, height: int, width: int, seed: int = 0) -> list[np.ndarray]:
    """RGB pictures of coarse noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, height // 4 + 1, width // 4 + 1, 3), np.uint8)
    return list(coarse.repeat(4, 1).repeat(4, 2)[:, :height, :width])


def rectangle(height: int, width: int, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
    """A mask [height, width] that is True in a box."""
    mask = np.zeros((height, width), bool)
    mask[y0:y1, x0:x1] = True
    return mask
