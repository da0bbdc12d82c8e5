"""Folders in which diffusers saves Stable Diffusion 1 and 2: their weights under `ldm`'s names, and their config.

unet/, vae/ and text_encoder/ hold a config.json and the weights, scheduler/ a scheduler_config.json, and
model_index.json says how the parts belong together.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hdpainter.models.diffusers_keys import unet_key, vae_key
from hdpainter.models.text_layouts import as_open_clip, as_transformers, is_clip_l
from ldm.checkpoint import read_state_dict
from ldm.util import UserError, shown

PARTS = ("unet", "vae", "text_encoder")
_PREFIX = {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "text_encoder": "cond_stage_model."}
_KEYS = {"unet": unet_key, "vae": vae_key}


def is_folder(path: Path) -> bool:
    """Whether `path` is a folder of this kind."""
    return (path / "unet").is_dir()


def read_folder(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder under the names of `ldm`, memory-mapped but for joined projections.

    Raises UserError for a part that is missing or has weights unknown here.
    """
    files = zip(PARTS, weights_files(folder), strict=True)
    parts = {part: read_state_dict(file) for part, file in files}
    config = folder / "text_encoder" / "config.json"
    clip_l = _text_is_clip(read_json(config)) if config.is_file() else is_clip_l(parts["text_encoder"])
    return from_diffusers(parts, clip_l)


def from_diffusers(
    parts: Mapping[str, Mapping[str, Tensor]], clip_l: bool | None = None
) -> dict[str, Tensor]:
    """The weights of a diffusers pipeline of Stable Diffusion under the names of `ldm`.

    parts: the weights of its `unet`, `vae` and `text_encoder`. clip_l: whether the text encoder is to have
    Stable Diffusion 1's names rather than 2's; by default it is told by its width.
    Raises UserError for a name that is in none.
    """
    weights: dict[str, Tensor] = {}
    for part, tensors in parts.items():
        prefix = _PREFIX[part]
        if part == "text_encoder":
            named = as_transformers if (is_clip_l(tensors) if clip_l is None else clip_l) else as_open_clip
            weights |= {prefix + key: tensor for key, tensor in named(tensors).items()}
            continue
        for name, tensor in tensors.items():
            key = _KEYS[part](name, tensors)
            if key is None:
                raise UserError(f"{name} is not a weight of Stable Diffusion's {part} in diffusers")
            # The autoencoder's attention has 1x1 convolutions where diffusers has linear layers.
            conv = part == "vae" and ".attn_1." in key and tensor.ndim == 2
            weights[prefix + key] = tensor[:, :, None, None] if conv else tensor
    return weights


def weights_files(folder: Path) -> list[Path]:
    """The files of a checkpoint's weights: those of all parts of a diffusers folder, or the file `folder` itself.

    Raises UserError for a part without.
    """
    return [folder] if not is_folder(folder) else [weights_file(folder / part) for part in PARTS]


def weights_file(folder: Path) -> Path:
    """The file of the weights in a part's folder: .safetensors before .bin, and full before half precision.

    Raises UserError if there is none.
    """
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


# --- configs ---

# By the UNet's input channels.
_MODELS = {4: "LatentDiffusion", 9: "LatentInpaintDiffusion", 7: "LatentUpscaleDiffusion"}
_CONDITIONS = {4: "crossattn", 9: "hybrid", 7: "hybrid-adm"}
_PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
_SCHEDULES = {"scaled_linear": "linear", "linear": "sqrt_linear"}
# What `ldm`'s networks have and diffusers' may have otherwise.
_FIXED: Mapping[str, Mapping[str, Any]] = {
    "unet": {
        "act_fn": "silu",
        "addition_embed_type": None,
        "center_input_sample": False,
        "class_embed_type": None,
        "dual_cross_attention": False,
        "encoder_hid_dim": None,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "resnet_time_scale_shift": "default",
        "time_embedding_type": "positional",
        "transformer_layers_per_block": 1,
    },
    "vae": {"act_fn": "silu", "mid_block_add_attention": True, "shift_factor": None},
    "scheduler": {"rescale_betas_zero_snr": False, "trained_betas": None},
}


