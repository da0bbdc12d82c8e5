"""Weights from disk into a model: quickly, within the file's own size, and never by running the file's code.

A model is built on the meta device, so that nothing is allocated or initialised, and its parameters are then
replaced by memory-mapped tensors. Loading costs what reading the file costs, and it is the first pass over
the weights that reads it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ldm.util import UserError, instantiate_from_config, leaves, refuse_device, shown

DTypes = torch.dtype | Mapping[str, torch.dtype] | None
"""One dtype, or dtypes by module prefix of which the longest match counts ("" is the default), or the file's."""

INERT_GLOBALS = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)
"""Non-tensor objects known from public checkpoints; read as placeholders, so none of these is ever imported."""

# What checkpoints carry besides the weights that a model for inference has.
_EXTRAS = re.compile(
    r"model_ema\..*|.*\.position_ids|(first_stage_model\.)?loss\..*|logvar|lvlb_weights"
    r"|cond_stage_model\.model\.(logit_scale|text_projection|attn_mask|visual\..*)"
)
SCHEDULE = re.compile(r"(low_scale_model\.)?(betas|alphas_cumprod(_prev)?|(sqrt|log|posterior)_\w+)")
"""Names of the noise schedule's tables, at the top of a checkpoint."""

LARGEST = {
    "timesteps": 100_000,
    "num_res_blocks": 100,
    "transformer_depth": 100,
    "layers": 200,
    "num_hidden_layers": 200,
}
"""The largest values of a config's params with which `build`'s time or memory grows; others: a million."""

_CAST_PORTION = 8  # tensors


def build(config: Mapping[str, Any]) -> nn.Module:
    """Instantiate the `target` of `config` with its `params`, parameters on the meta device.

    Takes seconds at any size. The parameters have no values until `load_into`; the noise schedules, being
    computed from the config, are real. Raises UserError for params with which there is no such model, or one that
    is beyond LARGEST.
    """
    for key, value in leaves(config):
        largest = LARGEST.get(key, 10**6)
        if isinstance(value, int | float) and not abs(value) <= largest:
            raise UserError(f"{key} is {shown(value)}: a model may have at most {largest:,}")
    try:
        with torch.device("meta"):
            return instantiate_from_config(config)
    except UserError:
        raise
    except Exception as error:  # widths that do not divide, words for numbers: layers raise nearly anything
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise UserError(f"no {config['target']} can be built with these params ({reason})") from error


