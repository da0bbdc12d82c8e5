"""The two ways to name a CLIP text encoder's weights: transformers' and open_clip's.

Stable Diffusion 1 has the first in its checkpoints, Stable Diffusion 2 the second, diffusers the first for both.
open_clip keeps the projections of queries, keys and values of a layer in one matrix.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ldm.util import UserError

TRANSFORMERS = "transformer.text_model."  # what the names begin with below `cond_stage_model.`
OPEN_CLIP = "model."

_ENDS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_PROJECTIONS = tuple(f"self_attn.{which}_proj" for which in "qkv")
_LEFT_OUT = (
    "embeddings.position_ids",
    "text_projection.weight",
    "logit_scale",
)  # no prompt's features need them


def is_clip_l(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a text encoder, by either of its names, is as wide as CLIP L, that of Stable Diffusion 1."""
    tokens = next((t for name, t in tensors.items() if name.endswith("token_embedding.weight")), None)
    return tokens is not None and tokens.shape[1] == 768


def as_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under transformers' names as `ldm` has them, from those names with or without what they begin
    with in `ldm` (``transformer.text_model.``), or from open_clip's.

    Raises UserError for a name that is none of either.
    """
    weights: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith(OPEN_CLIP):
            weights |= _from_open_clip(name.removeprefix(OPEN_CLIP), tensor)
        elif (plain := _plain(name)) not in _LEFT_OUT:
            if plain not in _ENDS and _LAYER_NAME.fullmatch(plain) is None:
                raise UserError(f"{name} is no weight of a CLIP text encoder")
            weights[TRANSFORMERS + plain] = tensor
    return weights


def as_open_clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under open_clip's names as `ldm` has them (``model.``), from transformers' or these.

    Needs memory for the joined projections. Raises UserError for a name that is none of either, and for a
    projection without the two that belong to it.
    """
    weights: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        plain = _plain(name)
        if name.startswith(OPEN_CLIP):
            weights[name] = tensor
        elif plain in _ENDS:
            weights[OPEN_CLIP + _ENDS[plain]] = tensor
        elif match := _LAYER_NAME.fullmatch(plain):
            layer, inner, kind = match.groups()
            block = f"{OPEN_CLIP}transformer.resblocks.{layer}"
            if inner in _LAYER:
                weights[f"{block}.{_LAYER[inner]}.{kind}"] = tensor
            else:
                parts.setdefault(f"{block}.attn.in_proj_{kind}", {})[inner] = tensor
        elif plain not in _LEFT_OUT:
            raise UserError(f"{name} is no weight of a CLIP text encoder")
    for name, found in parts.items():
        if len(found) < len(_PROJECTIONS):
            raise UserError(f"{name} needs q, k and v; there is only {', '.join(sorted(found))}")
        weights[name] = torch.cat([found[which] for which in _PROJECTIONS])
    return weights


_LAYER_NAME = re.compile(
    rf"encoder\.layers\.(\d+)\.({'|'.join(map(re.escape, (*_LAYER, *_PROJECTIONS)))})\.(weight|bias)"
)


def _plain(name: str) -> str:
    """transformers' name without what stands before it; transformers 5 leaves out `text_model.`."""
    return name.removeprefix("transformer.").removeprefix("text_model.")


def _from_open_clip(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """The weight, or the three of a joined projection, under transformers' names; none where nobody needs it."""
    for theirs, ours in _ENDS.items():
        if name == ours:
            return {TRANSFORMERS + theirs: tensor}
    if match := re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)", name):
        layer, inner, kind = match.groups()
        block = f"{TRANSFORMERS}encoder.layers.{layer}"
        if inner == "attn.in_proj":
            return {
                f"{block}.{which}.{kind}": part
                for which, part in zip(_PROJECTIONS, tensor.chunk(3), strict=True)
            }
        for theirs, ours in _LAYER.items():
            if inner == ours:
                return {f"{block}.{theirs}.{kind}": tensor}
    if name in ("text_projection", "logit_scale", "attn_mask") or name.startswith("visual."):
        return {}
    raise UserError(f"{OPEN_CLIP}{name} is no weight of a CLIP text encoder")


def modules(names: Iterable[str]) -> dict[str, tuple[str, int | None]]:
    """The weights of an `ldm` text encoder by the names that transformers has for their layers.

    Each with the third that is meant of a joined projection of open_clip's; None: all of it.
    """
    found: dict[str, tuple[str, int | None]] = {}
    for name in names:
        if name.startswith(TRANSFORMERS):
            found[name.removeprefix(TRANSFORMERS).removesuffix(".weight")] = (name, None)
        elif match := re.fullmatch(r"model\.transformer\.resblocks\.(\d+)\.(.+?)[._]weight", name):
            layer, inner = f"encoder.layers.{match[1]}", match[2]
            if inner == "attn.in_proj":
                found |= {f"{layer}.{which}": (name, third) for third, which in enumerate(_PROJECTIONS)}
            for theirs, ours in _LAYER.items():
                if inner == ours:
                    found[f"{layer}.{theirs}"] = (name, None)
    return found
