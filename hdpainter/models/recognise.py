"""Which model a checkpoint is of, told by the names and shapes of its tensors."""

import copy
import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from hdpainter.configs import read_model_config, read_yaml
from hdpainter.models.diffusers_folder import folder_config, is_folder, read_folder
from hdpainter.models.registry import MODELS, Stage, find_checkpoint
from hdpainter.models.text_layouts import OPEN_CLIP, TRANSFORMERS, as_open_clip, as_transformers, is_clip_l
from ldm.checkpoint import SCHEDULE, file_format, read_state_dict
from ldm.util import UserError

STEM = "model.diffusion_model.input_blocks.0.0.weight"
TEXT = "cond_stage_model."
_PARTS = ("model.diffusion_model.", "first_stage_model.", TEXT, "low_scale_model.", "model_ema.")
SD2_TEXT = (4, 1024)  # input channels and text features of SD2: at 512 px it predicts eps, at 768 px v
_MARKS = {"logvar", "lvlb_weights", "scale_factor", "v_pred", "ztsnr"}  # what training leaves, or tells of it
_COUNTERS = {"model_ema.decay", "model_ema.num_updates"}
# What files of models that cannot be run here, or of no model, have in their names.
_OTHERS = {
    r"padding_embedding": "a network of GLIDE: give --model glide, which finds it by its public name",
    r"image_bos_emb": "NUWA-LIP: give --model nuwa-lip, which finds it by its published name",
    r"conditioner\.embedders\.|.*add_embedding\.": "a Stable Diffusion XL model: only 1 and 2 run here",
    r".*(joint_blocks|double_blocks|single_transformer_blocks|transformer_blocks\.0\.attn\.add)": "a "
    "transformer such as Stable Diffusion 3 or FLUX: only Stable Diffusion 1 and 2 run here",
    r".*(lora_|\.lora\.|hada_|lokr_)": "a LoRA: give it with --lora",
    r"(control_model|controlnet_)": "a ControlNet, which adds to a model and is none",
    r"(emb_params|string_to_param|clip_[lg]$)": "a textual inversion: words for a model and no model",
    r"(down_blocks|text_model|unet|time_embedding)\.": "a part of a diffusers folder: give the folder",
    r"(encoder|decoder|quant_conv|first_stage_model)\.": "an autoencoder alone: give a file of the whole model",
}


@dataclass(frozen=True)
class Recognised:
    """config: as in ``configs/models``. name: of that config, or of the folder. notes: what to tell the user."""

    config: dict[str, Any]
    name: str
    notes: tuple[str, ...] = ()


def recognise(path: Path, parameterization: str | None = None) -> Recognised:
    """The model of a checkpoint, a file in `ldm`'s layout or a diffusers folder, from names and shapes alone.

    parameterization: `eps` or `v`, what the network predicts, where the user knows better.
    Raises UserError that says what the file looks like where it is no model that runs here.
    """
    notes: list[str] = []
    if is_folder(path):
        config, name = folder_config(path), path.name
    else:
        weights = read_state_dict(path)
        name = _known(weights, path)
        config = copy.deepcopy(_configs()[name])
        told = _prediction(weights, _metadata(path))
        if told is not None:
            config["params"]["parameterization"] = told
        elif parameterization is None and signature(config)[::2] == SD2_TEXT:
            notes.append(
                "does not say whether it predicts eps or v: taken for eps; if not: --parameterization v"
            )
        if "ztsnr" in weights:
            notes.append(
                "was trained down to zero signal (ztsnr), which the noise schedule here does not reach"
            )
    if parameterization is not None:
        config["params"]["parameterization"] = parameterization
    return Recognised(config, name, tuple(notes))


def stage_model(stage: Stage, trusted: bool = False) -> Recognised:
    """The model of a pipeline's stage: of its config, or else as recognised by its checkpoint.

    trusted: see `hdpainter.configs.read_yaml`. Raises UserError as `recognise` and `read_model_config` do.
    """
    if stage.config is None:
        return recognise(find_checkpoint(stage.checkpoint), stage.parameterization)
    config = read_model_config(stage.config, trusted)
    if stage.parameterization is not None:
        config["params"] = {**config.get("params", {}), "parameterization": stage.parameterization}
    return Recognised(config, Path(stage.config).name)


def is_text_to_image(stage: Stage, trusted: bool = False) -> bool:
    """Whether a stage 1 sees neither mask nor picture; `trusted` as for `stage_model`, which tells."""
    return str(stage_model(stage, trusted).config["target"]).endswith(".LatentDiffusion")


