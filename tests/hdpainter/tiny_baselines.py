"""Pipelines of GLIDE and NUWA-LIP small enough to run whole in a test, with random weights."""

from pathlib import Path

import yaml

from hdpainter.models.random_weights import write_random_checkpoint
from tests.hdpainter.glide import tiny as glide
from tests.hdpainter.nuwa_lip import tiny as nuwa_lip

GLIDE = "hdpainter.baselines.glide.network.GlideUNet"
NUWA_LIP = "hdpainter.baselines.nuwa_lip.mps2s.MPS2S"


def write_pipelines(folder: Path, upscaler: dict[str, str] | None = None) -> dict[str, Path]:
    """The YAML file of each by its kind; their configs and checkpoints lie beside them in `folder`.

    GLIDE's squares are of 32 px, NUWA-LIP's of 64. upscaler: the config and checkpoint of a stage 2.
    """

    def stage(name: str, target: str, params: dict) -> dict[str, str]:
        config = folder / f"tiny-{name}.yaml"
        config.write_text(yaml.safe_dump({"model": {"target": target, "params": params}}))
        write_random_checkpoint(config, folder / f"tiny-{name}.safetensors")
        return {"config": config.name, "checkpoint": f"tiny-{name}.safetensors"}

    pipelines = {
        "glide": {
            "inpainting": stage("base", GLIDE, glide.config("base")),
            "upsampler": stage("upsample", GLIDE, glide.config("upsample")),
        },
        "nuwa-lip": {"inpainting": stage("nuwa", NUWA_LIP, nuwa_lip.reading_config())},
    }
    paths = {}
    for kind, stages in pipelines.items():
        content = {"kind": kind, **stages, "size": 32, "multiple": 16, "max_size": 128, "method": kind}
        paths[kind] = folder / f"tiny-{kind}-pipeline.yaml"
        paths[kind].write_text(
            yaml.safe_dump({"pipeline": content | ({"upscaler": upscaler} if upscaler else {})})
        )
    return paths