def folder_config(folder: Path) -> dict[str, Any]:
    """The config, `target` and `params` as in ``configs/models``, of the model in a diffusers folder.

    Raises UserError for a model that is not one of Stable Diffusion 1 or 2's text-to-image, inpainting and
    upscaling models.
    """
    files = {part: folder / part / "config.json" for part in PARTS}
    files["scheduler"] = folder / "scheduler" / "scheduler_config.json"
    read = {part: read_json(path) for part, path in files.items()}
    for part, fixed in _FIXED.items():
        for key, value in fixed.items():
            if (found := read[part].get(key, value)) != value:
                raise UserError(
                    f"{files[part]}: {key} is {shown(found)}, where Stable Diffusion 1 and 2 have "
                    f"{shown(value)}, so it cannot be run here"
                )
    try:
        return _config(read, folder)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    except (KeyError, TypeError, ZeroDivisionError, IndexError, AttributeError) as error:
        raise UserError(
            f"{folder}: its config.json files do not describe a model of Stable Diffusion 1 or 2 "
            f"({type(error).__name__}: {error})"
        ) from None


def _config(read: Mapping[str, Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    unet, vae, scheduler = read["unet"], read["vae"], read["scheduler"]
    channels = unet["in_channels"]
    if channels not in _MODELS:
        raise UserError(f"a UNet of {channels} channels is no text-to-image, inpainting or upscaling model")
    upscaler = channels == 7
    prediction, schedule = (
        scheduler.get("prediction_type", "epsilon"),
        scheduler.get("beta_schedule", "linear"),
    )
    if prediction not in _PREDICTIONS or schedule not in _SCHEDULES:
        raise UserError(f"a scheduler of {shown(prediction)} and {shown(schedule)} is not known here")
    params = {
        "timesteps": scheduler.get("num_train_timesteps", 1000),
        "beta_schedule": _SCHEDULES[schedule],
        "linear_start": scheduler.get("beta_start", 0.0001),
        "linear_end": scheduler.get("beta_end", 0.02),
        "parameterization": _PREDICTIONS[prediction],
        "conditioning_key": _CONDITIONS[channels],
        "scale_factor": vae.get("scaling_factor") or (0.08333 if upscaler else 0.18215),
        "channels": unet.get("out_channels", 4),
        "image_size": unet.get("sample_size") or 64,
        "first_stage_key": "jpg",
        "cond_stage_key": "txt",
        "use_ema": False,
        "unet_config": _unet_config(unet),
        "first_stage_config": _vae_config(vae),
        "cond_stage_config": _text_config(read["text_encoder"]),
    }
    if upscaler:
        params |= _low_scale(folder)
    return {"target": f"ldm.models.diffusion.ddpm.{_MODELS[channels]}", "params": params}


def _low_scale(folder: Path) -> dict[str, Any]:
    path = folder / "low_res_scheduler" / "scheduler_config.json"
    noise = read_json(path) if path.is_file() else {"beta_schedule": "scaled_linear"}
    index = folder / "model_index.json"
    return {
        "low_scale_key": "lr",
        "low_scale_config": {
            "target": "ldm.modules.diffusionmodules.upscaling.ImageConcatWithNoiseAugmentation",
            "params": {
                "noise_schedule_config": {
                    "beta_schedule": _SCHEDULES[noise.get("beta_schedule", "linear")],
                    "timesteps": noise.get("num_train_timesteps", 1000),
                    "linear_start": noise.get("beta_start", 0.0001),
                    "linear_end": noise.get("beta_end", 0.02),
                },
                "max_noise_level": (read_json(index) if index.is_file() else {}).get("max_noise_level")
                or 350,
            },
        },
    }


def _unet_config(unet: Mapping[str, Any]) -> dict[str, Any]:
    widths, blocks = unet["block_out_channels"], unet["down_block_types"]
    if unknown := set(blocks) - {"CrossAttnDownBlock2D", "DownBlock2D"}:
        raise UserError(f"a UNet with {sorted(unknown)[0]} is no Stable Diffusion 1 or 2")
    heads = unet.get("num_attention_heads") or unet["attention_head_dim"]  # both are the number of heads
    per_level = [heads] * len(widths) if isinstance(heads, int) else list(heads)
    attending = [i for i, block in enumerate(blocks) if block == "CrossAttnDownBlock2D"]
    head_widths = {widths[i] // per_level[i] for i in attending}
    if isinstance(heads, int) or len(set(per_level)) == 1:
        attention = {"num_heads": per_level[0]}
    elif len(head_widths) == 1:
        attention = {"num_head_channels": head_widths.pop()}
    else:
        raise UserError(f"a UNet with {shown(heads)} attention heads is no Stable Diffusion 1 or 2")
    text_only = unet.get("only_cross_attention", False)
    config = {
        "image_size": 32,
        "in_channels": unet["in_channels"],
        "out_channels": unet["out_channels"],
        "model_channels": widths[0],
        "attention_resolutions": [2**i for i in attending],
        "num_res_blocks": unet["layers_per_block"],
        "channel_mult": _multiples(widths),
        "use_spatial_transformer": True,
        "use_linear_in_transformer": unet.get("use_linear_projection", False),
        "transformer_depth": 1,
        "context_dim": unet["cross_attention_dim"],
        "num_groups": unet.get("norm_num_groups", 32),
        "legacy": False,
        **attention,
    }
    if text_only:
        levels = [text_only] * len(widths) if isinstance(text_only, bool) else list(text_only)
        middle = unet.get("mid_block_only_cross_attention")
        config |= {
            "disable_self_attentions": levels,
            "disable_middle_self_attn": text_only is True if middle is None else middle,
        }
    if unet.get("num_class_embeds"):
        config["num_classes"] = unet["num_class_embeds"]
    return {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": config}


def _multiples(widths: list[int]) -> list[int]:
    if any(width % widths[0] for width in widths):
        raise UserError(f"block_out_channels {shown(widths)} are not multiples of their first")
    return [width // widths[0] for width in widths]


def _vae_config(vae: Mapping[str, Any]) -> dict[str, Any]:
    widths = vae["block_out_channels"]
    return {
        "target": "ldm.models.autoencoder.AutoencoderKL",
        "params": {
            "embed_dim": vae["latent_channels"],
            "ddconfig": {
                "double_z": True,
                "z_channels": vae["latent_channels"],
                "resolution": 256,
                "in_channels": vae["in_channels"],
                "out_ch": vae["out_channels"],
                "ch": widths[0],
                "ch_mult": _multiples(widths),
                "num_res_blocks": vae["layers_per_block"],
                "attn_resolutions": [],
                "num_groups": vae.get("norm_num_groups", 32),
            },
            "lossconfig": {"target": "torch.nn.Identity"},
        },
    }


def _text_is_clip(text: Mapping[str, Any]) -> bool:
    """Whether a text encoder is OpenAI's (Stable Diffusion 1) rather than OpenCLIP's."""
    return text.get("hidden_act", "quick_gelu") == "quick_gelu"


def _text_config(text: Mapping[str, Any]) -> dict[str, Any]:
    if _text_is_clip(text):
        names = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers")
        sizes = {name: text[name] for name in names}
        return {
            "target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder",
            "params": {"version": sizes, "max_length": text["max_position_embeddings"]},
        }
    arch = {
        "embed_dim": text.get("projection_dim") or text["hidden_size"],
        "vision_cfg": {},
        "text_cfg": {
            "context_length": text["max_position_embeddings"],
            "vocab_size": text["vocab_size"],
            "width": text["hidden_size"],
            "heads": text["num_attention_heads"],
            "layers": text["num_hidden_layers"],  # diffusers leaves out the last block, which is not used
            "mlp_ratio": text["intermediate_size"] / text["hidden_size"],
        },
    }
    return {
        "target": "ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder",
        "params": {"arch": arch, "layer": "last", "max_length": text["max_position_embeddings"]},
    }


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a mapping")
    return content
