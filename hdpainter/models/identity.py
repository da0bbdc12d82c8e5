"""What a model is, as plain values that go into the records of its pictures."""

import dataclasses
from typing import Any

from hdpainter.files import digest
from hdpainter.models.diffusers_folder import weights_files
from hdpainter.models.hashes import checkpoint_sha256, joint_sha256
from hdpainter.models.lora import stage_loras
from hdpainter.models.recognise import is_text_to_image, stage_model
from hdpainter.models.registry import PipelineSpec, find_checkpoint


def identify(model: str | PipelineSpec, superres: bool = True, trusted: bool = False) -> dict[str, Any]:
    """Plain values that identify a model before it is loaded: its settings and the hashes of its files.

    superres: whether the upscaler is wanted; if not, its checkpoint need not be there.
    trusted: whether the models' configs may name classes of other projects.
    Raises UserError for an unknown model, a missing checkpoint or a config that names what it may not.
    """
    spec = PipelineSpec.load(model)
    identity = dataclasses.asdict(spec)
    del identity["method"]  # no property of the networks
    del identity["crop_margin"]  # the upscaler's: see below
    del identity["knows"]
    if spec.kind == "ldm":  # as it was before there were others
        del identity["kind"], identity["upsampler"]
    for name, stage in spec.stages.items():
        if name == "upscaler" and not superres:
            identity[name] = None
            continue
        path = find_checkpoint(stage.checkpoint, spec.name)
        identity[name] = {
            "config": digest(stage_model(stage, trusted).config),
            "checkpoint": joint_sha256(map(checkpoint_sha256, weights_files(path))),
        }
        if stage.ema:
            identity[name]["ema"] = True
        if stage.loras:
            identity[name]["loras"] = [
                {"sha256": checkpoint_sha256(lora.path), "scale": lora.scale} for lora in stage_loras(stage)
            ]
        if name == "upscaler" and spec.crop_margin is not None:
            identity[name]["crop_margin"] = spec.crop_margin
    if is_text_to_image(spec.inpainting, trusted):
        identity["text_to_image"] = True
    return identity
