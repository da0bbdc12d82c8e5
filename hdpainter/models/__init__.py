"""Models by name: the registry of public checkpoints, downloads, conversion and loading."""

from typing import TYPE_CHECKING, Any

from hdpainter.models.registry import PipelineSpec

if TYPE_CHECKING:
    from hdpainter.models.loading import PipelineModels, load

__all__ = ["PipelineModels", "PipelineSpec", "load"]


def __getattr__(name: str) -> Any:
    # torch and the networks take seconds to import; what only looks models up does not need them.
    if name in __all__:
        from hdpainter.models import loading

        return getattr(loading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
