"""What the configs of a pipeline's stages tell before torch is imported."""

import subprocess
import sys
from dataclasses import replace

import pytest
import yaml

from hdpainter.configs import read_model_config
from hdpainter.models.registry import MODELS, PipelineSpec, Stage
from hdpainter.models.stages import check_levels
from ldm.checkpoint import build
from ldm.util import CONFIGS, UserError

UPSCALER = {"config": "mini-upscaler.yaml", "checkpoint": "mini/mini-upscaler.safetensors"}


@pytest.mark.parametrize("config", ["mini-inpainting", "sd2-inpainting", "sd15-base", "x4-upscaler"])
def test_levels_told_by_a_config_are_those_of_its_unet(config, tmp_path):
    values = read_model_config(MODELS / f"{config}.yaml")
    unet = build(values["params"]["unet_config"])
    levels = {factor for _, factor, _ in unet.transformer_blocks()}
    spec = PipelineSpec("pipe", Stage(str(MODELS / f"{config}.yaml"), ""), rasg_levels=tuple(levels))
    check_levels(spec, "rasg_levels")
    for level in {1, 2, 4, 8, 16} - levels:
        with pytest.raises(
            UserError, match=f"factor {level}, only at {', '.join(map(str, sorted(levels)))}$"
        ):
            check_levels(replace(spec, rasg_levels=(level,)), "rasg_levels")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"inpainting": UPSCALER}, "mini-upscaler.yaml is not the config of an inpainting model"),
        ({"rasg_levels": [3]}, "rasg_levels: the UNet of"),
    ],
)
def test_what_configs_tell_is_told_without_torch(tmp_path, values, said):
    content = yaml.safe_load((MODELS / "mini.yaml").read_text())["pipeline"] | values
    path = tmp_path / "pipe.yaml"
    path.write_text(yaml.safe_dump({"pipeline": content}))
    code = """if True:
        import sys
        from hdpainter.cli import main
        status = main(["inpaint", "--image", *sys.argv[1:]])
        assert "torch" not in sys.modules
        sys.exit(status)
    """
    photo = CONFIGS / "inference" / "pictures" / "beach.png"
    words = [photo, "--mask", photo.with_name("beach_mask.png"), "--prompt", "a cup", "--model", path]
    found = subprocess.run(
        [sys.executable, "-c", code, *map(str, words), "--out", tmp_path / "out.png"],
        capture_output=True,
        text=True,
    )
    assert (found.returncode, found.stderr.count("\n")) == (2, 1) and said in found.stderr
