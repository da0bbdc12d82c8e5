"""Every key and shape of the public checkpoints, from our configurations."""

import gzip
import json

import pytest
import torch
from omegaconf import OmegaConf

from ldm.util import CONFIGS, instantiate_from_config
from tests.support import GOLDEN


@pytest.mark.parametrize("name", ["sd2-inpainting", "sd2-base", "x4-upscaler", "sd1-inpainting"])
def test_full_size_model_has_the_layout_of_its_public_checkpoint(name):
    config = OmegaConf.load(CONFIGS / "models" / f"{name}.yaml")
    with torch.device("meta"):
        model = instantiate_from_config(config.model)
    shapes = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    assert shapes == json.loads(gzip.decompress((GOLDEN / "state_dicts" / f"{name}.json.gz").read_bytes()))
