"""The names that diffusers gives to the weights of UNet and autoencoder, as names of `ldm`."""

import re
from collections.abc import Iterable, Mapping

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "class_embedding": "label_emb",
}
_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "query": "q",  # until diffusers 0.17
    "key": "k",
    "value": "v",
    "proj_attn": "proj_out",
}


def unet_key(name: str, names: Mapping[str, object]) -> str | None:
    """The `ldm` name of a weight of a diffusers UNet, or None; `names` has all of its weights.

    diffusers groups the layers by level; `ldm` numbers them through. Every level of the way down has a
    resampling layer after its blocks; on the way up the resampling follows the last block's layers.
    """
    stem, kind = name.rsplit(".", 1)
    if stem in _UNET_ENDS:
        return f"{_UNET_ENDS[stem]}.{kind}"
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", stem):
        block, index, inner = match.groups()
        position = 1 if block == "attentions" else 2 * int(index)
        return f"middle_block.{position}.{_inner(block, inner)}.{kind}"
    match = re.fullmatch(
        r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", stem
    )
    if match is None:
        return None
    way, level, block, index, inner = match.groups()
    per_level = _count(rf"{way}_blocks\.0\.resnets\.(\d+)\.", names)
    if way == "down":
        first = 1 + int(level) * (per_level + 1)
        if block == "downsamplers":
            return f"input_blocks.{first + per_level}.0.op.{kind}"
        return f"input_blocks.{first + int(index)}.{int(block == 'attentions')}.{_inner(block, inner)}.{kind}"
    first = int(level) * per_level
    if block == "upsamplers":
        position = 2 if any(other.startswith(f"up_blocks.{level}.attentions.") for other in names) else 1
        return f"output_blocks.{first + per_level - 1}.{position}.conv.{kind}"
    return f"output_blocks.{first + int(index)}.{int(block == 'attentions')}.{_inner(block, inner)}.{kind}"


def _inner(block: str, inner: str) -> str:
    return _RESNET.get(inner, inner) if block == "resnets" else inner


def _count(pattern: str, names: Mapping[str, object]) -> int:
    return len({match[1] for name in names if (match := re.match(pattern, name))})


def vae_key(name: str, names: Mapping[str, object]) -> str | None:
    """The `ldm` name of a weight of a diffusers autoencoder, or None; `names` has all of its weights."""
    stem, kind = name.rsplit(".", 1)
    if stem in ("quant_conv", "post_quant_conv"):
        return name
    match = re.fullmatch(r"(encoder|decoder)\.(.+)", stem)
    if match is None:
        return None
    half, rest = match.groups()
    if rest in ("conv_in", "conv_norm_out", "conv_out"):
        return f"{half}.{rest.removeprefix('conv_') if rest == 'conv_norm_out' else rest}.{kind}"
    if match := re.fullmatch(r"mid_block\.attentions\.0\.(.+)", rest):
        return f"{half}.mid.attn_1.{_VAE_ATTENTION[match[1]]}.{kind}" if match[1] in _VAE_ATTENTION else None
    rest = rest.replace("conv_shortcut", "nin_shortcut")
    if match := re.fullmatch(r"mid_block\.resnets\.(\d)\.(.+)", rest):
        return f"{half}.mid.block_{int(match[1]) + 1}.{match[2]}.{kind}"
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets\.(\d+)|(down|up)samplers\.0)\.(.+)", rest)
    if match is None:
        return None
    way, level, _, index, _, inner = match.groups()
    if way == "up":  # `ldm` counts levels from the image on both ways
        level = _count(rf"{half}\.up_blocks\.(\d+)\.", names) - 1 - int(level)
    block = f"{way}sample" if index is None else f"block.{index}"
    return f"{half}.{way}.{level}.{block}.{inner}.{kind}"


_RESNET_BACK = {ours: theirs for theirs, ours in _RESNET.items()}
_ENDS_BACK = {ours: theirs for theirs, ours in _UNET_ENDS.items()}


def unet_modules(names: Iterable[str]) -> dict[str, str]:
    """The weights of an `ldm` UNet by the names that diffusers has for their layers: `unet_key` the other way."""
    names = list(names)
    blocks = 1 + max(
        (int(match[1]) for name in names if (match := re.match(r"input_blocks\.(\d+)\.", name))), default=0
    )
    levels = 1 + sum(name.endswith(".op.weight") for name in names)
    per_level = (
        blocks // levels
    )  # with the resampling layer; the lowest level has none, the first a convolution
    modules = {}
    for name in names:
        stem, _, kind = name.rpartition(".")
        if kind == "weight" and (module := _module(stem, per_level)):
            modules[module] = name
    return modules


def _module(stem: str, per_level: int) -> str | None:
    if stem in _ENDS_BACK:
        return _ENDS_BACK[stem]
    if match := re.fullmatch(r"middle_block\.(\d)\.(.+)", stem):
        index, inner = match.groups()
        return (
            f"mid_block.attentions.0.{inner}"
            if index == "1"
            else f"mid_block.resnets.{int(index) // 2}.{_back(inner)}"
        )
    match = re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d)\.(.+)", stem)
    if match is None:
        return None
    half, number, position, inner = match.groups()
    way, first = ("down", 1) if half == "input" else ("up", 0)
    level, index = divmod(int(number) - first, per_level)
    if inner in ("op", "conv"):
        return f"{way}_blocks.{level}.{way}samplers.0.conv"
    if position == "1":
        return f"{way}_blocks.{level}.attentions.{index}.{inner}"
    return f"{way}_blocks.{level}.resnets.{index}.{_back(inner)}"


def _back(inner: str) -> str:
    return _RESNET_BACK.get(inner, inner)