def load_into(
    model: nn.Module,
    path: str | Path,
    config_name: str,
    *,
    dtype: DTypes = None,
    device: str | torch.device = "cpu",
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Give `model`, as `build` returns it, the weights of the file at `path`, in place.

    Tensors that need neither another `dtype` nor another `device` stay memory-mapped: the file must not be
    overwritten in place while the model lives (replacing it is safe). The noise schedule's tables, which are
    computed from the config, keep their values and their float32, whatever the file's precision. Parameters that
    a module says are `idle` are zeros where the file lacks them.

    weights: the file's, where they go by other names in it.

    Raises UserError, before anything is read beyond names and shapes, when the file is damaged or does not
    belong to the config `config_name`; and, having read it, for a weight that is NaN or infinite.
    """
    path, device = Path(path), torch.device(device)
    remap = weights is None and file_format(path) == "safetensors"
    weights = dict(read_state_dict(path) if weights is None else weights)
    if problem := misfit(model, weights):
        raise UserError(f"{path} does not fit {config_name}: {problem}")
    weights |= (idle := _idle(model, weights))
    state, fixed = model.state_dict(), _computed_buffers(model)
    wanted = {name: dtype_for(dtype, name, weights[name]) for name in state if name not in fixed}
    # What training found out, such as the scale_factor of scale_by_std, is the file's.
    found = [name for name in state if name in fixed and name in weights and not SCHEDULE.fullmatch(name)]
    wanted |= {name: fixed[name].dtype for name in found}
    weights |= {name: zeros.to(device, wanted[name]) for name, zeros in idle.items()}
    read = {name: kind for name, kind in wanted.items() if name not in idle}
    cast = [name for name, kind in read.items() if weights[name].dtype != kind or device.type != "cpu"]
    for name in read.keys() - set(cast):
        _check_finite(path, name, weights[name])
    weights |= _cast(path, weights, cast, wanted, device, remap)
    model.load_state_dict(state | {name: weights[name] for name in wanted}, assign=True)
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        assert not tensor.is_meta, f"{name} has no values after loading"
    model.to(device)


def misfit(model: nn.Module, weights: Mapping[str, Tensor]) -> str | None:
    """What keeps `weights` from being those of `model`, in one line with the first keys concerned; else None.

    Compares names and shapes and, where the file holds one, the noise schedule.
    """
    fixed = _computed_buffers(model)
    expected = {name: tensor for name, tensor in model.state_dict().items() if name not in fixed}
    idle = _idle(model, weights)
    missing = [name for name in expected if name not in weights and name not in idle]
    unexpected = [
        name
        for name in weights
        if not (name in expected or name in fixed or _EXTRAS.fullmatch(name) or SCHEDULE.fullmatch(name))
    ]
    reshaped = [
        f"{name} is {list(weights[name].shape)} in the file, {list(tensor.shape)} in the model"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    problems = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for names, what in ((missing, "missing"), (unexpected, "unexpected"), (reshaped, "of another shape"))
        if names
    ]
    if problems:
        return "keys " + ", ".join(problems) + _advice(weights)
    for name in ("alphas_cumprod", "low_scale_model.alphas_cumprod"):
        # Files in half precision hold rounded tables: 4e-3 is bfloat16's step below 1.
        if name in fixed and name in weights and not _close(weights[name], fixed[name], 4e-3):
            return f"the noise schedule ({name}) is another"
    return None


def _idle(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Zeros, which take no memory, for the `idle` parameters of the model's modules that `weights` lack."""
    zeros = {}
    for path, module in model.named_modules():
        for name in getattr(module, "idle", ()):
            if f"{path}.{name}" not in weights:
                kind = next((t.dtype for key, t in weights.items() if key.startswith(path)), None)
                zero = torch.zeros((), dtype=kind)
                zeros[f"{path}.{name}"] = zero.expand(module.get_parameter(name).shape)
    return zeros


def _computed_buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.named_buffers() if not tensor.is_meta}


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return a.shape == b.shape and torch.allclose(a.float().cpu(), b.float().cpu(), rtol=0, atol=tolerance)


def _advice(weights: Mapping[str, Tensor]) -> str:
    if any(name.startswith(("down_blocks.", "text_model.")) for name in weights):
        return "; this is a part of a diffusers folder: hdpainter models convert FOLDER FILE.safetensors"
    stem = weights.get("model.diffusion_model.input_blocks.0.0.weight")
    key = next((weights[name] for name in weights if name.endswith("attn2.to_k.weight")), None)
    if stem is None or key is None:
        return ""
    kind = {4: "text-to-image", 5: "depth-to-image", 7: "x4 upscaler", 9: "inpainting"}.get(stem.shape[1])
    family = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2"}.get(key.shape[1])
    return f"; the file looks like a {family} {kind} model" if kind and family else ""


def dtype_for(policy: DTypes, name: str, tensor: Tensor) -> torch.dtype:
    """The dtype in which `policy` wants the parameter `name`, of which the file has `tensor`."""
    if policy is None or not tensor.is_floating_point():
        return tensor.dtype
    if isinstance(policy, torch.dtype):
        return policy
    prefixes = [prefix for prefix in policy if not prefix or f"{name}.".startswith(f"{prefix}.")]
    return policy[max(prefixes, key=len)] if prefixes else tensor.dtype


