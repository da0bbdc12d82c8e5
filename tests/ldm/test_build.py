"""Models from configs: their parameters on the meta device, or one line."""

import copy
import functools
import re

import pytest
from omegaconf import OmegaConf

from ldm.checkpoint import build
from ldm.util import CONFIGS, UserError
from tests.ldm import tiny

PUBLIC = ("sd2-inpainting", "sd2-base", "x4-upscaler", "sd1-inpainting")


@pytest.mark.parametrize("name", [*PUBLIC, "mini-inpainting", "mini-upscaler"])
def test_models_build_without_memory_for_weights_but_with_real_tables(name):
    model = build(OmegaConf.load(CONFIGS / "models" / f"{name}.yaml").model)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert [name for name, buffer in model.named_buffers() if buffer.is_meta] == []
    assert 0 < model.alphas_cumprod[-1] < model.alphas_cumprod[0] < 1


@pytest.mark.parametrize(
    ("params", "unet", "problem"),
    [
        ({"timesteps": 10**9}, {}, "timesteps is 1000000000: a model may have at most 100,000"),
        ({"timesteps": float("inf")}, {}, "timesteps is inf"),
        ({"timesteps": 10**90}, {}, "timesteps is 1000000"),
        ({"timesteps": -1}, {}, r"no ldm\.\S+ can be built with these params \(ValueError: "),
        ({"timesteps": "x"}, {}, "can be built with these params"),
        ({"scale_factor": 1e30}, {}, r"scale_factor is 1e\+30: a model may have at most 1,000,000"),
        ({"scale_factor": float("nan")}, {}, "scale_factor is nan: a model may have at most"),
        ({}, {"model_channels": 10**9}, "model_channels is 1000000000: a model may have at most 1,000,000"),
        ({}, {"num_res_blocks": 10**5}, "num_res_blocks is 100000: a model may have at most 100"),
        ({}, {"num_res_blocks": [2, 10**5]}, "num_res_blocks is 100000"),
        ({}, {"transformer_depth": 10**5}, "transformer_depth is 100000"),
        ({}, {"model_channels": 33}, "can be built with these params"),
        ({}, {"channel_mult": "x"}, "num_res_blocks|can be built with these params"),
        ({"unet_config": 3}, {}, "a config needs a 'target'"),
    ],
)
def test_params_with_which_there_is_no_model_are_one_line(params, unet, problem):
    config = tiny.config("LatentInpaintDiffusion", 9, unet, conditioning_key="hybrid", **params)
    with pytest.raises(UserError) as caught:
        build(config)
    assert re.search(problem, str(caught.value)) and "\n" not in str(caught.value)


def test_no_value_makes_a_line_endless():
    """In the place of each of the parameters of a model, its UNet and its autoencoder."""
    whole = OmegaConf.to_container(OmegaConf.load(CONFIGS / "models" / "mini-inpainting.yaml").model)
    others = {"beta_schedule": "linear", "loss_type": "l2", "layer": "last", "max_length": 77}
    for part in ((), ("unet_config",), ("first_stage_config",), ("cond_stage_config",)):
        names = list(functools.reduce(lambda c, name: c["params"][name], part, whole)["params"])
        for name in [*names, *(others if part != ("unet_config",) else ())]:
            config = copy.deepcopy(whole)
            functools.reduce(lambda c, step: c["params"][step], part, config)["params"][name] = [1] * 1000
            try:
                build(config)
            except UserError as error:
                assert len(str(error)) < 1000 and "\n" not in str(error), name
