"""HD-Painter: high-resolution and prompt-faithful text-guided image inpainting, training-free.

from hdpainter import HDPainter
painter = HDPainter.from_config("mini")
painter(image, mask, "a red kite", seed=0).image.save("out.png")
"""

from typing import TYPE_CHECKING, Any

from hdpainter.version import __version__

if TYPE_CHECKING:
    from hdpainter.pipeline import HDPainter, Result

__all__ = ["HDPainter", "Result", "__version__"]


def __getattr__(name: str) -> Any:
    # torch and the networks take seconds to import; the command line's help does not need them.
    if name in __all__:
        from hdpainter import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