@functools.cache
def _configs() -> dict[str, dict[str, Any]]:
    """The diffusion models' configs in ``configs/models`` by file name."""
    configs = {}
    for path in sorted(MODELS.glob("*.yaml")):
        if "model" in read_yaml(path):
            config = read_model_config(path)
            if "unet_config" in config.get("params", {}):
                configs[path.name] = config
    return configs


Signature = tuple[int, int, int]


def signature(config: Mapping[str, Any]) -> Signature:
    """(input channels, channels of the first level, width of the text features) of a config's UNet."""
    unet = config["params"]["unet_config"]["params"]
    return unet["in_channels"], unet["model_channels"], unet["context_dim"]


def _known(weights: Mapping[str, Tensor], path: Path) -> str:
    """The name of the config whose UNet has the sizes of this one."""
    stem = weights.get(STEM)
    key = next((t for name, t in weights.items() if name.endswith("attn2.to_k.weight")), None)
    if stem is None or key is None or stem.ndim != 4 or key.ndim != 2:
        raise UserError(f"{path} {looks_like(weights)}")
    missing = [part for part in _PARTS[1:3] if not any(name.startswith(part) for name in weights)]
    if missing:
        raise UserError(
            f"{path} looks like a UNet alone: it has no {missing[0]}*; give a file of the whole model"
        )
    found = (stem.shape[1], stem.shape[0], key.shape[1])
    for name, config in _configs().items():
        if signature(config) == found:
            return name
    kinds = {5: "a depth-to-image model", 8: "a model that follows instructions (InstructPix2Pix)"}
    kind = kinds.get(found[0], "a model of this layout")
    raise UserError(
        f"{path} looks like {kind} with {found[0]} input channels, {found[1]} at the first level and text "
        f"features of {found[2]}, which none of {', '.join(_configs())} has"
    )


def looks_like(names: Iterable[str]) -> str:
    """What a file with tensors of these names is, for a message: "looks like ..."."""
    names = list(names)
    for pattern, what in _OTHERS.items():
        if any(re.match(pattern, name) for name in names):
            return f"looks like {what}"
    return f"is no Stable Diffusion checkpoint: its tensors are called {', '.join(names[:3])}, ..."


def _metadata(path: Path) -> Mapping[str, str]:
    if file_format(path) != "safetensors":
        return {}
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def _prediction(weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str | None:
    """`eps` or `v`, what the network predicts; None where the file does not say."""
    kind = metadata.get("modelspec.prediction_type", "")
    architecture = metadata.get("modelspec.architecture", "")
    if "v_pred" in weights or kind.startswith("v") or "768-v" in architecture:
        return "v"
    return "eps" if kind.startswith("eps") or "v2-512" in architecture else None


# --- names ---


def read_weights(path: Path, ema: bool = False) -> tuple[dict[str, Tensor] | None, list[str]]:
    """(the weights of a file or a diffusers folder under the names of `ldm`, what the user should know).

    None in place of the weights where the file has just these names. Raises UserError as `use_averages` does.
    """
    if is_folder(path):
        if ema:
            raise UserError(f"{path}: a diffusers folder holds no moving averages (model_ema.*) to take")
        return read_folder(path), []
    weights, notes = read_state_dict(path), []
    if averages := not ema and sum(name.startswith("model_ema.") for name in weights):
        notes.append(f"has {averages} moving averages (model_ema.*) that are not used; --ema takes them")
    kept = use_averages(weights, ema, path)
    named = as_ldm(kept)
    extra = [name for name in named if not (name.startswith(_PARTS) or SCHEDULE.fullmatch(name))]
    if told := [name for name in extra if name not in _MARKS]:
        notes.append(f"has {len(told)} tensors that are not used ({', '.join(told[:3])})")
    if extra:
        named = {name: tensor for name, tensor in named.items() if name not in set(extra)}
    return (None if named is kept and not ema else named), notes


def as_ldm(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights with the text encoder's under the names that `ldm` has for it: open_clip's but for CLIP L's."""
    text = {name.removeprefix(TEXT): tensor for name, tensor in weights.items() if name.startswith(TEXT)}
    clip_l = is_clip_l(text)
    known = any(name.endswith("token_embedding.weight") for name in text)
    if not known or all(name.startswith(TRANSFORMERS if clip_l else OPEN_CLIP) for name in text):
        return weights
    renamed = (as_transformers if clip_l else as_open_clip)(text)
    others = {name: tensor for name, tensor in weights.items() if not name.startswith(TEXT)}
    return others | {TEXT + name: tensor for name, tensor in renamed.items()}


def use_averages(weights: dict[str, Tensor], use: bool, source: Path) -> dict[str, Tensor]:
    """The weights without `model_ema.*`, with the averages in their place if `use` says so.

    Averages are named like the weights under ``model.``, without the dots. Raises UserError where there are none
    to use, and where the weights that they are of are not there.
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
