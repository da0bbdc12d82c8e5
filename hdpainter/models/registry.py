"""Which models there are: pipelines (`configs/models/sd2.yaml`), public checkpoints, and where files lie."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from hdpainter.configs import read_yaml
from hdpainter.files import refuse_name
from hdpainter.settings import Kind, Method, Pixels, Size, method_names
from hdpainter.values import Range, from_mapping, unknown
from ldm.util import CONFIGS, UserError, shown

MODELS = CONFIGS / "models"
DEFAULT_MODEL = "mini"  # it ships with the repository

DType = Literal["float32", "float16", "bfloat16"]
Level = Annotated[int, Range(1, 64, "a downsampling factor from 1 to 64")]

_BYTES: dict[DType, int] = {"float32": 4, "float16": 2, "bfloat16": 2}  # of one number


@dataclass(frozen=True)
class Stage:
    """A model of a pipeline.

    config: its SD2-style config, a file name or a path; None: told by the checkpoint's names and shapes.
    checkpoint: a file or a diffusers folder, by its name or path.
    ema: take the moving averages (`model_ema.*`) in the checkpoint as the weights.
    parameterization: what the network predicts, where neither config nor checkpoint tells.
    loras: files of LoRAs to add, ``FILE`` or ``FILE:SCALE``.
    """

    config: str | None
    checkpoint: str
    ema: bool = False
    parameterization: Literal["eps", "v"] | None = None
    loras: tuple[str, ...] = ()


@dataclass(frozen=True)
class PipelineSpec:
    """The two models of HD-Painter and what the method must know about them; the `pipeline` of a YAML file.

    inpainting, upscaler: stage 1 and stage 2; without an upscaler there is no super-resolution.
    kind: of stage 1: `ldm`, a latent diffusion model; or a baseline, `glide` or `nuwa-lip`, which paints a square
        of its own size and takes its own methods only.
    upsampler: the second network of GLIDE's stage 1.
    size: longer side of stage 1, in pixels. multiple: stage 1 is padded to multiples of this.
    max_size: longer side of stage 2, in pixels.
    painta_levels, rasg_levels: downsampling factors of the latent at which PAIntA and RASG act.
    method: the one of ``configs/methods`` by which pictures are made where none is asked for.
    crop_margin: stage 2's, where neither the method nor the user says otherwise; see `SuperResSettings`.
    knows: the only things that the model was trained to paint; empty where nobody has counted them.
    """

    name: str
    inpainting: Stage
    upscaler: Stage | None = None
    kind: Kind = "ldm"
    upsampler: Stage | None = None
    size: Size = 512
    multiple: Annotated[int, Range(8, 1024, "a multiple of 8 up to 1024", step=8)] = 64
    max_size: Size = 2048
    painta_levels: tuple[Level, ...] = (2, 4)
    rasg_levels: tuple[Level, ...] = (4,)
    method: str = "hd-painter"
    crop_margin: Pixels | None = None
    knows: tuple[str, ...] = ()

    @property
    def stages(self) -> dict[str, Stage]:
        """The stages that there are, by name."""
        stages = {"inpainting": self.inpainting, "upsampler": self.upsampler, "upscaler": self.upscaler}
        return {name: stage for name, stage in stages.items() if stage}

    @property
    def stage1(self) -> dict[str, Stage]:
        """Those that stage 1 consists of."""
        return {name: stage for name, stage in self.stages.items() if name != "upscaler"}

    @classmethod
    def load(cls, name_or_yaml: "str | Path | PipelineSpec") -> "PipelineSpec":
        """A pipeline by its name in ``configs/models`` or the path of a YAML file; a spec, as it is.

        The names of configs and checkpoints become paths relative to that file where there is such a file.
        Raises UserError for an unknown name, and for keys or values that a pipeline does not have.
        """
        if isinstance(name_or_yaml, PipelineSpec):
            return name_or_yaml
        path = Path(name_or_yaml)
        refuse_name(path)
        if path.suffix not in (".yaml", ".yml"):
            path = MODELS / f"{name_or_yaml}.yaml"
            if not path.is_file():
                raise unknown("model", str(name_or_yaml), pipeline_names(), ", or give a .yaml file")
        content = read_yaml(path)
        # A model's own config may hold the pipeline that is made of it.
        if set(content) - {"model"} != {"pipeline"} or not isinstance(content["pipeline"], Mapping):
            raise UserError(f"{path} must hold one key, 'pipeline', with the two stages of a model")
        values = {"name": path.stem, **content["pipeline"]}
        _require(values, {"inpainting"}, f"{path}: pipeline")
        for stage in ("inpainting", "upsampler", "upscaler"):
            if isinstance(values.get(stage), Mapping):
                _require(values[stage], {"checkpoint"}, f"{path}: {stage}")
                values[stage] = {"config": None, **values[stage]}
        spec = from_mapping(cls, values, f"{path}: pipeline")
        _check_values(spec, path)
        stages = {
            name: replace(
                stage,
                config=stage.config and _beside(path, stage.config, MODELS),
                checkpoint=_beside(path, stage.checkpoint),
            )
            for name, stage in spec.stages.items()
        }
        return replace(spec, **stages)


def _require(values: Mapping[str, Any], keys: set[str], where: str) -> None:
    if missing := sorted(keys - set(values)):
        raise UserError(f"{where}: {missing[0]!r} is missing")


def _check_values(spec: PipelineSpec, path: Path) -> None:
    for key in ("painta_levels", "rasg_levels"):
        if not getattr(spec, key):
            raise UserError(f"{path}: pipeline: {key} is empty: list downsampling factors, such as 4")
    if spec.method not in (known := method_names(spec.kind)):
        raise UserError(
            f"{path}: pipeline: method must be one of {', '.join(known)}, not {shown(spec.method)}"
        )
    if (spec.upsampler is not None) != (spec.kind == "glide"):
        raise UserError(
            f"{path}: pipeline: upsampler is the second network of kind: glide; give it there, and only there"
        )
    for name, stage in spec.stage1.items():
        if spec.kind != "ldm" and stage.config is None:
            raise UserError(f"{path}: pipeline: {name}: 'config' is missing")


def check_method(method: Method, kind: Kind, model: str) -> None:
    """Raise UserError unless the method goes with pipelines of this kind, of which `model` is one."""
    if method.kind != kind:
        raise UserError(
            f"method {method.name} does not go with model {model}: give one of {', '.join(method_names(kind))}"
        )


def _beside(path: Path, name: str, *elsewhere: Path) -> str:
    """`name` as a path relative to the file `path`, or to a folder of `elsewhere`, if it exists there."""
    refuse_name(path.parent / name)
    found = (folder / name for folder in (path.parent, *elsewhere) if (folder / name).exists())
    return str(next(found, name))


def pipeline_names() -> list[str]:
    """Names of the pipelines in ``configs/models``."""
    files = MODELS.glob("*.yaml")
    return sorted(path.stem for path in files if re.search("^pipeline:", path.read_text(), re.MULTILINE))


@dataclass(frozen=True)
class Checkpoint:
    """A public checkpoint of the registry, see ``configs/models/registry.yaml``.

    note: why it has no URL, where it has none.
    """

    name: str
    title: str
    file: str
    config: str
    licence: str
    parameters: Annotated[int, Range(1, 10**12)]
    dtype: DType | None
    urls: list[str]
    sha256: str | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        within(Path(), self.file)
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise UserError(f"sha256 is {shown(self.sha256)}: give 64 hexadecimal digits, in lower case")

    @property
    def approximate_bytes(self) -> int | None:
        """Size of the weights alone; the file is larger by its header. None where their dtype is not known."""
        return self.parameters * _BYTES[self.dtype] if self.dtype else None

    @property
    def sources(self) -> list[str]:
        """URLs to try, those of $HDPAINTER_MIRRORS first."""
        mirrors = os.environ.get("HDPAINTER_MIRRORS", "").split()
        return [pattern.replace("{file}", self.file) for pattern in mirrors] + list(self.urls)


def within(folder: Path, file: str | Path) -> Path:
    """Where the download `file` goes: a path in `folder`. Raises UserError if it would lie elsewhere."""
    parts = Path(file).parts
    if not parts or Path(file).is_absolute() or ".." in parts or "\\" in str(file):
        raise UserError(f"file is {shown(str(file))}: give a name, which lies in the folder of checkpoints")
    return folder / file


def registry() -> dict[str, Checkpoint]:
    """The public checkpoints by name, from $HDPAINTER_REGISTRY or ``configs/models/registry.yaml``."""
    path = Path(os.environ.get("HDPAINTER_REGISTRY") or MODELS / "registry.yaml")
    entries = read_yaml(path).get("checkpoints")
    if not isinstance(entries, Mapping):
        raise UserError(f"{path} must hold a mapping 'checkpoints'")
    checkpoints = {}
    for name, values in entries.items():
        where = f"{path}: {name}"
        if not isinstance(values, Mapping):
            raise UserError(f"{where} must be a mapping")
        _require(values, {"title", "file", "config", "licence", "parameters", "dtype", "urls"}, where)
        checkpoints[name] = from_mapping(Checkpoint, {"name": name, **values}, where)
    return checkpoints


def checkpoint_folders() -> list[Path]:
    """Where checkpoints are looked for: $HDPAINTER_CHECKPOINTS, ``checkpoints/`` here and in the repository.

    Downloads go to the first.
    """
    named = os.environ.get("HDPAINTER_CHECKPOINTS")
    folders = [CONFIGS.parent / "checkpoints", Path("checkpoints")]
    if not (CONFIGS.parent / "pyproject.toml").is_file():  # an installed package is no place for downloads
        folders.reverse()
    if named:
        folders.insert(0, Path(named).expanduser())
    return list(dict.fromkeys(folder.resolve() for folder in folders))


def is_here(checkpoint: str | Path) -> bool:
    """Whether `find_checkpoint` finds it."""
    try:
        return find_checkpoint(checkpoint).exists()
    except UserError:
        return False


def find_checkpoint(name: str | Path, model: str | None = None) -> Path:
    """The path of a checkpoint: `name` itself if it is there, else the first of `checkpoint_folders` with it.

    A checkpoint is a file or a diffusers folder. Where there is no such .ckpt, a .safetensors that it was
    converted to will do. model: whose it is. Raises UserError that says where the file was sought and how to get
    it, and all that the model lacks.
    """
    name = Path(name)
    refuse_name(name)
    for candidate in dict.fromkeys((name, name.with_suffix(".safetensors"))):
        for folder in (Path(), *checkpoint_folders()):
            if (folder / candidate).is_file() or (folder / candidate / "unet").is_dir():
                return folder / candidate
    if name.is_absolute():
        raise UserError(f"checkpoint {name} does not exist")
    folders = " or ".join(map(str, checkpoint_folders()))
    known = next((entry for entry in registry().values() if entry.file == name.name), None)
    source = ""
    if known and not known.sources:
        source = f"{known.note}; if you have it, "
    elif known and model in pipeline_names():
        source = f"get all that {model} lacks with: hdpainter models download {model}; or "
    elif known:
        source = f"get it with: hdpainter models download {known.name}; or "
    raise UserError(
        f"checkpoint {name} is not in {folders}; {source}put it there, or set "
        "$HDPAINTER_CHECKPOINTS to its folder"
    )
