"""Other checkpoint files into what we load best: one .safetensors file with Stable Diffusion's own key names."""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from hdpainter.models.safetensors import write_safetensors
from ldm.checkpoint import INERT_GLOBALS, SCHEDULE, dtype_for, file_format, read_state_dict
from ldm.util import UserError


def convert(
    source: str | Path, target: str | Path, *, dtype: torch.dtype | None = None, ema: bool = False
) -> list[str]:
    """Write `target`, a .safetensors file, from a .ckpt, .pt or .safetensors file or a diffusers folder.

    Folders are those of Stable Diffusion 1.x (unet/, vae/ and text_encoder/). Moving averages (`model_ema.*`)
    are left out, or with `ema` take the place of the weights they are averages of. `dtype` is that of the
    weights in the new file; noise schedules stay float32. Needs the memory of one tensor.

    A pickle's objects other than tensors are dropped without being imported; their names are returned.
    Raises UserError if `target` exists, if `source` is not such a file or folder, and if it has averages without
    the weights that they are of.
    """
    source, target = Path(source), Path(target)
    if target.suffix != ".safetensors":
        raise UserError(f"{target}: the converted file must be named .safetensors")
    if target.exists():
        raise UserError(f"{target} exists already; remove it first or choose another name")
    if source.is_dir():
        weights, dropped = from_diffusers(_read_folder(source)), []
    else:
        file_format(source)  # raises for what is none, such as a pipe, which would be waited for
        dropped = _foreign_globals(source)
        weights = _without_averages(read_state_dict(source, (*INERT_GLOBALS, *dropped)), ema, source)
    layout = {
        name: tensor.to("meta", tensor.dtype if SCHEDULE.fullmatch(name) else dtype_for(dtype, name, tensor))
        for name, tensor in weights.items()
    }
    write_safetensors(target, layout, weights.__getitem__, {"converted_from": source.name})
    return dropped


def _foreign_globals(path: Path) -> list[str]:
    """Full names of what a torch file holds besides tensors and plain containers."""
    if not zipfile.is_zipfile(path):  # safetensors, or a form too old for this analysis
        return []
    return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))


def _without_averages(weights: dict[str, Tensor], use: bool, source: Path) -> dict[str, Tensor]:
    """The weights without `model_ema.*`, with the averages in their place if `use` says so.

    Averages are named like the weights under ``model.``, without the dots.
    """
    averages = {name: tensor for name, tensor in weights.items() if name.startswith("model_ema.")}
    if use and not averages:
        raise UserError(f"{source} holds no moving averages (model_ema.*) to take")
    kept = {name: tensor for name, tensor in weights.items() if name not in averages}
    own = {
        f"model_ema.{name.removeprefix('model.').replace('.', '')}": name
        for name in kept
        if name.startswith("model.")
    }
    lost = sorted(averages.keys() - own.keys() - _COUNTERS)
    if lost and (use or not own):
        raise UserError(
            f"{source} holds moving averages ({lost[0]}, ...) without the weights that they are of, so their "
            "names cannot be told: convert a file that has both"
        )
    if use:
        kept |= {own[average]: tensor for average, tensor in averages.items() if average in own}
    return kept


_COUNTERS = {"model_ema.decay", "model_ema.num_updates"}


# --- diffusers folders ---


def from_diffusers(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The weights of a diffusers pipeline of Stable Diffusion 1.x under the names of `ldm`.

    parts: the weights of its `unet`, `vae` and `text_encoder`. Raises UserError for a name that is in none.
    """
    weights = {}
    for part, tensors in parts.items():
        prefix, ldm_key = _PARTS[part]
        for name, tensor in tensors.items():
            if name.endswith("position_ids"):
                continue
            key = ldm_key(name, tensors)
            if key is None:
                raise UserError(f"{name} is not a weight of Stable Diffusion 1.x's {part} in diffusers")
            # The autoencoder's attention has 1x1 convolutions where diffusers has linear layers.
            conv = part == "vae" and ".attn_1." in key and tensor.ndim == 2
            weights[prefix + key] = tensor[:, :, None, None] if conv else tensor
    return weights


def _read_folder(folder: Path) -> dict[str, dict[str, Tensor]]:
    """The weights of each part of a diffusers folder, memory-mapped."""
    return {part: read_state_dict(_weights_file(folder / part)) for part in _PARTS}


def _weights_file(folder: Path) -> Path:
    stems = ("model", "pytorch_model") if folder.name == "text_encoder" else ("diffusion_pytorch_model",)
    names = [
        f"{stem}{variant}.{kind}"
        for kind in ("safetensors", "bin")
        for stem in stems
        for variant in ("", ".fp16")
    ]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder} has none of {', '.join(names)}")


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


def text_key(name: str, names: Mapping[str, object]) -> str | None:
    """The `ldm` name of a weight of CLIP's text encoder, or None if it is not one."""
    name = name.removeprefix("text_model.")  # transformers 5 leaves it out
    # Stable Diffusion 2's has 23 layers of the same names in diffusers, but another layout in `ldm`.
    known = re.match(r"embeddings\.|encoder\.layers\.(\d|1[01])\.|final_layer_norm\.", name)
    return f"transformer.text_model.{name}" if known else None


_PARTS = {
    "unet": ("model.diffusion_model.", unet_key),
    "vae": ("first_stage_model.", vae_key),
    "text_encoder": ("cond_stage_model.", text_key),
}
