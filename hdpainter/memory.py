"""Memory that runs out, and memory given back.

What only checks jobs or serves a page runs without torch, and where that is not loaded it holds nothing.
"""

import gc
import sys


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory is short; the CPU's allocator raises a plain RuntimeError."""
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return True
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def release_memory() -> None:
    """Give back what nobody uses any more."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
