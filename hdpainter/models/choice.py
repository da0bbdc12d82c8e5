"""What a user may say of a model: which pipeline, and which weights in place of its own."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from hdpainter.models.registry import DEFAULT_MODEL, PipelineSpec, Stage, find_checkpoint, pipeline_names
from hdpainter.settings import setting
from hdpainter.values import Checked
from ldm.util import UserError

GROUP = "model and method"


@dataclass(frozen=True, kw_only=True)
class ModelChoice(Checked):
    """The one table behind the arguments of `HDPainter.from_config`, the flags, and the keys of job files."""

    model: str | None = setting(GROUP, f"model (default: {DEFAULT_MODEL})")
    checkpoint: str | None = setting(
        GROUP, "a file in any known layout, or a diffusers folder, in place of the model's stage 1"
    )
    parameterization: Literal["eps", "v"] | None = setting(
        GROUP, "what the checkpoint predicts, eps or v, where it does not say"
    )
    ema: bool = setting(GROUP, "take the checkpoint's moving averages as its weights", default=False)
    lora: tuple[str, ...] = setting(
        GROUP, "FILE[:SCALE] of a LoRA to add to stage 1; may be given several times", default=()
    )

    @property
    def given(self) -> dict[str, Any]:
        """The values that are not the default."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}

    def resolve(self) -> str | PipelineSpec:
        """The pipeline's name, where that says all, or else the pipeline with this checkpoint and these LoRAs.

        Without a model, a checkpoint makes pictures as the first pipeline of `configs/models` with such a UNet
        does, or with one of its widths. Raises UserError for a missing file, and for a checkpoint that cannot be
        stage 1.
        """
        if not self.given.keys() - {"model"}:
            return self.model or DEFAULT_MODEL
        if self.checkpoint is None:
            spec = PipelineSpec.load(self.model or DEFAULT_MODEL)
            stage, name = spec.inpainting, spec.name
        else:
            path = find_checkpoint(self.checkpoint).absolute()
            spec = self._pipeline(path)
            stage, name = Stage(None, str(path)), path.stem
        from hdpainter.models.lora import stage_loras  # torch takes seconds to import

        stage = replace(stage, ema=self.ema, parameterization=self.parameterization, loras=self.lora)
        loras = stage_loras(stage)
        stage = replace(stage, loras=tuple(f"{lora.path.absolute()}:{lora.scale:g}" for lora in loras))
        return replace(spec, name="+".join([name, *(lora.path.stem for lora in loras)]), inpainting=stage)

    def _pipeline(self, path: Path) -> PipelineSpec:
        """The pipeline in which the checkpoint at `path` takes the place of stage 1."""
        from hdpainter.models.recognise import recognise, signature, stage_model

        config = recognise(path, self.parameterization).config
        if config["target"].endswith("LatentUpscaleDiffusion"):
            raise UserError(
                f"{path} is an x4 upscaler, which is no stage 1: name it as `upscaler` in a pipeline's YAML file"
            )
        if self.model is not None:
            return PipelineSpec.load(self.model)
        specs = [spec for spec in map(PipelineSpec.load, pipeline_names()) if spec.kind == "ldm"]
        kinds = [signature(stage_model(spec.inpainting).config) for spec in specs]
        for first in (0, 1):  # with as many input channels, or else of the same widths
            for spec, kind in zip(specs, kinds, strict=True):
                if kind[first:] == signature(config)[first:]:
                    return spec
        levels = tuple(config["params"]["unet_config"]["params"]["attention_resolutions"])
        middle = tuple(level for level in (2, 4) if level in levels) or levels
        return PipelineSpec(
            path.stem,
            Stage(None, str(path)),
            size=8 * config["params"]["image_size"],
            painta_levels=middle,
            rasg_levels=middle[-1:],
        )


def choose(model: str | Path | PipelineSpec | None, **weights: Any) -> str | PipelineSpec:
    """`ModelChoice.resolve` of a model by name or file and of weights; a pipeline, as it is."""
    if isinstance(model, PipelineSpec):
        return model
    return ModelChoice(model=None if model is None else str(model), **weights).resolve()
