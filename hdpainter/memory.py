"""Memory that runs out, and memory given back.

torch is imported where it is used: what only checks jobs or serves a page starts without it.
"""

import gc


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory is short; the CPU's allocator raises a plain RuntimeError."""
    import torch

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


def release_memory() -> None:
    """Give back what nobody uses any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
