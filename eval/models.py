"""The models that methods need, one at a time in memory, and what identifies them."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hdpainter.files import digest
from hdpainter.memory import release_memory
from hdpainter.models.devices import dtype_policy, usable_device
from hdpainter.models.hashes import checkpoint_sha256
from hdpainter.models.identity import identify
from hdpainter.models.loading import PipelineModels, load
from hdpainter.models.recognise import is_text_to_image, stage_model
from hdpainter.models.registry import MODELS, PipelineSpec, Stage, find_checkpoint, registry
from ldm.checkpoint import DTypes


class ModelCache:
    """Loads models to one device and keeps the last one: methods that stand together mostly share it.

    trusted: whether the models' configs may name classes of other projects.
    """

    def __init__(self, device: str | None = None, dtype: str | None = None, trusted: bool = False):
        self.trusted = trusted
        self.device = usable_device(device)
        self.dtype = dtype_policy(dtype, self.device)
        self._name: str | None = None
        self._models: PipelineModels | None = None

    def get(self, name: str) -> PipelineModels:
        """The models of a pipeline, or a checkpoint of the registry as the only model of one.

        Raises UserError for an unknown name, and for missing or wrong checkpoints.
        """
        if name != self._name:
            self._models = None  # before the next is loaded, so that one fits where two do not
            release_memory()
            spec = _single(name)
            if spec is None:
                self._models = load(name, self.device, self.dtype, superres=False, trusted=self.trusted)
            else:
                self._models = PipelineModels(spec, self.device, self.dtype, self.trusted)
            self._name = name
        assert self._models is not None
        return self._models

    @property
    def weights(self) -> str | None:
        """The SHA-256 of the weights in use; None where there are none, or it is not known."""
        return self._models.info.get("inpainting", {}).get("sha256") if self._models else None


def computing_dtype(device: str | None, dtype: str | None) -> str:
    """In what stage 1 computes on a device, as manifests name it: "bfloat16"."""
    return dtype_name(dtype_policy(dtype, usable_device(device)))


def dtype_name(policy: DTypes) -> str:
    """The name of stage 1's dtype."""
    kind = policy[""] if isinstance(policy, Mapping) else policy
    return str(kind).removeprefix("torch.")


@functools.cache
def model_identity(name: str, trusted: bool = False) -> Mapping[str, Any]:
    """Plain values that identify a pipeline's stage 1, or a checkpoint of the registry, by its files' contents.

    trusted: whether its configs may name classes of other projects. Raises UserError for an unknown name or a
    missing file.
    """
    spec = _single(name)
    if spec is None:
        return identify(name, superres=False, trusted=trusted)
    path = find_checkpoint(spec.inpainting.checkpoint)
    return {
        "config": digest(stage_model(spec.inpainting, trusted).config),
        "checkpoint": checkpoint_sha256(path),
    }


def checkpoint_of(name: str) -> Path:
    """The file of the weights of which `model_identity` has the SHA-256."""
    spec = _single(name) or PipelineSpec.load(name)
    return find_checkpoint(spec.inpainting.checkpoint)


def weights_in(settings: Mapping[str, Any]) -> str | None:
    """The SHA-256 of the weights that made a method's results, by its settings in run.json; None where they
    have no model, or are of a version that did not record it."""
    model = settings.get("model") or {}
    return (model.get("inpainting") or model).get("checkpoint")


def is_inpainting_model(name: str, trusted: bool = False) -> bool:
    """Whether a pipeline's stage 1, or a checkpoint of the registry, is made for inpainting."""
    spec = _single(name) or PipelineSpec.load(name)
    return not is_text_to_image(spec.inpainting, trusted)


def _single(name: str) -> PipelineSpec | None:
    """A checkpoint of the registry as a pipeline of one stage; None where the name is a pipeline's."""
    entry = registry().get(name)
    return PipelineSpec(name, Stage(str(MODELS / entry.config), entry.file)) if entry else None
