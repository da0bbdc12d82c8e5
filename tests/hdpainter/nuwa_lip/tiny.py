"""The networks of the golden cases, small enough for a test, and masks for them."""

from functools import cache

import torch
from torch import Tensor

from hdpainter.baselines.nuwa_lip.dfvqgan import DFVQGAN
from hdpainter.baselines.nuwa_lip.mps2s import MPS2S
from tests.support import golden, rule_w

_SAME = (
    "dim",
    "dec_depth",
    "enc_depth",
    "heads",
    "dim_head",
    "ff_mult",
    "attn_types_dec",
    "kernel_size",
    "img_size",
    "vae_patch_size",
    "vit_patch_size",
)


def vae_config(given: dict) -> dict:
    coder, book = given["coder"], given["quantize"]
    same = {name: coder[name] for name in ("ch", "ch_mult", "num_res_blocks", "z_channels")}
    return same | {"n_embed": book["n_e"], "embed_dim": book["e_dim"]}


def config() -> dict:
    """The parameters of the golden cases' MP-S2S."""
    given = golden("nuwa_mps2s")[0]["config"]
    text = given["clip_text"]
    return {name: given[name] for name in _SAME} | {
        "vae": vae_config(given["vae"]),
        "clip_text": {
            "vocabulary": text["vocab"],
            **{name: text[name] for name in ("width", "heads", "layers", "context")},
        },
        "clip_sim": None,
    }


def reading_config() -> dict:
    """The same with a narrow text tower for CLIP's own tokens, and a CLIP that ranks."""
    text = {"vocabulary": 49408, "width": 64, "heads": 2, "layers": 1, "context": 77}
    return config() | {"clip_text": text, "clip_sim": "configs/models/mini-clip.json"}


@cache
def vqgan() -> DFVQGAN:
    return rule_w(DFVQGAN(**vae_config(golden("nuwa_dfvqgan")[0]["config"])))


@cache
def network() -> MPS2S:
    return rule_w(MPS2S(**config()))


@cache
def reading_network() -> MPS2S:
    return rule_w(MPS2S(**reading_config()))


def some_mask(seed: int, size: tuple[int, int], batch: int = 2) -> Tensor:
    """Rectangles, one for each picture: bool [B, 1, *size]."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(batch, 1, *size, dtype=torch.bool)
    for row in mask[:, 0]:
        top, left = (int(torch.randint(0, side, (), generator=generator)) for side in size)
        height, width = (int(torch.randint(1, side + 1, (), generator=generator)) for side in size)
        row[top : top + height, left : left + width] = True
    return mask
