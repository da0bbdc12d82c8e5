"""From a model's name to models with weights, ready for inference."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from hdpainter.baselines.square import SquareInpainter
from hdpainter.configs import read_model_config
from hdpainter.files import digest
from hdpainter.memory import release_memory
from hdpainter.models.diffusers_folder import weights_files
from hdpainter.models.hashes import checkpoint_sha256, joint_sha256, recorded_sha256, stamp
from hdpainter.models.lora import add_loras, stage_loras
from hdpainter.models.recognise import is_text_to_image, read_weights, stage_model
from hdpainter.models.registry import PipelineSpec, find_checkpoint
from hdpainter.models.stages import check_stages, not_of_stage
from ldm.checkpoint import DTypes, build, load_into
from ldm.models.diffusion.ddpm import LatentDiffusion, LatentInpaintDiffusion, LatentUpscaleDiffusion
from ldm.util import UserError, get_obj_from_str

_KINDS = {"inpainting": LatentInpaintDiffusion, "upscaler": LatentUpscaleDiffusion}
Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class _File:
    """What is known of a file that was loaded. One of another inode took its place, which does no harm."""

    path: Path
    sha256: str | None
    inode: int
    stamp: tuple[int, int, int]


@dataclass(frozen=True)
class _Loaded:
    """What is told of a checkpoint that was loaded, and its files."""

    about: dict[str, Any]
    files: list[_File]


@dataclass(eq=False)
class PipelineModels:
    """The models of a pipeline; each is loaded when it is first used.

    Models are in eval mode, their weights want no gradients. Checkpoints are looked for at construction or,
    where that was not asked for, when the model is first used (`checkpoint` finds one without loading it).
    trusted: whether the models' configs may name classes of other projects, see `hdpainter.configs.read_yaml`.
    offload: only the model at work is on the device, the other one waits in main memory; see `begin`.
    """

    spec: PipelineSpec
    device: torch.device
    dtype: DTypes = None
    trusted: bool = False
    offload: bool = False
    _found: dict[str, Path] = field(default_factory=dict, repr=False)
    _loaded: dict[str, _Loaded] = field(default_factory=dict, repr=False)

    def checkpoint(self, stage: str) -> Path:
        """The file of a stage, one of `PipelineSpec.stages`. Raises UserError if it is nowhere to be found."""
        if stage not in self._found:
            self._found[stage] = find_checkpoint(self.spec.stages[stage].checkpoint, self.spec.name)
        return self._found[stage]

    @property
    def inpainting(self) -> LatentInpaintDiffusion:
        """Stage 1. Raises UserError where it is a model that sees neither mask nor picture."""
        if not isinstance(self.stage1, LatentInpaintDiffusion):
            files = self.spec.inpainting
            raise not_of_stage(files.config or files.checkpoint, "inpainting")
        return self.stage1

    @cached_property
    def text_to_image(self) -> bool:
        """Whether stage 1 sees neither mask nor picture, by its config; nothing is loaded for it."""
        return is_text_to_image(self.spec.inpainting, self.trusted)

    @cached_property
    def stage1(self) -> LatentDiffusion:
        """Stage 1: an inpainting model, or for methods that blend a text-to-image model.

        Raises UserError where it is another, and where it is a baseline's.
        """
        if self.spec.kind != "ldm":
            raise UserError(f"model {self.spec.name} is no latent diffusion model: give one, such as sd2")
        self.check("inpainting")
        return self._load("inpainting", LatentDiffusion)

    @cached_property
    def baseline(self) -> SquareInpainter:
        """Stage 1 of a pipeline of another kind."""
        if self.spec.kind == "glide":
            from hdpainter.baselines.glide import inpaint as glide  # not needed for any other model

            glide.check_files(self.checkpoint("inpainting"), self.checkpoint("upsampler"))
            return glide.Glide(
                self._load("inpainting", glide.GlideUNet), self._load("upsampler", glide.GlideUNet)
            )
        from hdpainter.baselines.nuwa_lip import inpaint as nuwa_lip

        nuwa_lip.check_file(self.checkpoint("inpainting"))
        return nuwa_lip.NuwaLip(self._load("inpainting", nuwa_lip.MPS2S))

    @cached_property
    def upscaler(self) -> LatentUpscaleDiffusion | None:
        """Stage 2; None if the pipeline has none."""
        return self._load("upscaler", LatentUpscaleDiffusion) if self.spec.upscaler else None

    def begin(self, stage: str) -> None:
        """Before `inpainting` or `upscaler` works: with `offload`, bring it to the device and the other away."""
        if not self.offload or self._of_baseline(stage):
            return
        names = {"inpainting": "stage1", "upscaler": "upscaler"}
        for other, name in names.items():
            if other != stage and isinstance(model := vars(self).get(name), nn.Module):
                model.to("cpu")
        release_memory()
        getattr(self, names[stage]).to(self.device)

    def check(self, stage: str) -> None:
        """Raise UserError where the config of a stage, which is not loaded for it, is that of another model."""
        config = self.spec.stages[stage].config
        if config is None or self._of_baseline(stage):  # what is loaded will tell
            return
        found = get_obj_from_str(str(read_model_config(config, self.trusted)["target"]))
        text_to_image = stage == "inpainting" and found is LatentDiffusion  # for methods that blend
        if not text_to_image and not (isinstance(found, type) and issubclass(found, _KINDS[stage])):
            raise not_of_stage(config, stage)

    def _of_baseline(self, stage: str) -> bool:
        return self.spec.kind != "ldm" and stage in self.spec.stage1

    def _load(self, stage: str, kind: type[Model]) -> Model:
        path, stage_files = self.checkpoint(stage), self.spec.stages[stage]
        recognised, files = stage_model(stage_files, self.trusted), weights_files(path)
        before = {file: stamp(file) for file in files}
        model = build(recognised.config)
        if not isinstance(model, kind):
            of = stage_files.config or f"{path}, by its layout,"
            raise UserError(f"{of} is the config of a {type(model).__name__}, not of a {kind.__name__}")
        if stage == "inpainting" and self.spec.kind == "ldm":
            latent: Any = model
            latent.model.diffusion_model.transformer_blocks(
                {*self.spec.painta_levels, *self.spec.rasg_levels}
            )
        weights, notes = (None, []) if self._of_baseline(stage) else read_weights(path, stage_files.ema)
        for note in (*recognised.notes, *notes):
            warnings.warn(f"{path.name} {note}", stacklevel=2)
        dtype = _of_stage(self.dtype, stage)
        if self._of_baseline(stage):  # some of its layers stay in float32
            most = dtype.get("") if isinstance(dtype, Mapping) else dtype
            policy: Any = model.dtype_policy
            dtype = policy(most or torch.float32)
        loras = stage_loras(stage_files)
        waits = self.offload and not self._of_baseline(stage)
        device = torch.device("cpu") if waits else self.device
        load_into(model, path, recognised.name, dtype=dtype, device=device, weights=weights)
        add_loras(model, loras)
        for file in files:
            if stamp(file) != before[file]:
                raise UserError(
                    f"{file} changed while it was loaded: wait until it is complete, and start again"
                )
        about = {"config": recognised.name, **_facts(path), "config_sha256": digest(recognised.config)}
        if loras:
            about["loras"] = [{"file": lora.path.name, "scale": lora.scale} for lora in loras]
        parts = [_File(file, recorded_sha256(file), file.stat().st_ino, before[file]) for file in files]
        self._loaded[stage] = _Loaded(about, parts)
        return model.eval().requires_grad_(False)

    @property
    def info(self) -> dict[str, Any]:
        """What a result's metadata says of the models: names, files, sizes in bytes, hashes where known.

        Of a model in use it is what was loaded. Raises UserError where its file has been written to since: it is
        mapped into memory, so the weights may be anything.
        """
        stages = {
            stage: {
                "config": files.config and Path(files.config).name,
                "checkpoint": self.checkpoint(stage).name,
                **self._about(stage),
            }
            for stage, files in self.spec.stages.items()
            if stage in self._found
        }
        return {"model": self.spec.name, **stages}

    def _about(self, stage: str) -> dict[str, Any]:
        path, loaded = self.checkpoint(stage), self._loaded.get(stage)
        if loaded is None:
            return _facts(path)
        for file in loaded.files:
            in_place = file.path.is_file() and file.path.stat().st_ino == file.inode
            if in_place and stamp(file.path) != file.stamp and checkpoint_sha256(file.path) != file.sha256:
                raise UserError(
                    f"{file.path} was written to while it was in use: start again with the file as it is"
                )
        return loaded.about


def _facts(path: Path) -> dict[str, Any]:
    """Size and, where it is known, hash of a checkpoint."""
    files = weights_files(path)
    return {
        "bytes": sum(file.stat().st_size for file in files),
        "sha256": joint_sha256(map(recorded_sha256, files)),
    }


def load(
    name_or_yaml: str | Path | PipelineSpec,
    device: str | torch.device = "cpu",
    dtype: DTypes = None,
    *,
    superres: bool = True,
    trusted: bool = False,
    offload: bool = False,
) -> PipelineModels:
    """The models of the pipeline `name_or_yaml`: "sd2", "mini", ..., a pipeline's YAML file, or a spec.

    dtype: one dtype for all weights; or dtypes by module prefix, the longest match counting, for both stages or
        for one: ``{"": torch.float16, "upscaler.first_stage_model": torch.float32}``; None: as in the files.
    superres: whether the upscaler will be used; if not, its checkpoint need not be there.
    trusted: whether the models' configs may name classes of other projects, which are then imported and called.
    offload: see `PipelineModels`.

    Stage 1 is loaded at once, the upscaler when it is first used. Raises UserError for an unknown name or bad
    YAML, and for a missing checkpoint before anything is built.
    """
    spec = PipelineSpec.load(name_or_yaml)
    check_stages(spec, superres, trusted)
    models = PipelineModels(spec, torch.device(device), dtype, trusted, offload)
    for stage in spec.stages if superres else spec.stage1:
        models.checkpoint(stage)
        models.check(stage)
    _ = models.stage1 if spec.kind == "ldm" else models.baseline
    return models


def _of_stage(dtype: DTypes, stage: str) -> DTypes:
    """The policy for one stage: its name is taken off the prefixes that have it, and these go first."""
    if not isinstance(dtype, Mapping):
        return dtype
    own_last = sorted(dtype.items(), key=lambda item: item[0].split(".")[0] == stage)
    return {prefix.removeprefix(stage).removeprefix("."): kind for prefix, kind in own_last}
