"""Where models compute, and in which precision."""

import torch

from ldm.checkpoint import DTypes
from ldm.util import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def usable_device(name: str | torch.device | None) -> torch.device:
    """The device of that name; None: cuda or mps where there is one, else cpu. UserError if it is not here."""
    if name is None:
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"device {str(name)!r} is not available here; try cpu") from None
    return device


def threads_for(device: torch.device, processes: int) -> int:
    """With how many threads one of several processes computes: those on the CPU share what there is."""
    threads = torch.get_num_threads()
    return max(threads // processes, 1) if device.type == "cpu" else threads


def dtype_policy(dtype: str | torch.dtype | None, device: torch.device) -> DTypes:
    """The dtype of each module's weights, and so of its computation; latents and samplers are always float32.

    UNets and text encoders run in `dtype`. With float16, whose range the x4 upscaler's decoder is known to
    exceed, the autoencoders run in float32; bfloat16 has float32's range and serves them too.

    The default is float16 on a GPU and float32 elsewhere, but bfloat16 for the upscaler on a CPU that computes in
    it. Stage 2 works picture by picture and only details what is there; in stage 1 bfloat16's rounding, which
    depends on the batch, would show in the pictures. Raises UserError for an unknown dtype.
    """
    if dtype is None and device.type == "cpu" and computes_in_bfloat16():
        return {"": torch.float32, "upscaler": torch.bfloat16}
    if dtype is None:
        dtype = torch.float16 if device.type == "cuda" else torch.float32
    if isinstance(dtype, str):
        dtype = dtype_named(dtype)
    autoencoder = torch.float32 if dtype is torch.float16 else dtype
    return {
        "": dtype,
        "inpainting.first_stage_model": autoencoder,
        "upscaler.first_stage_model": autoencoder,
    }


def dtype_named(name: str) -> torch.dtype:
    """The dtype of a name among `DTYPES`. Raises UserError for any other."""
    if name not in DTYPES:
        raise UserError(f"dtype {name!r} is not one of {', '.join(DTYPES)}")
    return DTYPES[name]


def computes_in_bfloat16() -> bool:
    """Whether the CPU has instructions for bfloat16; others emulate it slowly."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
