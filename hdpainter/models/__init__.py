"""Models by name: the registry of public checkpoints, downloads, conversion and loading."""

from hdpainter.models.loading import PipelineModels, load
from hdpainter.models.registry import PipelineSpec

__all__ = ["PipelineModels", "PipelineSpec", "load"]
