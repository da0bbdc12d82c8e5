"""From a model's name to models with weights, ready for inference."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch

from hdpainter.configs import read_model_config
from hdpainter.models.download import recorded_sha256
from hdpainter.models.registry import PipelineSpec, find_checkpoint
from ldm.checkpoint import DTypes, build, load_into
from ldm.models.diffusion.ddpm import LatentDiffusion, LatentInpaintDiffusion, LatentUpscaleDiffusion
from ldm.util import UserError

Model = TypeVar("Model", bound=LatentDiffusion)


@dataclass(eq=False)
class PipelineModels:
    """The models of a pipeline; each is loaded when it is first used.

    Models are in eval mode, their weights want no gradients. Checkpoints are looked for at construction or,
    where that was not asked for, when the model is first used (`checkpoint` finds one without loading it).
    trusted: whether the models' configs may name classes of other projects, see `hdpainter.configs.read_yaml`.
    """

    spec: PipelineSpec
    device: torch.device
    dtype: DTypes = None
    trusted: bool = False
    _found: dict[str, Path] = field(default_factory=dict, repr=False)

    def checkpoint(self, stage: str) -> Path:
        """The file of a stage, `inpainting` or `upscaler`. Raises UserError if it is nowhere to be found."""
        if stage not in self._found:
            self._found[stage] = find_checkpoint(self.spec.stages[stage].checkpoint)
        return self._found[stage]

    @property
    def inpainting(self) -> LatentInpaintDiffusion:
        """Stage 1. Raises UserError where it is a model that sees neither mask nor picture."""
        if not isinstance(self.stage1, LatentInpaintDiffusion):
            raise UserError(
                f"{self.spec.stages['inpainting'].config} is not the config of an inpainting model"
            )
        return self.stage1

    @cached_property
    def stage1(self) -> LatentDiffusion:
        """Stage 1, where a text-to-image model will do as well."""
        return self._load("inpainting", LatentDiffusion)

    @cached_property
    def upscaler(self) -> LatentUpscaleDiffusion | None:
        """Stage 2; None if the pipeline has none."""
        return self._load("upscaler", LatentUpscaleDiffusion) if self.spec.upscaler else None

    def _load(self, stage: str, kind: type[Model]) -> Model:
        path, config = self.checkpoint(stage), self.spec.stages[stage].config
        model = build(read_model_config(config, self.trusted))
        if not isinstance(model, kind):
            raise UserError(f"{config} is the config of a {type(model).__name__}, not of a {kind.__name__}")
        load_into(model, path, Path(config).name, dtype=_of_stage(self.dtype, stage), device=self.device)
        return model.eval().requires_grad_(False)

    @property
    def info(self) -> dict[str, Any]:
        """What a result's metadata says of the models: names, files, sizes in bytes, hashes where known."""
        stages = {
            stage: {
                "config": Path(files.config).name,
                "checkpoint": self.checkpoint(stage).name,
                "bytes": self.checkpoint(stage).stat().st_size,
                "sha256": recorded_sha256(self.checkpoint(stage)),
            }
            for stage, files in self.spec.stages.items()
            if stage in self._found
        }
        return {"model": self.spec.name, **stages}


def load(
    name_or_yaml: str | Path,
    device: str | torch.device = "cpu",
    dtype: DTypes = None,
    *,
    superres: bool = True,
    trusted: bool = False,
) -> PipelineModels:
    """The models of the pipeline `name_or_yaml`: "sd2", "mini", ... or the path of a pipeline's YAML file.

    dtype: one dtype for all weights; or dtypes by module prefix, the longest match counting, for both stages or
        for one: ``{"": torch.float16, "upscaler.first_stage_model": torch.float32}``; None: as in the files.
    superres: whether the upscaler will be used; if not, its checkpoint need not be there.
    trusted: whether the models' configs may name classes of other projects, which are then imported and called.

    Stage 1 is loaded at once, the upscaler when it is first used. Raises UserError for an unknown name or bad
    YAML, and for a missing checkpoint before anything is built.
    """
    spec = PipelineSpec.load(name_or_yaml)
    models = PipelineModels(spec, torch.device(device), dtype, trusted)
    for stage in spec.stages if superres else ("inpainting",):
        models.checkpoint(stage)
    _ = models.inpainting
    return models


def _of_stage(dtype: DTypes, stage: str) -> DTypes:
    """The policy for one stage: its name is taken off the prefixes that have it, and these go first."""
    if not isinstance(dtype, Mapping):
        return dtype
    own_last = sorted(dtype.items(), key=lambda item: item[0].split(".")[0] == stage)
    return {prefix.removeprefix(stage).removeprefix("."): kind for prefix, kind in own_last}
