"""A fine-tune made into an inpainting model, by the difference that inpainting training made to its base."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from hdpainter.models.diffusers_folder import is_folder, read_folder
from hdpainter.models.recognise import STEM, as_ldm, use_averages
from hdpainter.models.safetensors import write_safetensors
from ldm.checkpoint import SCHEDULE, dtype_for, read_state_dict
from ldm.util import UserError

UNET = "model.diffusion_model."


def add_difference(
    fine_tune: Path, inpainting: Path, base: Path, target: Path, dtype: torch.dtype | None = None
) -> None:
    """Write `target`: fine-tune + (inpainting - base), tensor by tensor.

    The first convolution of an inpainting model has channels that the others lack, for the mask and the masked
    image: these are the inpainting model's. So is whatever one of the others lacks outside the UNet. Files are
    mapped into memory, and one tensor is computed at a time, in float32. dtype: of the new file's weights; the
    inpainting model's by default.

    Raises UserError where `target` exists or is not named .safetensors, and for models of different layouts.
    """
    if target.suffix != ".safetensors":
        raise UserError(f"{target}: the new file must be named .safetensors")
    if target.exists():
        raise UserError(f"{target} exists already; remove it first or choose another name")
    a, b, c = (_read(path) for path in (fine_tune, inpainting, base))
    if STEM not in b or b[STEM].shape[1] != 9:
        raise UserError(f"{inpainting} is no inpainting model: its UNet does not have 9 input channels")
    for weights, path in ((a, fine_tune), (c, base)):
        for name in b:
            _check(name, weights, path, b[name], inpainting)
    layout = {
        name: tensor.to("meta", tensor.dtype if SCHEDULE.fullmatch(name) else dtype_for(dtype, name, tensor))
        for name, tensor in b.items()
    }

    def tensor_of(name: str) -> Tensor:
        own = b[name]
        if not own.is_floating_point() or SCHEDULE.fullmatch(name) or name not in a or name not in c:
            return own
        merged = own.to(torch.float32, copy=True)
        shared = merged[:, : a[name].shape[1]] if name == STEM else merged
        shared.add_(a[name]).sub_(c[name])
        return merged

    names = {"fine_tune": fine_tune.name, "inpainting": inpainting.name, "base": base.name}
    write_safetensors(target, layout, tensor_of, {"merged": "fine_tune + inpainting - base", **names})


def _read(path: Path) -> dict[str, Tensor]:
    if is_folder(path):
        return read_folder(path)
    return as_ldm(use_averages(read_state_dict(path), False, path))


def _check(name: str, weights: Mapping[str, Tensor], path: Path, own: Tensor, inpainting: Path) -> None:
    found = weights.get(name)
    if found is None:
        if name.startswith(UNET):
            raise UserError(
                f"{path} lacks {name}, which {inpainting} has: they are models of different layouts"
            )
        return
    shape = list(own.shape)
    if name == STEM and own.ndim == found.ndim == 4:
        shape[1] = 4
    if list(found.shape) != shape:
        raise UserError(
            f"{path} has {name} of {list(found.shape)}, where {shape} goes with {inpainting}: they are models of "
            "different layouts"
        )
