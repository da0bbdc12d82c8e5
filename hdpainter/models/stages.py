"""What the configs of a pipeline's stages tell before torch is imported, which takes seconds."""

from collections.abc import Iterable, Mapping
from typing import Any

from hdpainter.configs import read_model_config
from hdpainter.models.registry import PipelineSpec
from ldm.util import UserError

_STAGES = {
    "ldm.models.diffusion.ddpm.LatentInpaintDiffusion": "inpainting",
    "ldm.models.diffusion.ddpm.LatentDiffusion": "inpainting",  # for methods that blend
    "ldm.models.diffusion.ddpm.LatentUpscaleDiffusion": "upscaler",
}
_UNET = "ldm.modules.diffusionmodules.openaimodel.UNetModel"


def check_stages(spec: PipelineSpec, superres: bool = True, trusted: bool = False) -> None:
    """Raise UserError where a stage's config is that of another model, or its UNet lacks a level of the methods.

    superres: whether the upscaler is wanted. trusted: see `hdpainter.configs.read_yaml`. What no
    config tells is told when the model is built.
    """
    if spec.kind != "ldm":
        return
    for name, stage in (spec.stages if superres else spec.stage1).items():
        if stage.config is not None:
            target = str(read_model_config(stage.config, trusted)["target"])
            if target.startswith("ldm.") and _STAGES.get(target) != name:
                raise not_of_stage(stage.config, name)
    check_levels(spec, "painta_levels", trusted)
    check_levels(spec, "rasg_levels", trusted)


def check_levels(spec: PipelineSpec, key: str, trusted: bool = False) -> None:
    """Raise UserError where stage 1's UNet has no cross-attention at one of the factors ``spec.<key>``."""
    config = spec.inpainting.config
    known = None if config is None else _levels(read_model_config(config, trusted).get("params"))
    if known is None:
        return
    if missing := sorted(set(getattr(spec, key)) - known):
        raise UserError(
            f"{spec.name}: {key}: the UNet of {config} has no cross-attention at downsampling factor "
            f"{', '.join(map(str, missing))}, only at {', '.join(map(str, sorted(known)))}"
        )


def not_of_stage(config: str, stage: str) -> UserError:
    """That a config is not the one of a stage's model."""
    return UserError(f"{config} is not the config of an {stage} model")


def _levels(params: Any) -> set[int] | None:
    """The downsampling factors at which the UNet of a latent diffusion model attends to the text.

    They are those of attention_resolutions, and the middle block's. None where the values are none that a UNet
    has, or are another network's.
    """
    unet = params.get("unet_config") if isinstance(params, Mapping) else None
    if (
        not isinstance(unet, Mapping)
        or unet.get("target") != _UNET
        or not isinstance(unet.get("params"), Mapping)
    ):
        return None
    resolutions, mult = (unet["params"].get(key) for key in ("attention_resolutions", "channel_mult"))
    if not (_whole(resolutions) and _whole(mult) and unet["params"].get("use_spatial_transformer")):
        return None
    factors = [2**level for level in range(len(mult))]
    return {factors[-1], *(factor for factor in factors if factor in resolutions)}


def _whole(values: Any) -> bool:
    return isinstance(values, Iterable) and bool(values) and all(type(value) is int for value in values)
