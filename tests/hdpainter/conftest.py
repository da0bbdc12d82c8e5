"""A pipeline small enough to run whole in a test: the miniature's layout, fewer levels, random weights."""

import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from hdpainter.models.random_weights import write_random_checkpoint
from hdpainter.pipeline import HDPainter
from ldm.util import CONFIGS
from tests.hdpainter.tiny_baselines import write_pipelines

TINY_PIPELINE = """
pipeline:
  inpainting: {config: tiny-inpainting.yaml, checkpoint: tiny-inpainting.safetensors}
  upscaler: {config: tiny-upscaler.yaml, checkpoint: tiny-upscaler.safetensors}
  size: 64
  multiple: 16
  max_size: 256
  painta_levels: [1, 2]
  rasg_levels: [2]
  knows: [car, "ice <cream>"]
"""


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory) -> Path:
    """The YAML file of the tiny pipeline; its configs and checkpoints lie beside it."""
    folder = tmp_path_factory.mktemp("tiny")
    for name in ("inpainting", "upscaler"):
        config = OmegaConf.load(CONFIGS / "models" / f"mini-{name}.yaml")
        unet = config.model.params.unet_config.params
        unet.update(
            model_channels=32, channel_mult=[1, 2], attention_resolutions=[1, 2], num_head_channels=16
        )
        if name == "upscaler":  # as in x4-upscaler, the larger levels have no attention
            unet.update(model_channels=16, channel_mult=[1, 1, 2], attention_resolutions=[4])
            unet.disable_self_attentions = [True, True, False]
        config.model.params.first_stage_config.params.ddconfig.update(ch=8)
        OmegaConf.save(config, folder / f"tiny-{name}.yaml")
        write_random_checkpoint(folder / f"tiny-{name}.yaml", folder / f"tiny-{name}.safetensors")
    path = folder / "tiny.yaml"
    path.write_text(TINY_PIPELINE, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_text_to_image(tiny_pipeline) -> Path:
    """The YAML file of a pipeline whose stage 1 is a text-to-image model, beside the tiny one's."""
    folder = tiny_pipeline.parent
    config = OmegaConf.load(folder / "tiny-inpainting.yaml")
    config.model.target = "ldm.models.diffusion.ddpm.LatentDiffusion"
    config.model.params.conditioning_key = "crossattn"
    del config.model.params.finetune_keys
    config.model.params.unet_config.params.in_channels = 4
    OmegaConf.save(config, folder / "tiny-text.yaml")
    write_random_checkpoint(folder / "tiny-text.yaml", folder / "tiny-text.safetensors")
    path = folder / "tiny-base.yaml"
    content = TINY_PIPELINE.replace("tiny-inpainting", "tiny-text") + "  method: bld-hd-painter\n"
    path.write_text(content, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def painter(tiny_pipeline) -> HDPainter:
    return HDPainter.from_config(tiny_pipeline, device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def photo():
    """photo(width, height, seed) -> an RGB picture with structure and a mask of two shapes."""

    def make(width: int, height: int, seed: int = 0) -> tuple[Image.Image, Image.Image]:
        rng = np.random.default_rng(seed)
        coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
        picture = coarse.resize((width, height), Image.Resampling.BICUBIC)
        mask = np.zeros((height, width), np.uint8)
        mask[height // 4 : height * 3 // 4, width // 3 : width * 2 // 3] = 255
        mask[: max(height // 6, 1), : max(width // 6, 1)] = 255
        return picture, Image.fromarray(mask)

    return make


@pytest.fixture(scope="session")
def tiny_baselines(tiny_pipeline, tmp_path_factory) -> dict[str, Path]:
    """The YAML files of the tiny pipelines of kind glide and nuwa-lip, with the tiny pipeline's stage 2."""
    upscaler = {
        "config": str(tiny_pipeline.parent / "tiny-upscaler.yaml"),
        "checkpoint": str(tiny_pipeline.parent / "tiny-upscaler.safetensors"),
    }
    return write_pipelines(tmp_path_factory.mktemp("baselines"), upscaler)


@pytest.fixture
def script(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs a program of scripts/, by its name and with these words: its exit code, its output, its errors."""

    def run(name: str, *words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", [name, *map(str, words)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(CONFIGS.parent / "scripts" / name), run_name="__main__")
        return end.value.code, *capsys.readouterr()

    return run