def _cast(
    path: Path,
    weights: Mapping[str, Tensor],
    names: list[str],
    dtypes: Mapping[str, torch.dtype],
    device: torch.device,
    remap: bool,
) -> Iterator[tuple[str, Tensor]]:
    """Copies of the tensors `names` in their dtypes, on `device`.

    With `remap` a portion at a time through a mapping of its own: pages that were read to be cast leave memory
    with the mapping, so that the peak is the result's size and not the file's on top of it.
    """
    for start in range(0, len(names), _CAST_PORTION):
        portion = names[start : start + _CAST_PORTION]
        tensors = read_safetensors(path, portion) if remap else {name: weights[name] for name in portion}
        for name in portion:
            _check_finite(path, name, tensors[name])
            yield name, tensors[name].to(device, dtypes[name])


def _check_finite(path: Path, name: str, tensor: Tensor) -> None:
    """Raise UserError for a tensor with a value that is none; the sum, which is quick, tells nearly always."""
    if not tensor.is_floating_point() or tensor.sum(dtype=torch.float32).isfinite():
        return
    if not tensor.isfinite().all():
        raise UserError(f"{path}: {name} has NaN or infinite values: the file is of no use; get it again")


def read_state_dict(path: str | Path, ignore: Iterable[str] = INERT_GLOBALS) -> dict[str, Tensor]:
    """The tensors of a .safetensors, .ckpt or .pt file by name, memory-mapped where the format allows it.

    The format is told by the content. An entry "state_dict" or "model" is unwrapped. Pickles are read by torch's
    weights-only unpickler; objects whose full names are in `ignore` are replaced by empty placeholders
    without importing what they name.

    Raises UserError when the file is missing, empty, cut short, not a checkpoint at all (a web page, a Git
    LFS pointer), or holds objects other than tensors.
    """
    path = Path(path)
    return read_safetensors(path) if file_format(path) == "safetensors" else _read_pickle(path, ignore)


def read_safetensors(path: Path, names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Memory-mapped tensors of a .safetensors file: all, or those named."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in (file.keys() if names is None else names)}
    except SafetensorError as error:
        size = path.stat().st_size
        raise UserError(
            f"{path} is damaged or cut short ({size:,} bytes): {error}; download or copy it again"
        ) from None


class _Inert:
    """Placeholder for an object that a pickle names and that we do not want."""

    def __new__(cls, *args: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _read_pickle(path: Path, ignore: Iterable[str]) -> dict[str, Tensor]:
    try:
        with torch.serialization.safe_globals([(_Inert, name) for name in ignore]), path.open("rb") as file:
            # Zipped since torch 1.6, and only then to be mapped; torch takes files of this name for safetensors.
            mapped = file.read(4) == b"PK\x03\x04" and path.suffix != ".safetensors"
            file.seek(0)
            content = torch.load(path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged pickle makes torch raise anything
        if named := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(
                f"{path} holds an object other than tensors, {named[1]}, which is not loaded for safety; to drop "
                f"such objects: hdpainter models convert {path} {path.with_suffix('')}-tensors.safetensors"
            ) from None
        raise UserError(
            f"{path} is damaged or cut short ({path.stat().st_size:,} bytes): {_first_line(error)}; "
            "download or copy it again"
        ) from None
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    entries = content.items() if isinstance(content, Mapping) else ()
    tensors = {name: value for name, value in entries if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"{path} holds no tensors by name: it is not a model's checkpoint")
    return tensors


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__


def file_format(path: Path) -> str:
    """`safetensors` or `pickle` (a .ckpt or .pt file), told by the first bytes; UserError for anything else."""
    refuse_device(path)
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if not head:
        raise UserError(f"{path} is empty; download or copy it again")
    if head[8:9] == b"{":  # after the header's length
        return "safetensors"
    if head.startswith((b"PK\x03\x04", b"\x80\x02")):
        return "pickle"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(f"{path} is a web page saved under a checkpoint's name; download the file itself")
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a Git LFS pointer, not the weights; fetch them with: git lfs pull")
    raise UserError(f"{path} is neither a safetensors nor a torch checkpoint")
