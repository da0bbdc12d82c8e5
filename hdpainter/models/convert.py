"""Other checkpoint files into what we load best: one .safetensors file with Stable Diffusion's own key names."""

import zipfile
from pathlib import Path

import torch

from hdpainter.models.diffusers_folder import read_folder
from hdpainter.models.recognise import as_ldm, use_averages
from hdpainter.models.safetensors import write_safetensors
from ldm.checkpoint import INERT_GLOBALS, SCHEDULE, dtype_for, file_format, read_state_dict
from ldm.util import UserError


def convert(
    source: str | Path, target: str | Path, *, dtype: torch.dtype | None = None, ema: bool = False
) -> list[str]:
    """Write `target`, a .safetensors file, from a .ckpt, .pt or .safetensors file or a diffusers folder.

    Folders are those of Stable Diffusion 1 and 2 (unet/, vae/ and text_encoder/). Moving averages (`model_ema.*`)
    are left out, or with `ema` take the place of the weights they are averages of. `dtype` is that of the
    weights in the new file; noise schedules stay float32. Needs the memory of one tensor, and from a folder of
    Stable Diffusion 2 that of the text encoder's joined projections, 0.3 GB.

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
        weights, dropped = read_folder(source), []
    else:
        file_format(source)  # raises for what is none, such as a pipe, which would be waited for
        dropped = _foreign_globals(source)
        weights = as_ldm(use_averages(read_state_dict(source, (*INERT_GLOBALS, *dropped)), ema, source))
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
