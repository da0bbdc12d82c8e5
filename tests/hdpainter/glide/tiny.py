"""The networks of the golden cases, small enough for a test."""

from functools import cache

from hdpainter.baselines.glide.network import GlideUNet
from tests.support import golden, rule_w

_LISTS = ("channel_mult", "attention_resolutions")
_NUMBERS = (
    "image_size",
    "num_channels",
    "num_res_blocks",
    "num_head_channels",
    "text_ctx",
    "xf_width",
    "xf_layers",
    "xf_heads",
    "super_res",
)


def config(stage: str) -> dict:
    """The parameters of `base` or `upsample`."""
    given = golden(f"glide_{stage}_inpaint_forward")[0]["config"]
    lists = {name: [int(number) for number in given[name].split(",")] for name in _LISTS}
    return {name: given[name] for name in _NUMBERS} | lists


@cache
def network(stage: str) -> GlideUNet:
    return rule_w(GlideUNet(**config(stage)))
